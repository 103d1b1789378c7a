// Goes on with a conversation that the server keeps, by the Responses API, and streams the answer.
//
//     npm install openai
//     node responses.mjs smollm2:135m "Name a planet."

import OpenAI from "openai";

const [model, question = "Name a planet."] = process.argv.slice(2);
if (!model) throw new Error("usage: node responses.mjs MODEL [QUESTION]");

const client = new OpenAI();
const first = await client.responses.create({
  model,
  instructions: "Answer briefly.",
  input: question,
  max_output_tokens: 100,
});
console.log(first.output_text);
console.log(`(${first.usage.input_tokens} tokens in, ${first.usage.output_tokens} out)\n`);

const stream = await client.responses.create({
  model,
  previous_response_id: first.id,
  input: "Tell me more about it.",
  max_output_tokens: 200,
  stream: true,
});
for await (const event of stream) {
  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
  else if (["response.completed", "response.incomplete"].includes(event.type)) {
    const { usage } = event.response;
    console.log(`\n(${usage.input_tokens} tokens in, ${usage.output_tokens} out)`);
  }
}
