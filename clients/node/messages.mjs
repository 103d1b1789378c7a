// Anthropic's Messages API: a whole message, and one that is printed while it is written.
//
//     npm install @anthropic-ai/sdk
//     node messages.mjs smollm2:135m "Why is the sky blue?"

import Anthropic from "@anthropic-ai/sdk";

const [model, question = "Name a planet."] = process.argv.slice(2);
if (!model) throw new Error("usage: node messages.mjs MODEL [QUESTION]");

// The server and the key are ANTHROPIC_BASE_URL, which ends without /v1, and ANTHROPIC_API_KEY.
const client = new Anthropic();
const messages = [{ role: "user", content: question }];
const { content, usage } = await client.messages.create({ model, messages, max_tokens: 100 });
console.log(content.map((block) => block.text ?? "").join(""));
// Tokens that the server had from an earlier request are counted apart.
const numRead = usage.input_tokens + (usage.cache_read_input_tokens ?? 0);
console.log(`(${numRead} tokens in, ${usage.output_tokens} out)\n`);

messages.push({ role: "assistant", content });
messages.push({ role: "user", content: "Say that again in one sentence." });
const stream = client.messages.stream({ model, messages, max_tokens: 100 });
stream.on("text", (text) => process.stdout.write(text));
await stream.finalMessage();
console.log();
