// Lets a model call a function, gives it the result, and prints its answer.
//
//     npm install openai
//     node tools.mjs smollm2:135m "How warm is it in Rome?"

import OpenAI from "openai";

const TEMPERATURES = { Bern: 4, Oslo: -2, Rome: 17 };
const FUNCTIONS = {
  look_up_temperature({ city }) {
    if (!Object.hasOwn(TEMPERATURES, city)) throw new Error(`there is no city ${city}`);
    return `${TEMPERATURES[city]} °C`;
  },
};
const TOOLS = [
  {
    type: "function",
    function: {
      name: "look_up_temperature",
      description: "The temperature in a city now.",
      parameters: {
        type: "object",
        properties: { city: { type: "string", enum: Object.keys(TEMPERATURES) } },
        required: ["city"],
        additionalProperties: false,
      },
    },
  },
];

const [model, question = "How warm is it in Oslo?"] = process.argv.slice(2);
if (!model) throw new Error("usage: node tools.mjs MODEL [QUESTION]");

/** What a function returns, or what the model has to know about its mistake. */
function call({ name, arguments: text }) {
  try {
    return FUNCTIONS[name](JSON.parse(text));
  } catch (error) {
    return `error: ${error.message}`;
  }
}

const client = new OpenAI();
const messages = [{ role: "user", content: question }];
// It has to look first, where a small model would rather guess; then it may again; then it must answer.
for (const tool_choice of ["required", "auto", "none"]) {
  const reply = await client.chat.completions.create({
    model,
    messages,
    tools: TOOLS,
    tool_choice,
    parallel_tool_calls: false,
    temperature: 0,
    max_tokens: 200,
  });
  const { message } = reply.choices[0];
  messages.push(message);
  if (!message.tool_calls?.length) {
    console.log(message.content);
    break;
  }
  for (const { id, function: called } of message.tool_calls) {
    const content = call(called);
    console.log(`${called.name}(${called.arguments}) = ${content}`);
    messages.push({ role: "tool", tool_call_id: id, content });
  }
}
