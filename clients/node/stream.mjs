// Prints an answer while it is written.
//
//     npm install openai
//     node stream.mjs smollm2:135m "Why is the sky blue?"

import OpenAI from "openai";

const [model, question = "Tell me a story about the sea."] = process.argv.slice(2);
if (!model) throw new Error("usage: node stream.mjs MODEL [QUESTION]");

const client = new OpenAI();
const stream = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: question }],
  max_tokens: 400,
  stream: true,
  // The last chunk then has no choice, and the counts.
  stream_options: { include_usage: true },
});
for await (const { choices, usage } of stream) {
  if (choices.length > 0) process.stdout.write(choices[0].delta.content ?? "");
  else console.log(`\n(${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out)`);
}
