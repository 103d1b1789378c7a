// What the settings make of a request. Pure. An empty field is not sent: the server's default holds.

/** Fields with a number, as the request names them. */
export const NUMBERS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.1, hint: "0 always takes the likeliest token" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.05 },
  { name: "top_k", label: "Top k", min: 0, step: 1, whole: true },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01 },
  { name: "max_completion_tokens", label: "Most tokens", min: 1, step: 1, whole: true },
  { name: "seed", label: "Seed", step: 1, whole: true },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1 },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1 },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0, step: 0.05 },
];

/** Alternatives that the heat map shows of each token. */
const NUM_ALTERNATIVES = 5;

/** Why a request can't be made; `field` is the setting. */
export class SettingError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** The body of a request for a streamed answer to `messages`. */
export function toBody(settings, model, messages) {
  const body = {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true, include_progress: true },
    include_timings: true,
  };
  for (const { name, label, whole } of NUMBERS) {
    const text = String(settings[name] ?? "").trim();
    if (text === "") continue;
    const value = Number(text);
    if (!Number.isFinite(value) || (whole && !Number.isInteger(value))) {
      throw new SettingError(name, `${label} is not a ${whole ? "whole " : ""}number`);
    }
    body[name] = value;
  }
  const stop = (settings.stop ?? "").split("\n").filter((line) => line !== "");
  if (stop.length) body.stop = stop.map((line) => line.replaceAll("\\n", "\n"));
  if (settings.logprobs) Object.assign(body, { logprobs: true, top_logprobs: NUM_ALTERNATIVES });
  const tools = json(settings, "tools", "Tools");
  if (tools !== undefined) {
    if (!Array.isArray(tools)) throw new SettingError("tools", "Tools are a list");
    if (tools.length) body.tools = tools;
    if (tools.length && settings.tool_choice) body.tool_choice = settings.tool_choice;
  }
  const schema = json(settings, "schema", "The schema");
  if (schema !== undefined) {
    body.response_format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
  }
  return body;
}

function json(settings, field, label) {
  const text = (settings[field] ?? "").trim();
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SettingError(field, `${label}: ${error.message}`);
  }
}

/** Collects the chunks of one answer into a message, and what is to be told of it. */
export class Answer {
  message = { role: "assistant", content: "" };
  meta = {};
  scores = [];
  progress = undefined;
  #sent;
  #first;

  constructor(now) {
    this.#sent = now;
  }

  /** Milliseconds since the first token; tokens so far, as far as chunks tell. */
  take(chunk, now) {
    if (chunk.model) this.meta.model = chunk.model;
    if (chunk.prompt_progress) this.progress = chunk.prompt_progress;
    if (chunk.usage) {
      this.meta.tokens = chunk.usage.completion_tokens;
      this.meta.prompt_tokens = chunk.usage.prompt_tokens;
      this.#rate(now);
    }
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const { content, reasoning_content, tool_calls } = choice.delta ?? {};
    if (content || reasoning_content || tool_calls) {
      this.#first ??= now;
      this.meta.ttft_ms ??= now - this.#sent;
      this.meta.chunks = (this.meta.chunks ?? 0) + 1;
      this.#rate(now);
    }
    if (content) this.message.content += content;
    if (reasoning_content) this.message.reasoning_content = (this.message.reasoning_content ?? "") + reasoning_content;
    for (const call of tool_calls ?? []) this.#call(call);
    if (choice.logprobs?.content) this.scores.push(...choice.logprobs.content);
    if (choice.finish_reason) this.meta.finish = choice.finish_reason;
  }

  #call({ index, id, function: part }) {
    const calls = (this.message.tool_calls ??= []);
    const call = (calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    if (id) call.id = id;
    if (part?.name) call.function.name += part.name;
    if (part?.arguments) call.function.arguments += part.arguments;
  }

  // Tokens after the first, over the time since it: what a reader feels.
  #rate(now) {
    const tokens = this.meta.tokens ?? this.meta.chunks ?? 0;
    const seconds = (now - (this.#first ?? now)) / 1000;
    if (tokens > 1 && seconds > 0) this.meta.rate = (tokens - 1) / seconds;
  }
}
