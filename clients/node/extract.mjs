// Takes what a text says as an object: the answer follows a JSON schema, token by token.
//
//     npm install openai zod
//     node extract.mjs smollm2:135m "Ann and Tom meet on Monday for chess."

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

// Limits keep a small model from writing on and on.
const Event = z.object({
  title: z.string().max(40),
  day: z.enum(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]),
  people: z.array(z.string().max(20)).max(5),
});

const [model, text = "Alice and Bob are going to a science fair on Friday."] = process.argv.slice(2);
if (!model) throw new Error("usage: node extract.mjs MODEL [TEXT]");

const client = new OpenAI();
const completion = await client.chat.completions.parse({
  model,
  messages: [
    { role: "system", content: "Extract the event." },
    { role: "user", content: text },
  ],
  response_format: zodResponseFormat(Event, "event"),
  temperature: 0,
  max_tokens: 400,
});
console.log(JSON.stringify(completion.choices[0].message.parsed, null, 2));
