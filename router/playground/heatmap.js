// An answer's tokens, coloured by how likely the model held each.

import { h } from "./dom.js";

/** How unlikely, in five steps: the colours of `.p0` (sure) to `.p4`. */
export function step(logprob) {
  const probability = Math.exp(logprob);
  return [0.9, 0.6, 0.3, 0.1].filter((limit) => probability < limit).length;
}

export const percent = (logprob) => `${(Math.exp(logprob) * 100).toFixed(logprob > -0.001 ? 0 : 1)} %`;

/** `scores`: OpenAI's `logprobs.content`. */
export function heatmap(scores) {
  const legend = h("p.legend", {}, "Likelihood: ",
    ...["over 90 %", "60–90 %", "30–60 %", "10–30 %", "under 10 %"].map((label, i) => h(`span.token.p${i}`, {}, label)));
  const detail = h("p.detail", { "aria-live": "polite" }, "Point at a token, or move to it with Tab, for what else was likely.");
  const tell = (score) => () => detail.replaceChildren(
    h("b", {}, show(score.token)), ` ${percent(score.logprob)}. `,
    ...score.top_logprobs.flatMap(({ token, logprob }) => [h("code", {}, show(token)), ` ${percent(logprob)}  `]));
  const tokens = scores.map((score) => h(`span.token.p${step(score.logprob)}`,
    { tabindex: "0", onmouseenter: tell(score), onfocus: tell(score), "aria-label": `${show(score.token)}, ${percent(score.logprob)}` },
    score.token));
  return h("div.heatmap", {}, legend, h("div.tokens", { role: "group", "aria-label": "Tokens" }, ...tokens), detail);
}

/** A token as text that can be seen. */
function show(token) {
  return token.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ | $/g, "␣") || "∅";
}
