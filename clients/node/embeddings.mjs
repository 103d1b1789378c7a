// Sorts sentences by how near their meaning is to that of a query.
//
//     npm install openai
//     node embeddings.mjs minilm "travel by rail"

import OpenAI from "openai";

const SENTENCES = [
  "The cat eats fish.",
  "Stocks fell on Monday.",
  "A kitten drinks milk.",
  "The train to Geneva is late.",
  "Interest rates were raised again.",
];

const [model, query = "food for cats"] = process.argv.slice(2);
if (!model) throw new Error("usage: node embeddings.mjs MODEL [QUERY]");

// Embeddings have length 1, so that this is their cosine.
const similarity = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

const client = new OpenAI();
const { data } = await client.embeddings.create({ model, input: [query, ...SENTENCES] });
const [ofQuery, ...ofSentences] = data.map(({ embedding }) => embedding);
const scored = SENTENCES.map((sentence, i) => [similarity(ofQuery, ofSentences[i]), sentence]);
scored.sort(([a], [b]) => b - a);
for (const [score, sentence] of scored) console.log(`${score.toFixed(3)}  ${sentence}`);
