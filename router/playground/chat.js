// The conversation that is shown: sends messages, takes answers in, keeps the branches.

import { ApiError, chat } from "./api.js";
import { byId, h } from "./dom.js";
import { MessageView } from "./message.js";
import { Answer, SettingError, toBody } from "./request.js";
import * as storage from "./storage.js";
import * as tree from "./tree.js";

/** Answers are shown anew no more often. */
const FRAME_MS = 40;

/** `hooks`: `model()`, `needKey(reason)`, `changed()` after the list of conversations may differ. */
export class Chat {
  #messages = byId("messages");
  #status = byId("status");
  #text = byId("composer-text");
  #views = [];
  #running = null;

  constructor(settings, hooks) {
    this.settings = settings;
    this.hooks = hooks;
    this.tree = tree.conversation();
    byId("composer").addEventListener("submit", (event) => (event.preventDefault(), this.#submit()));
    byId("stop").addEventListener("click", () => this.stop());
    this.#text.addEventListener("keydown", (event) => this.#key(event));
    this.#text.addEventListener("input", () => this.#grow());
    this.show(this.tree);
  }

  /** Shows another conversation; an answer that is being made is stopped. */
  show(conversation) {
    this.stop();
    this.tree = conversation;
    this.#draw();
    this.#text.focus();
  }

  stop() {
    this.#running?.abort();
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#submit();
    } else if (event.key === "ArrowUp" && this.#text.value === "") {
      const last = this.#views.findLast(({ node }) => node.message.role === "user");
      if (last) (event.preventDefault(), last.edit());
    }
  }

  #grow() {
    this.#text.style.height = "auto";
    this.#text.style.height = `${Math.min(this.#text.scrollHeight + 2, innerHeight * 0.4)}px`;
  }

  #submit() {
    const content = this.#text.value;
    if (content.trim() === "" || this.#running) return;
    this.#text.value = "";
    this.#grow();
    tree.add(this.tree, this.tree.leaf, { role: "user", content });
    this.#named();
    this.#answer();
  }

  #named() {
    this.tree.title = tree.titleOf(this.tree);
    this.#keep();
  }

  async #keep() {
    if (!(await storage.save(this.tree))) this.#say("This browser keeps nothing: export what you want to keep.");
    this.hooks.changed();
  }

  /** Asks the model for what follows the leaf. */
  async #answer() {
    const model = this.hooks.model();
    const parent = this.tree.leaf;
    let body;
    try {
      if (!model) throw new Error("No model is served yet.");
      body = toBody(this.settings.values, model, tree.toMessages(this.tree, parent, this.settings.values.system));
    } catch (error) {
      if (error instanceof SettingError) this.hooks.complain(error.field, error.message);
      this.#draw();
      return this.#say(error.message);
    }
    const conversation = this.tree;
    const node = tree.add(conversation, parent, { role: "assistant", content: "" });
    const answer = new Answer(performance.now());
    node.message = answer.message;
    node.meta = answer.meta;
    node.scores = answer.scores;
    this.#draw();
    await this.#stream(body, answer);
    await storage.save(conversation);
    this.hooks.changed();
    return undefined;
  }

  async #stream(body, answer) {
    const view = this.#views.at(-1);
    const abort = new AbortController();
    this.#busy(abort);
    const tick = setInterval(() => this.#show(view, answer), FRAME_MS);
    try {
      const headers = await chat(body, abort.signal, (chunk) => answer.take(chunk, performance.now()));
      const version = headers.get("x-sconce-version");
      if (version) answer.meta.version = version;
      this.#say(answer.meta.finish === "length" ? "Answer cut at the limit of tokens." : "Answer complete.");
    } catch (error) {
      if (abort.signal.aborted) answer.meta.finish = "stopped";
      else answer.meta.error = error.message;
      this.#say(abort.signal.aborted ? "Stopped." : `The answer failed: ${error.message}`);
      if (error instanceof ApiError && error.status === 401) this.hooks.needKey(error.message);
    } finally {
      clearInterval(tick);
      this.#busy(null);
      delete answer.meta.chunks;
      this.#show(view);
    }
  }

  #busy(abort) {
    this.#running = abort;
    byId("send").hidden = abort !== null;
    byId("stop").hidden = abort === null;
  }

  #show(view, answer) {
    const atEnd = this.#messages.scrollHeight - this.#messages.scrollTop - this.#messages.clientHeight < 80;
    view.update(answer);
    if (atEnd) this.#messages.scrollTop = this.#messages.scrollHeight;
  }

  #say(text) {
    this.#status.textContent = text;
  }

  #draw() {
    const giveBack = this.#holdFocus();
    this.#views = tree.path(this.tree).map((node) => {
      const branches = tree.siblings(this.tree, node);
      return new MessageView(node, this.#actions(node, branches), { at: branches.indexOf(node), of: branches.length });
    });
    const welcome = h("p.welcome", {}, "Ask the model something. Conversations stay in this browser.");
    this.#messages.replaceChildren(...(this.#views.length ? this.#views.map(({ element }) => element) : [welcome]));
    this.#messages.scrollTop = this.#messages.scrollHeight;
    giveBack();
  }

  /** Remembers which button of which message has the focus, for who uses no mouse; what it returns gives it back. */
  #holdFocus() {
    const name = (element) => element.getAttribute("aria-label") ?? element.textContent;
    const held = document.activeElement;
    const at = this.#views.findIndex(({ element }) => element.contains(held));
    if (at < 0) return () => {};
    return () => {
      const buttons = [...(this.#views[at]?.element.querySelectorAll("button:enabled") ?? [])];
      const same = buttons.find((button) => name(button) === name(held));
      // There is none at the end of the branches, but one back.
      (same ?? buttons.find((button) => button.closest(".branches")) ?? this.#text).focus();
    };
  }

  #actions(node, branches) {
    const idle = (action) => (...args) => this.#running || action(...args);
    return {
      edit: idle((content) => this.#edit(node, content)),
      again: idle(() => ((this.tree.leaf = node.parent), this.#answer())),
      remove: idle(() => (tree.remove(this.tree, node), this.#draw(), this.#keep())),
      branch: idle((step) => (tree.select(this.tree, branches[branches.indexOf(node) + step]), this.#draw(), this.#keep())),
      answer: idle((call, content) => this.#giveResult(node, call, content)),
      isAnswered: (call) => this.#results(node).has(call.id),
    };
  }

  /** An edited message is a branch of its own; one of the user's is answered. */
  #edit(node, content) {
    const message = { ...node.message, content };
    tree.add(this.tree, node.parent, message);
    if (node.parent === null) this.#named();
    if (message.role === "user") this.#answer();
    else (this.#draw(), this.#keep());
  }

  /** Results on the shown branch that follow `node`, by call. */
  #results(node) {
    const shown = tree.path(this.tree);
    const after = shown.slice(shown.indexOf(node) + 1).map(({ message }) => message);
    return new Set(after.filter(({ role }) => role === "tool").map(({ tool_call_id }) => tool_call_id));
  }

  /** The model goes on once each of its calls has a result. */
  #giveResult(node, call, content) {
    tree.add(this.tree, this.tree.leaf, { role: "tool", content, tool_call_id: call.id });
    const results = this.#results(node);
    if (node.message.tool_calls.every(({ id }) => results.has(id))) this.#answer();
    else (this.#draw(), this.#keep());
  }
}
