// Markdown of a model as elements. A model repeats what it reads, so its text is an attacker's:
// nothing in it may run, reach another host, or look like a part of this page.

import { Marked } from "./vendor/marked.esm.js";
import DOMPurify from "./vendor/purify.es.mjs";
import { h } from "./dom.js";
import { extensions } from "./math.js";

const marked = new Marked({ gfm: true, breaks: false, async: false });
marked.use({ extensions, renderer: { checkbox: ({ checked }) => (checked ? "☑ " : "☐ ") } });

const PURIFY = {
  USE_PROFILES: { html: true },
  FORBID_TAGS: [
    "audio", "button", "dialog", "fieldset", "form", "input", "label", "link", "map", "meta", "option",
    "picture", "select", "source", "style", "textarea", "track", "video",
  ],
  FORBID_ATTR: ["action", "background", "id", "name", "popovertarget", "srcset", "style", "tabindex"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ADD_ATTR: ["data-tex", "data-block"],
  RETURN_DOM_FRAGMENT: true,
};

/**
 * Shows Markdown that grows: only the blocks that have changed are made anew, so that a long
 * answer costs no more per token than a short one.
 */
export class MarkdownView {
  #blocks = [];

  constructor(element) {
    this.element = element;
  }

  show(text) {
    const lexed = marked.lexer(text);
    const tokens = lexed.filter((token) => token.type !== "space");
    const same = tokens.findIndex((token, index) => this.#blocks[index]?.raw !== token.raw);
    const keep = same === -1 ? tokens.length : same;
    for (const { nodes } of this.#blocks.splice(keep)) nodes.forEach((node) => node.remove());
    for (const token of tokens.slice(keep)) {
      const nodes = [...render([token], lexed.links).childNodes];
      this.element.append(...nodes);
      this.#blocks.push({ raw: token.raw, nodes });
    }
  }
}

/** The elements of some Markdown. */
export function toElements(text) {
  const tokens = marked.lexer(text);
  return render(tokens, tokens.links);
}

function render(tokens, links) {
  const html = marked.parser(Object.assign(tokens, { links: links ?? {} }));
  const fragment = DOMPurify.sanitize(html, PURIFY);
  fragment.querySelectorAll("img").forEach(replaceImage);
  fragment.querySelectorAll("a").forEach(guardLink);
  fragment.querySelectorAll("table").forEach(scrollTable);
  fragment.querySelectorAll("pre > code").forEach(dressCode);
  fragment.querySelectorAll(".math").forEach(typeset);
  return fragment;
}

/** An image would tell its host what the conversation holds, as soon as it is shown. */
function replaceImage(image) {
  const source = image.getAttribute("src") ?? "";
  const label = image.getAttribute("alt") || "image";
  if (/^data:image\/(png|jpeg|gif|webp);/i.test(source)) return;
  image.replaceWith(/^https?:/i.test(source) ? h("a", { href: source }, `[${label}]`) : `[${label}]`);
}

function guardLink(link) {
  const target = link.getAttribute("href") ?? "";
  if (!/^(https?:|mailto:)/i.test(target)) return link.replaceWith(...link.childNodes);
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
  // What is shown may be another address.
  link.title = target;
  return undefined;
}

function scrollTable(table) {
  const frame = h("div.table", { tabindex: "0", role: "region", "aria-label": "Table" });
  table.replaceWith(frame);
  frame.append(table);
}

function dressCode(code) {
  const language = [...code.classList].find((name) => name.startsWith("language-"))?.slice(9);
  const text = code.textContent;
  const copy = h("button", { type: "button", onclick: () => navigator.clipboard.writeText(text) }, "Copy");
  const pre = code.parentElement;
  const frame = h("div.code", {}, h("div.code-head", {}, h("span", {}, language ?? "text"), copy));
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  frame.append(pre);
  if (language) highlight(code, text, language);
}

let highlighter;

/** Colours arrive when the highlighter has: it is fetched with the first code that needs it. */
async function highlight(code, text, language) {
  highlighter ??= import("./vendor/highlight.min.js").then((module) => module.default);
  const hljs = await highlighter;
  if (!hljs.getLanguage(language)) return;
  const html = hljs.highlight(text, { language, ignoreIllegals: true }).value;
  code.replaceChildren(DOMPurify.sanitize(html, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true }));
}

let typesetter;

function typeset(element) {
  const tex = element.dataset.tex;
  const displayMode = element.dataset.block === "true";
  element.textContent = tex;
  typesetter ??= loadScript("vendor/temml.min.js").then(() => globalThis.temml);
  typesetter.then((temml) => {
    try {
      temml.render(tex, element, { displayMode, throwOnError: true, trust: false, maxExpand: 1000, maxSize: [20, 20] });
    } catch {
      element.textContent = tex;
    }
  });
}

function loadScript(path) {
  const { promise, resolve, reject } = Promise.withResolvers();
  document.head.append(h("script", { src: new URL(path, import.meta.url).href, onload: resolve, onerror: reject }));
  return promise;
}
