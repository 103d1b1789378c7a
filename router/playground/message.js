// One message on the page: its text, thoughts, calls of tools, what can be done with it.

import { h } from "./dom.js";
import { heatmap } from "./heatmap.js";
import { MarkdownView } from "./markdown.js";

const ROLE = { user: "You", assistant: "Model", tool: "Tool" };

/**
 * Shows a node of the tree. `actions`: `edit`, `again`, `remove`, `branch(step)`, `answer(call,
 * text)`; `place`: which of how many branches this is.
 */
export class MessageView {
  #body = h("div.text");
  #thoughts = h("div.text");
  #calls = h("div.calls");
  #meta = h("p.meta");
  #scores = h("div");
  #editButton;

  constructor(node, actions, place) {
    this.node = node;
    this.actions = actions;
    this.#thinking = h("details.thoughts", { hidden: true }, h("summary", {}, "Thoughts"), this.#thoughts);
    this.element = h(`article.message.${node.message.role}`, { "aria-label": ROLE[node.message.role] },
      h("header", {}, h("b", {}, ROLE[node.message.role]), this.#branches(place)),
      this.#thinking, this.#body, this.#calls, this.#scores, this.#meta, this.#buttons());
    this.markdown = new MarkdownView(this.#body);
    this.thoughts = new MarkdownView(this.#thoughts);
    this.update();
  }

  #thinking;

  /** Shows what the node holds now. `answer` while it is being made. */
  update(answer) {
    const { message, meta, scores } = this.node;
    if (message.role === "assistant") this.markdown.show(message.content);
    else this.#body.textContent = message.content;
    if (message.reasoning_content) {
      this.#thinking.hidden = false;
      this.thoughts.show(message.reasoning_content);
      if (answer) this.#thinking.open = message.content === "";
    }
    this.#showCalls(message.tool_calls ?? [], answer !== undefined);
    this.#meta.replaceChildren(...describe(meta, answer));
    this.#meta.classList.toggle("failed", Boolean(meta.error));
    this.#scores.replaceChildren(...(scores?.length && !answer ? [heatmap(scores)] : []));
    this.element.classList.toggle("growing", answer !== undefined);
  }

  #showCalls(calls, growing) {
    if (calls.length === 0) return;
    this.#calls.replaceChildren(...calls.map((call) => {
      const field = h("textarea", { rows: "2", "aria-label": `Result of ${call.function.name}`, placeholder: "What the tool answers" });
      const send = h("button", { type: "button", onclick: () => this.actions.answer(call, field.value) }, "Give the result");
      return h("div.call", {}, h("p", {}, "calls ", h("code", {}, call.function.name)), h("pre", { tabindex: "0" }, call.function.arguments),
        ...(growing || this.actions.isAnswered(call) ? [] : [field, send]));
    }));
  }

  #branches(place) {
    if (place.of < 2) return undefined;
    const step = (by, label, sign) => h("button.icon", { type: "button", "aria-label": label, disabled: place.at + by < 0 || place.at + by >= place.of, onclick: () => this.actions.branch(by) }, sign);
    return h("span.branches", {}, step(-1, "Previous branch", "‹"), ` ${place.at + 1}/${place.of} `, step(1, "Next branch", "›"));
  }

  #buttons() {
    const button = (label, action) => h("button.quiet", { type: "button", onclick: action }, label);
    const { role } = this.node.message;
    const copy = button("Copy", () => navigator.clipboard.writeText(this.node.message.content));
    const own = role === "assistant" ? [button("Again", this.actions.again)] : [];
    this.#editButton = button("Edit", () => this.#edit());
    return h("footer", {}, copy, ...own, this.#editButton, button("Delete", this.actions.remove));
  }

  /** Turns the text into a field. */
  #edit() {
    const before = this.node.message.content;
    const field = h("textarea.edit", { rows: String(Math.min(20, before.split("\n").length + 1)), "aria-label": "Edited message" });
    field.value = before;
    const end = () => (form.remove(), this.#body.hidden = false, this.#editButton.focus());
    const form = h("form.edit", { onsubmit: (event) => (event.preventDefault(), end(), this.actions.edit(field.value)) }, field,
      h("div.row", {}, h("button", { type: "button", onclick: end }, "Cancel"), h("button.primary", {}, this.node.message.role === "user" ? "Send" : "Save")));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") (event.stopPropagation(), end());
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), form.requestSubmit());
    });
    this.#body.hidden = true;
    this.#body.after(form);
    field.focus();
  }

  edit() {
    this.#edit();
  }
}

function describe(meta, answer) {
  if (meta.error) return [meta.error];
  const parts = [];
  if (answer?.progress && meta.ttft_ms === undefined) {
    const { processed, total } = answer.progress;
    if (total) parts.push(`reading ${Math.floor((100 * processed) / total)} % of ${total} tokens`);
  }
  if (meta.ttft_ms !== undefined) parts.push(`first token ${Math.round(meta.ttft_ms)} ms`);
  if (meta.rate !== undefined) parts.push(`${meta.rate.toFixed(1)} tokens/s`);
  if (meta.tokens !== undefined) parts.push(`${meta.prompt_tokens} + ${meta.tokens} tokens`);
  if (meta.finish === "length") parts.push("cut: the limit of tokens was reached");
  if (meta.finish === "stopped") parts.push("stopped");
  if (meta.version) parts.push(meta.version);
  else if (meta.model) parts.push(meta.model);
  return [parts.join(" · ")];
}
