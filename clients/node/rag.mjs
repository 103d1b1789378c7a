// Finds what a question is about among notes, by embeddings, and answers from what it found.
//
//     npm install openai
//     node rag.mjs smollm2:135m minilm "When is breakfast?"

import OpenAI from "openai";

const NOTES = [
  "Breakfast is served from seven to ten in the winter garden.",
  "Rooms are free from three in the afternoon; please leave them by eleven.",
  "The sauna in the cellar is open to guests every evening, and mixed on Fridays.",
  "Dogs are welcome for ten francs a night, but not in the dining room.",
  "The last cable car to the summit leaves at half past four.",
  "The password of the wireless network is on the back of your key card.",
  "Bicycles can be borrowed at the reception without charge.",
  "In winter the road over the pass is closed; take the train through the tunnel.",
];
const NUM_FOUND = 2;

const [model, embeddingModel, question = "When can I eat in the morning?"] = process.argv.slice(2);
if (!embeddingModel) throw new Error("usage: node rag.mjs MODEL EMBEDDING_MODEL [QUESTION]");

const client = new OpenAI();

async function embed(input) {
  const { data } = await client.embeddings.create({ model: embeddingModel, input });
  return data.map(({ embedding }) => embedding);
}

// Embeddings have length 1, so that this is their cosine.
const similarity = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

// With more notes than these, keep the vectors in a database instead of a list.
const vectors = await embed(NOTES);

const [ofQuestion] = await embed([question]);
const found = NOTES.map((note, i) => [similarity(ofQuestion, vectors[i]), note])
  .sort(([a], [b]) => b - a)
  .slice(0, NUM_FOUND)
  .map(([, note]) => note);
for (const note of found) console.log(`found: ${note}`);

const stream = await client.chat.completions.create({
  model,
  messages: [
    { role: "system", content: `Answer from these notes only:\n${found.join("\n")}` },
    { role: "user", content: question },
  ],
  temperature: 0,
  max_tokens: 100,
  stream: true,
});
for await (const { choices } of stream) process.stdout.write(choices[0]?.delta.content ?? "");
console.log();
