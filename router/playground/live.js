// The server as it is now: what runs and waits, how full the cache is, how fast tokens come. Made
// of `/metrics` and `/health`, once a second while it is looked at.

import { ApiError, health, metrics } from "./api.js";
import { h } from "./dom.js";
import { parse, quantile, split, sum } from "./prometheus.js";

const EVERY_MS = 1000;
const KEPT = 120;
const SVG = "http://www.w3.org/2000/svg";

const of = (name) => (now) => sum(now, name) ?? 0;
const rate = (name) => (now, before, seconds) => Math.max(0, ((sum(now, name) ?? 0) - (sum(before, name) ?? 0)) / seconds);
const ms = (q) => (now, before) => {
  const seconds = quantile(before, now, "sconce_time_to_first_token_seconds", q);
  return seconds === undefined ? undefined : seconds * 1000;
};

/** What is drawn: from the scrape now and the one before. */
const CHARTS = [
  { title: "Tokens generated per second", value: rate("sconce_generation_tokens_total") },
  { title: "Prompt tokens per second", value: rate("sconce_prompt_tokens_total") },
  { title: "Running", value: of("sconce_num_requests_running") },
  { title: "Waiting", value: of("sconce_num_requests_waiting") },
  { title: "KV cache", unit: "%", value: (now) => 100 * mean(now, "sconce_kv_cache_usage_perc") },
  { title: "First token, median", unit: "ms", value: ms(0.5) },
  { title: "First token, 95 %", unit: "ms", value: ms(0.95) },
  { title: "Open streams", value: of("sconce_open_streams") },
];

function mean(samples, name) {
  const found = samples.filter((sample) => sample.name === name);
  return found.length ? found.reduce((total, { value }) => total + value, 0) / found.length : 0;
}

/** The view; `needKey(reason)` when the metrics can't be had without one. */
export class Live {
  #charts = CHARTS.map((chart) => new Chart(chart));
  #names = h("tbody");
  #split;
  #workers = h("tbody");
  #models = h("tbody");
  #note = h("p.status", { role: "status" });
  #timer = null;
  #last = null;

  constructor(element, needKey) {
    this.needKey = needKey;
    const head = (...names) => h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name))));
    this.#split = h("section", { hidden: true },
      h("h2", {}, "Names"), h("table", {}, head("Name", "Version", "Requests", "Copies"), this.#names));
    element.append(
      h("h2", {}, "Now"), this.#note,
      h("div.charts", {}, ...this.#charts.map(({ element }) => element)),
      this.#split,
      h("h2", {}, "Workers"), h("table", {}, head("Model", "Version", "State"), this.#workers),
      h("h2", {}, "Models"), h("table", {}, head("Model", "Version", "Running", "Waiting", "Completions", "Tokens generated"), this.#models));
  }

  /** Watches, or stops watching. */
  watch(on) {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#last = null;
    if (on) this.#look();
  }

  async #look() {
    const turn = (this.#timer = setTimeout(() => this.#look(), EVERY_MS));
    try {
      const [text, { workers }] = await Promise.all([metrics(), health()]);
      if (turn !== this.#timer) return;
      this.#show(parse(text), workers, performance.now());
      this.#note.textContent = "";
    } catch (error) {
      this.#note.textContent = `The server does not tell: ${error.message}`;
      if (error instanceof ApiError && error.status === 401) {
        this.watch(false);
        this.needKey(error.message);
      }
    }
  }

  #show(samples, workers, at) {
    if (this.#last) {
      const seconds = (at - this.#last.at) / 1000;
      for (const chart of this.#charts) chart.push(samples, this.#last.samples, seconds);
    }
    this.#last = { samples, at };
    const parts = split(samples);
    this.#split.hidden = parts.length === 0;
    this.#names.replaceChildren(...parts.map(({ name, version, share, shadow }) => row(name, version, part(share), part(shadow))));
    this.#workers.replaceChildren(...workers.map(({ model, version, state }) => row(model ?? "–", version ?? "–", state)));
    this.#models.replaceChildren(...modelRows(samples));
  }
}

function modelRows(samples) {
  const versions = new Map();
  for (const { labels } of samples) {
    if (labels.model_name) versions.set(`${labels.model_name} ${labels.version}`, labels);
  }
  return [...versions.values()].map((labels) => {
    const version = labels.version;
    const same = (other) => other.model_name === labels.model_name && other.version === version;
    const total = (name) => Math.round(sum(samples, name, same) ?? 0).toLocaleString();
    return row(labels.model_name, version ?? "–", total("sconce_num_requests_running"), total("sconce_num_requests_waiting"),
      total("sconce_request_success_total"), total("sconce_generation_tokens_total"));
  });
}

/** A part of all requests, in words and as a bar. */
function part(share) {
  if (share === 0) return "–";
  const percent = `${Number((100 * share).toFixed(2))} %`;
  return h("span.part", {}, h("meter", { min: 0, max: 1, value: share, "aria-label": percent }), percent);
}

const row = (...cells) => h("tr", {}, ...cells.map((cell) => h("td", {}, cell)));

/** A number and how it went. */
class Chart {
  #values = [];
  #number = h("p.number", {}, "–");
  #line = document.createElementNS(SVG, "polyline");

  constructor({ title, unit, value }) {
    this.value = value;
    this.unit = unit ?? "";
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${KEPT} 40`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.append(this.#line);
    this.element = h("section.chart", { "aria-label": title }, h("h3", {}, title), this.#number, svg);
  }

  push(now, before, seconds) {
    this.#values.push(this.value(now, before, seconds));
    if (this.#values.length > KEPT) this.#values.shift();
    const last = this.#values.at(-1);
    this.#number.textContent = last === undefined ? "–" : `${last.toFixed(last < 10 && last % 1 ? 1 : 0)} ${this.unit}`;
    const most = Math.max(1e-9, ...this.#values.filter((value) => value !== undefined));
    const first = KEPT - this.#values.length;
    const points = this.#values.map((value, i) => value === undefined ? "" : `${first + i},${39 - (38 * value) / most}`);
    this.#line.setAttribute("points", points.join(" "));
  }
}
