// Files and batches by the openai npm package, against the real server.
// SCONCE_URL, SCONCE_KEY and SCONCE_MODEL name it; tests/e2e/test_node.py starts it.

import assert from "node:assert/strict";
import { createReadStream, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({
  baseURL: `${process.env.SCONCE_URL}/v1`,
  apiKey: process.env.SCONCE_KEY,
  maxRetries: 0,
});
const model = process.env.SCONCE_MODEL;
const endpoint = "/v1/chat/completions";

const line = (id, body) => JSON.stringify({ custom_id: id, method: "POST", url: endpoint, body });
const question = (text, more) => ({
  model, messages: [{ role: "user", content: text }], max_tokens: 8, temperature: 0, ...more,
});

async function done(batch) {
  while (!["completed", "failed", "expired", "cancelled"].includes(batch.status)) {
    await pause(100);
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

test("a file from the disk is stored, listed, read and deleted", async () => {
  const folder = mkdtempSync(join(tmpdir(), "sconce-"));
  const path = join(folder, "notes.txt");
  writeFileSync(path, "Some notes.\n");
  const file = await client.files.create({ file: createReadStream(path), purpose: "user_data" });
  rmSync(folder, { recursive: true });

  assert.equal(file.filename, "notes.txt");
  assert.equal((await client.files.retrieve(file.id)).bytes, 12);
  const ids = [];
  for await (const it of client.files.list({ purpose: "user_data" })) ids.push(it.id);
  assert.ok(ids.includes(file.id));
  assert.equal(await (await client.files.content(file.id)).text(), "Some notes.\n");
  assert.equal((await client.files.delete(file.id)).deleted, true);
  await assert.rejects(client.files.retrieve(file.id), OpenAI.NotFoundError);
});

test("a batch is made, waited for and read", async () => {
  const lines = [
    line("one", question("Count to five.")),
    line("two", question("Count to ten.")),
    line("bad", question("hi", { max_tokens: -1 })),
  ];
  const file = await client.files.create({
    file: await toFile(Buffer.from(lines.join("\n")), "lines.jsonl"), purpose: "batch",
  });
  const batch = await done(
    await client.batches.create({
      input_file_id: file.id, endpoint, completion_window: "24h", metadata: { from: "node" },
    }),
  );

  assert.equal(batch.status, "completed");
  assert.deepEqual(batch.request_counts, { total: 3, completed: 2, failed: 1 });
  assert.equal(batch.metadata.from, "node");
  const text = await (await client.files.content(batch.output_file_id)).text();
  const output = text.trim().split("\n").map((it) => JSON.parse(it));
  assert.deepEqual(output.map((it) => it.custom_id).sort(), ["one", "two"]);
  const alone = await client.chat.completions.create(question("Count to five."));
  const one = output.find((it) => it.custom_id === "one");
  assert.equal(one.response.body.choices[0].message.content, alone.choices[0].message.content);
  const failed = JSON.parse(await (await client.files.content(batch.error_file_id)).text());
  assert.equal(failed.custom_id, "bad");
});

test("a file that is no batch's is refused with its line", async () => {
  const file = await toFile(Buffer.from("{}\nno\n"), "lines.jsonl");
  await assert.rejects(client.files.create({ file, purpose: "batch" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.match(error.message, /line 2/);
    return true;
  });
});
