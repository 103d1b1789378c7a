// Finds maths in Markdown: $…$, $$…$$, \(…\) and \[…\]. What stands in them is TeX.

const INLINE = [
  // Like Pandoc: nothing blank inside the dollars, no digit behind, so that prices stay prices.
  /^\$(?!\s)((?:\\.|[^\\$\n])+?)(?<!\s)\$(?!\d)/,
  /^\\\(([\s\S]+?)\\\)/,
];
const BLOCK = [/^\$\$([\s\S]+?)\$\$(?:\n|$)/, /^\\\[([\s\S]+?)\\\](?:\n|$)/];

function extension(name, level, rules, start) {
  return {
    name,
    level,
    start: (source) => source.match(start)?.index,
    tokenizer(source) {
      for (const rule of rules) {
        const match = rule.exec(source);
        if (match) return { type: name, raw: match[0], tex: match[1].trim() };
      }
      return undefined;
    },
    renderer: ({ tex }) => `<span class="math" data-tex="${escape(tex)}" data-block="${level === "block"}"></span>`,
  };
}

/** Extensions for marked. */
export const extensions = [
  extension("blockMath", "block", BLOCK, /\$\$|\\\[/),
  extension("inlineMath", "inline", INLINE, /\$|\\\(/),
];

function escape(text) {
  return text.replace(/[&"<>]/g, (c) => `&#${c.charCodeAt(0)};`);
}
