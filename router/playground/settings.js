// The panel beside the conversation: system prompt, sampling, tools, a schema of the answer.

import { h } from "./dom.js";
import { NUMBERS } from "./request.js";
import { saveSettings, settings as stored } from "./storage.js";

const TOOL_EXAMPLE = `[{"type": "function", "function": {
  "name": "get_weather",
  "description": "The weather in a city",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]`;
const SCHEMA_EXAMPLE = `{"type": "object",
  "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
  "required": ["name", "age"], "additionalProperties": false}`;

/** Fills the panel; `settings` is what it was set to, kept by the browser. */
export class Settings {
  values = stored();
  #fields = {};

  constructor(panel) {
    const parts = { Prompt: this.#prompt(), Sampling: this.#sampling(), Tools: this.#tools(), Schema: this.#schema() };
    const tabs = h("div.tabs", { role: "tablist", "aria-label": "Settings" });
    const panes = Object.entries(parts).map(([name, children], index) => {
      const id = `settings-${name.toLowerCase()}`;
      const pane = h("div", { role: "tabpanel", id, "aria-labelledby": `${id}-tab`, hidden: index > 0 }, ...children);
      tabs.append(h("button", { role: "tab", id: `${id}-tab`, "aria-controls": id, "aria-selected": String(index === 0), tabindex: index ? "-1" : "0" }, name));
      return pane;
    });
    panel.append(tabs, ...panes);
  }

  /** Shows the field that is wrong. */
  complain(field, message) {
    const input = this.#fields[field];
    if (!input) return;
    const pane = input.closest("[role=tabpanel]");
    document.getElementById(pane.getAttribute("aria-labelledby")).click();
    input.setCustomValidity(message);
    input.reportValidity();
    input.addEventListener("input", () => input.setCustomValidity(""), { once: true });
  }

  set(name, value) {
    this.values[name] = value;
    saveSettings(this.values);
  }

  #field(name, input) {
    this.#fields[name] = input;
    const property = input.type === "checkbox" ? "checked" : "value";
    input[property] = this.values[name] ?? input[property];
    input.addEventListener("input", () => this.set(name, input[property]));
    return input;
  }

  #labelled(name, label, input, hint) {
    return h("label.field", {}, h("span.label", {}, label), this.#field(name, input), hint && h("span.hint", {}, hint));
  }

  #text(name, label, rows, placeholder, hint) {
    const input = h("textarea", { rows: String(rows), spellcheck: "false", placeholder });
    return this.#labelled(name, label, input, hint);
  }

  #prompt() {
    return [
      this.#text("system", "System prompt", 8, "You are a helpful assistant."),
      this.#text("stop", "Stop at", 2, "One text a line", "\\n stands for a line break"),
    ];
  }

  #sampling() {
    const numbers = NUMBERS.map(({ name, label, min, max, step, hint }) => {
      const limits = { min: min?.toString(), max: max?.toString(), step: step.toString() };
      return this.#labelled(name, label, h("input", { type: "number", inputmode: "decimal", placeholder: "default", ...limits }), hint);
    });
    const scores = h("label.check", {}, this.#field("logprobs", h("input", { type: "checkbox" })), " Heat map of likelihoods");
    return [...numbers, scores];
  }

  #tools() {
    const choice = h("select", {}, ...[["", "default"], ["auto", "auto"], ["required", "required"], ["none", "none"]]
      .map(([value, label]) => h("option", { value }, label)));
    return [
      this.#text("tools", "Tools, as the API takes them", 14, TOOL_EXAMPLE),
      this.#example("tools", TOOL_EXAMPLE),
      this.#labelled("tool_choice", "Tool choice", choice),
    ];
  }

  #schema() {
    return [
      this.#text("schema", "JSON Schema of the answer", 14, SCHEMA_EXAMPLE, "Empty: the answer is free"),
      this.#example("schema", SCHEMA_EXAMPLE),
    ];
  }

  #example(name, text) {
    const insert = () => {
      const input = this.#fields[name];
      input.value = text;
      input.dispatchEvent(new Event("input"));
    };
    return h("button", { type: "button", onclick: insert }, "Take the example");
  }
}
