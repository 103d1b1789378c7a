// A web page that shows answers while they are written; the key stays on this server.
//
//     npm install openai
//     node web.mjs smollm2:135m    # beside ../web/page.html; PORT=3000 unless set

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { json } from "node:stream/consumers";
import OpenAI from "openai";

const [model] = process.argv.slice(2);
if (!model) throw new Error("usage: node web.mjs MODEL");
const page = await readFile(new URL("../web/page.html", import.meta.url));
const client = new OpenAI();

const MAX_BODY_BYTES = 100_000;

/** Sends the answer as events; a browser that hangs up stops the model. */
async function chat(request, response) {
  const { messages } = await json(request);
  const hungUp = new AbortController();
  response.on("close", () => hungUp.abort());
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  const send = (event) => response.write(`data: ${JSON.stringify(event)}\n\n`);
  try {
    const stream = await client.chat.completions.create(
      { model, messages, max_tokens: 400, stream: true },
      { signal: hungUp.signal },
    );
    for await (const { choices } of stream) {
      const text = choices[0]?.delta.content;
      if (text) send({ text });
    }
    send({ done: true });
  } catch (error) {
    send({ error: error.message });
  }
  response.end();
}

const server = createServer((request, response) => {
  const { method, url, headers } = request;
  // Other pages that a browser has open can't send JSON here without being asked first.
  const isJson = headers["content-type"] === "application/json";
  const hasBody = Number(headers["content-length"]) <= MAX_BODY_BYTES;
  if (method === "GET" && url === "/") {
    response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(page);
  } else if (method === "POST" && url === "/chat" && isJson && hasBody) {
    chat(request, response).catch(() => response.writeHead(400).end());
  } else {
    response.writeHead(404).end();
  }
});
server.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
