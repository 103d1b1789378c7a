// Streams one chat completion from Sconce with the OpenAI SDK.
//
//     npm install openai
//     SCONCE_API_KEY=sk-sconce-… node clients/node/chat.mjs "Why is the sky blue?"

import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.env.SCONCE_URL ?? "http://127.0.0.1:8000"}/v1`,
  apiKey: process.env.SCONCE_API_KEY ?? "none",
});
const [model] = (await client.models.list()).data;
const question = process.argv.slice(2).join(" ") || "Hello! Who are you?";
const stream = await client.chat.completions.create({
  model: model.id,
  messages: [{ role: "user", content: question }],
  stream: true,
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
process.stdout.write("\n");
