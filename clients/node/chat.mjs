// Asks a question, and a second one about the answer; tells how many tokens it took.
//
//     npm install openai
//     node chat.mjs smollm2:135m "Why is the sky blue?"

import OpenAI from "openai";

const [model, question = "Name a planet."] = process.argv.slice(2);
if (!model) throw new Error("usage: node chat.mjs MODEL [QUESTION]");

// The server and the key are OPENAI_BASE_URL and OPENAI_API_KEY.
const client = new OpenAI();
const messages = [];
for (const text of [question, "Say that again in one sentence."]) {
  messages.push({ role: "user", content: text });
  const reply = await client.chat.completions.create({ model, messages, max_tokens: 200 });
  const answer = reply.choices[0].message.content;
  console.log(answer);
  console.log(`(${reply.usage.prompt_tokens} tokens in, ${reply.usage.completion_tokens} out)\n`);
  // The server remembers nothing here: each request brings the whole conversation.
  messages.push({ role: "assistant", content: answer });
}
