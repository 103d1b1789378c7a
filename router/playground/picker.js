// Which model answers, and which version of it.

import { ApiError, getKey, health, metrics, models } from "./api.js";
import { byId, h } from "./dom.js";
import { parse, split } from "./prometheus.js";

/** A server that is starting is asked again so soon. */
const RETRY_MS = 2000;

/**
 * The versions that a request can name instead of `name`: `[{ version, share }]`. Those that get a part
 * of what `name` is asked for come first, then others of the same models that a worker has loaded.
 * Empty where no launcher gives names to versions.
 */
export function versions(name, parts, workers) {
  const served = parts.filter((part) => part.name === name);
  const model = (version) => version.slice(0, version.lastIndexOf("@"));
  const known = new Set(served.map(({ version }) => version));
  const kept = new Set(served.map(({ version }) => model(version)));
  const loaded = workers.map(({ version }) => version).filter((version) => version && !known.has(version) && kept.has(model(version)));
  return [...served, ...[...new Set(loaded)].sort().map((version) => ({ version, share: 0 }))]
    .map(({ version, share }) => ({ version, share }));
}

/** The two fields; `needKey(reason)` when the server's models can't be had without a key. */
export class Picker {
  #model = byId("model");
  #version = byId("version");

  constructor(settings, needKey) {
    this.settings = settings;
    this.needKey = needKey;
    this.#model.addEventListener("change", () => {
      settings.set("model", this.#model.value);
      settings.set("version", "");
      this.#loadVersions();
    });
    this.#version.addEventListener("change", () => settings.set("version", this.#version.value));
    this.#model.addEventListener("focus", () => this.load());
    this.#version.addEventListener("focus", () => this.#loadVersions());
  }

  /** What a request names: the version that was chosen, or the model. */
  get value() {
    return this.#version.value || this.#model.value;
  }

  /** Asks what there is, again and again until there is something. */
  async load() {
    try {
      const names = (await models()).map(({ id }) => id);
      const wanted = this.#model.value || this.settings.values.model;
      this.#model.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
      if (names.includes(wanted)) this.#model.value = wanted;
      if (names.length === 0) setTimeout(() => this.load(), RETRY_MS);
      else await this.#loadVersions();
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) this.needKey(getKey() ? error.message : undefined);
      else setTimeout(() => this.load(), RETRY_MS);
    }
  }

  async #loadVersions() {
    const name = this.#model.value;
    const found = await this.#versionsOf(name);
    if (name !== this.#model.value) return;
    const wanted = this.settings.values.version ?? "";
    this.#version.replaceChildren(h("option", { value: "" }, "as served"), ...found.map(({ version, share }) => {
      const part = share > 0 && share < 1 ? ` (${Number((100 * share).toFixed(2))} %)` : "";
      return h("option", { value: version }, version + part);
    }));
    // One that is gone is not asked for any more.
    this.#version.value = found.some(({ version }) => version === wanted) ? wanted : "";
    this.#version.closest("label").hidden = found.length === 0;
  }

  async #versionsOf(name) {
    try {
      const [text, { workers }] = await Promise.all([metrics(), health()]);
      return versions(name, split(parse(text)), workers);
    } catch {
      // The model can be asked all the same.
      return [];
    }
  }
}
