// A LangChain agent that looks something up with a tool before it answers.
//
//     npm install langchain @langchain/core @langchain/openai zod
//     node langchain-agent.mjs smollm2:135m "How warm is it in Rome?"

import { HumanMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { createAgent, createMiddleware, tool } from "langchain";
import { z } from "zod";

const TEMPERATURES = { Bern: 4, Oslo: -2, Rome: 17 };

const lookUpTemperature = tool(({ city }) => `${TEMPERATURES[city]} °C`, {
  name: "look_up_temperature",
  description: "The temperature in a city now.",
  schema: z.object({ city: z.enum(Object.keys(TEMPERATURES)) }),
});

/** Has the model call a tool, where a small one would rather guess, and answer after it. */
const lookFirst = createMiddleware({
  name: "lookFirst",
  wrapModelCall(request, handler) {
    const isQuestion = HumanMessage.isInstance(request.messages.at(-1));
    const toolChoice = isQuestion ? "required" : "none";
    return handler({ ...request, toolChoice, modelSettings: { parallel_tool_calls: false } });
  },
});

const [model, question = "How warm is it in Oslo?"] = process.argv.slice(2);
if (!model) throw new Error("usage: node langchain-agent.mjs MODEL [QUESTION]");

// The server and the key are OPENAI_BASE_URL and OPENAI_API_KEY.
const llm = new ChatOpenAI({ model, temperature: 0, maxTokens: 200 });
const agent = createAgent({ model: llm, tools: [lookUpTemperature], middleware: [lookFirst] });
const { messages } = await agent.invoke({ messages: [new HumanMessage(question)] });
for (const message of messages) {
  for (const { name, args } of message.tool_calls ?? []) console.log(`${name}(${JSON.stringify(args)})`);
  if (message.text) console.log(`${message.type}: ${message.text}`);
}
