// Anthropic's Messages API: a model calls a function, gets the result, and answers.
//
//     npm install @anthropic-ai/sdk
//     node messages-tools.mjs smollm2:135m "How warm is it in Rome?"

import Anthropic from "@anthropic-ai/sdk";

const TEMPERATURES = { Bern: 4, Oslo: -2, Rome: 17 };
const TOOLS = [
  {
    name: "look_up_temperature",
    description: "The temperature in a city now.",
    input_schema: {
      type: "object",
      properties: { city: { type: "string", enum: Object.keys(TEMPERATURES) } },
      required: ["city"],
      additionalProperties: false,
    },
  },
];

const [model, question = "How warm is it in Oslo?"] = process.argv.slice(2);
if (!model) throw new Error("usage: node messages-tools.mjs MODEL [QUESTION]");

/** What a call returns, or what the model has to know about its mistake. */
function resultOf({ id, name, input }) {
  const result = { type: "tool_result", tool_use_id: id };
  if (name !== "look_up_temperature" || !Object.hasOwn(TEMPERATURES, input.city)) {
    return { ...result, content: "there is no such function or city", is_error: true };
  }
  return { ...result, content: `${TEMPERATURES[input.city]} °C` };
}

const client = new Anthropic();
const messages = [{ role: "user", content: question }];
// It has to look first, where a small model would rather guess; then it may again; then it must answer.
const one = { disable_parallel_tool_use: true };
for (const tool_choice of [{ type: "any", ...one }, { type: "auto", ...one }, { type: "none" }]) {
  const request = { model, messages, tools: TOOLS, tool_choice, max_tokens: 200 };
  const { content } = await client.messages.create(request);
  messages.push({ role: "assistant", content });
  const calls = content.filter((block) => block.type === "tool_use");
  if (calls.length === 0) {
    console.log(content.map((block) => block.text ?? "").join(""));
    break;
  }
  const results = calls.map(resultOf);
  calls.forEach(({ name, input }, i) => {
    console.log(`${name}(${JSON.stringify(input)}) = ${results[i].content}`);
  });
  messages.push({ role: "user", content: results });
}
