// The openai npm package against the real server.
// SCONCE_URL, SCONCE_KEY and SCONCE_MODEL name it; tests/e2e/test_node.py starts it.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.env.SCONCE_URL}/v1`,
  apiKey: process.env.SCONCE_KEY,
  maxRetries: 0,
});
const model = process.env.SCONCE_MODEL;
const messages = [{ role: "user", content: "Count to five." }];

test("a chat completion has text, usage and a finish reason", async () => {
  const reply = await client.chat.completions.create({ model, messages, max_tokens: 8, temperature: 0 });

  assert.ok(reply.choices[0].message.content.length > 0);
  assert.ok(["stop", "length"].includes(reply.choices[0].finish_reason));
  assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
});

test("a streamed chat equals the whole one", async () => {
  const request = { model, messages, max_tokens: 24, temperature: 0 };
  const whole = await client.chat.completions.create(request);

  const stream = await client.chat.completions.create({
    ...request, stream: true, stream_options: { include_usage: true },
  });
  let text = "";
  let usage = null;
  const reasons = [];
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
    usage = chunk.usage ?? usage;
  }

  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(reasons, [whole.choices[0].finish_reason]);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("the stream helper accumulates every choice", async () => {
  const stream = client.chat.completions.stream({ model, messages, max_tokens: 8, temperature: 0, n: 2 });
  const final = await stream.finalChatCompletion();

  assert.equal(final.choices.length, 2);
  assert.equal(final.choices[0].message.content, final.choices[1].message.content);
});

test("text completions stream", async () => {
  const request = { model, prompt: "Once upon a time", max_tokens: 12, temperature: 0 };
  const whole = await client.completions.create(request);

  let text = "";
  for await (const chunk of await client.completions.create({ ...request, stream: true })) {
    text += chunk.choices[0].text;
  }

  assert.equal(text, whole.choices[0].text);
});

test("16 streams at once each equal their solo output", async () => {
  const ask = async (index) => {
    const stream = await client.chat.completions.create({
      model, messages: [{ role: "user", content: `Tell me about the number ${index}.` }],
      max_tokens: 16, temperature: 0, stream: true,
    });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    return text;
  };
  const solo = [];
  for (let index = 0; index < 16; index += 1) solo.push(await ask(index));

  const together = await Promise.all(solo.map((_, index) => ask(index)));

  assert.deepEqual(together, solo);
});

test("an aborted stream ends, and the server goes on", async () => {
  const stream = await client.chat.completions.create({
    model, messages, max_tokens: 2000, temperature: 0, stream: true, ignore_eos: true,
  });
  for await (const _ of stream) {
    stream.controller.abort();
    break;
  }

  const reply = await client.chat.completions.create({ model, messages, max_tokens: 1 });
  assert.ok(reply.choices[0].finish_reason);
});

test("errors have the SDK's classes", async () => {
  await assert.rejects(
    client.chat.completions.create({ model, messages, temperature: 3 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
  );
  await assert.rejects(
    client.chat.completions.create({ model: "nope", messages }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
  );
  const stranger = new OpenAI({ baseURL: client.baseURL, apiKey: "sk-wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("models are listed and retrieved", async () => {
  const ids = [];
  for await (const entry of client.models.list()) ids.push(entry.id);

  assert.ok(ids.includes(model));
  assert.equal((await client.models.retrieve(model)).id, model);
});

const weather = {
  type: "function",
  name: "get_weather",
  description: "The weather of a city.",
  parameters: {
    type: "object",
    properties: { city: { type: "string", maxLength: 16 } },
    required: ["city"],
    additionalProperties: false,
  },
  strict: true,
};

test("the stream helper rebuilds a response", async () => {
  const request = { model, input: "Count to five.", max_output_tokens: 24, temperature: 0 };
  const whole = await client.responses.create(request);

  const stream = client.responses.stream(request);
  const seen = [];
  for await (const event of stream) seen.push(event);
  const final = await stream.finalResponse();

  assert.equal(final.output_text, whole.output_text);
  assert.equal(final.status, whole.status);
  assert.deepEqual(seen.map((event) => event.sequence_number), [...seen.keys()]);
  assert.deepEqual(await client.responses.retrieve(whole.id), whole);
});

test("a response calls a tool, and the next one has its result", async () => {
  const request = {
    model, input: "What is the weather in Paris?", tools: [weather], temperature: 0,
    max_output_tokens: 120,
  };
  const called = await client.responses
    .stream({ ...request, tool_choice: "required", parallel_tool_calls: false })
    .finalResponse();
  const [call] = called.output;
  assert.equal(call.type, "function_call");
  assert.deepEqual(Object.keys(JSON.parse(call.arguments)), ["city"]);

  const answered = await client.responses.create({
    ...request, previous_response_id: called.id, tool_choice: "none",
    input: [{ type: "function_call_output", call_id: call.call_id, output: "sunny" }],
  });
  assert.ok(answered.output_text.length > 0);
});
