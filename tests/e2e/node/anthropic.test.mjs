// The @anthropic-ai/sdk npm package against the real server.
// SCONCE_URL, SCONCE_KEY and SCONCE_MODEL name it; tests/e2e/test_node.py starts it.

import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({
  baseURL: process.env.SCONCE_URL,
  apiKey: process.env.SCONCE_KEY,
  maxRetries: 0,
});
const model = process.env.SCONCE_MODEL;
const messages = [{ role: "user", content: "Count to five." }];
const request = { model, messages, max_tokens: 24, temperature: 0 };

test("a stream accumulates to the whole message", async () => {
  const whole = await client.messages.create(request);

  const final = await client.messages.stream(request).finalMessage();

  assert.ok(whole.content[0].text.length > 0);
  assert.equal(final.content[0].text, whole.content[0].text);
  assert.equal(final.stop_reason, whole.stop_reason);
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
});

test("a forced tool is called with an object", async () => {
  const input_schema = {
    type: "object",
    properties: { color: { enum: ["red", "blue"] } },
    required: ["color"],
    additionalProperties: false,
  };
  const tools = [{ name: "paint", input_schema }];
  const forced = { ...request, max_tokens: 100, tools, tool_choice: { type: "tool", name: "paint" } };

  for (const message of [
    await client.messages.create(forced),
    await client.messages.stream(forced).finalMessage(),
  ]) {
    const call = message.content.at(-1);
    assert.equal(message.stop_reason, "tool_use");
    assert.equal(call.name, "paint");
    assert.ok(["red", "blue"].includes(call.input.color));
  }
});

test("tokens are counted", async () => {
  const { usage } = await client.messages.create(request);
  const counted = await client.messages.countTokens({ model, messages });

  assert.equal(counted.input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
});

test("errors are the SDK's classes", async () => {
  await assert.rejects(client.messages.create({ ...request, model: "nobody" }), Anthropic.NotFoundError);
  await assert.rejects(client.messages.create({ ...request, temperature: 7 }), (error) => {
    assert.ok(error instanceof Anthropic.BadRequestError);
    assert.equal(error.error.error.type, "invalid_request_error");
    return true;
  });
});
