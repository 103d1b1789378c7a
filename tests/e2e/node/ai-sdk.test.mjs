// Vercel's AI SDK, with its provider for servers that speak OpenAI's API, against the real server.
// SCONCE_URL, SCONCE_KEY and SCONCE_MODEL name it; tests/e2e/test_node.py starts it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, Output, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false;
const sconce = createOpenAICompatible({
  name: "sconce",
  baseURL: `${process.env.SCONCE_URL}/v1`,
  apiKey: process.env.SCONCE_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = sconce(process.env.SCONCE_MODEL);
const request = { model, temperature: 0, maxRetries: 0 };
const city = z.strictObject({ name: z.string().max(12), size: z.int().min(0).max(99) });

const lookUp = tool({
  description: "Looks up a city.",
  inputSchema: z.strictObject({ city: z.string().max(12), year: z.int().min(1900).max(2100) }),
});

test("a streamed text equals the whole one, and is counted", async () => {
  const asked = { ...request, prompt: "Count to five.", maxOutputTokens: 12 };
  const whole = await generateText(asked);

  const stream = streamText(asked);
  let text = "";
  for await (const part of stream.textStream) text += part;

  assert.ok(whole.text.length > 0);
  assert.equal(text, whole.text);
  assert.equal(await stream.finishReason, whole.finishReason);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
  assert.ok(whole.usage.outputTokens > 0);
});

test("a tool is called, and its result is told", async () => {
  const question = { role: "user", content: "Where is Bern?" };
  const asked = {
    ...request, messages: [question], maxOutputTokens: 100,
    tools: { lookUp }, toolChoice: { type: "tool", toolName: "lookUp" },
  };
  const called = await generateText(asked);
  const [call] = called.toolCalls;
  assert.equal(called.finishReason, "tool-calls");
  assert.equal(call.toolName, "lookUp");
  assert.deepEqual(Object.keys(call.input).sort(), ["city", "year"]);

  const stream = streamText(asked);
  const [streamed] = await stream.toolCalls;
  assert.deepEqual(streamed.input, call.input);

  const output = { type: "text", value: "Bern is in Switzerland." };
  const result = { type: "tool-result", toolCallId: call.toolCallId, toolName: "lookUp", output };
  const answer = await generateText({
    ...request, maxOutputTokens: 12, tools: { lookUp },
    messages: [
      question, { role: "assistant", content: [call] }, { role: "tool", content: [result] },
    ],
  });
  assert.ok(answer.text || answer.toolCalls.length > 0);
});

test("an object is of its schema, streamed too", async () => {
  const asked = { ...request, prompt: "Name a city.", maxOutputTokens: 200 };
  const whole = await generateObject({ ...asked, schema: city });
  assert.ok(city.safeParse(whole.object).success);

  const stream = streamText({ ...asked, output: Output.object({ schema: city }) });
  let last = null;
  for await (const partial of stream.partialOutputStream) last = partial;
  assert.deepEqual(last, whole.object);
});

test("a choice is one of the choices", async () => {
  const { object } = await generateObject({
    ...request, output: "enum", enum: ["red", "blue"], prompt: "Pick a color.", maxOutputTokens: 40,
  });

  assert.ok(["red", "blue"].includes(object));
});

test("an error of the server is one of the SDK", async () => {
  await assert.rejects(
    generateText({ ...request, model: sconce("nope"), prompt: "hi" }),
    (error) => error.statusCode === 404 && error.message.includes("nope"),
  );
});
