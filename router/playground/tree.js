// A conversation as a tree: an edited message or another answer is a branch beside the first. Pure
// data, which storage keeps and files carry.

const ROLES = ["user", "assistant", "tool"];
const FORMAT = "sconce-conversations";

/** Bounds of what a file may bring. */
const MAX_CONVERSATIONS = 10_000;
const MAX_NODES = 100_000;

export const newId = () => crypto.randomUUID();

/** An empty conversation. */
export function conversation() {
  return { id: newId(), title: "New conversation", created: Date.now(), nodes: {}, root: null, leaf: null };
}

/** Adds a message after `parent` (`null`: at the beginning) and makes it the one that is shown. */
export function add(tree, parent, message) {
  const node = { id: newId(), parent, message, created: Date.now(), meta: {} };
  tree.nodes[node.id] = node;
  tree.leaf = node.id;
  if (parent === null && tree.root === null) tree.root = node.id;
  return node;
}

/** The messages that are shown, first to last. */
export function path(tree, leaf = tree.leaf) {
  const nodes = [];
  for (let id = leaf; id !== null; id = tree.nodes[id].parent) nodes.unshift(tree.nodes[id]);
  return nodes;
}

/** The messages in the place of `node`, itself among them, oldest first. */
export function siblings(tree, node) {
  return children(tree, node.parent);
}

/** Shows the branch of `node`, to its newest end. */
export function select(tree, node) {
  let last = node;
  for (let next = [node]; next.length; next = children(tree, last.id)) last = next.at(-1);
  tree.leaf = last.id;
}

/** Takes a message and all that follow it away. Shows what is left in its place. */
export function remove(tree, node) {
  const left = siblings(tree, node).filter((other) => other !== node);
  const doomed = [node];
  for (const next of doomed) doomed.push(...children(tree, next.id));
  for (const { id } of doomed) delete tree.nodes[id];
  if (tree.root === node.id) tree.root = left[0]?.id ?? null;
  if (left.length) select(tree, left.at(-1));
  else tree.leaf = node.parent;
}

function children(tree, parent) {
  return Object.values(tree.nodes)
    .filter((node) => node.parent === parent)
    .sort((a, b) => a.created - b.created);
}

/** The messages that a model is sent. Thoughts go back only with calls of tools. */
export function toMessages(tree, leaf, system) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const { message } of path(tree, leaf)) {
    const { role, content, tool_calls, tool_call_id, reasoning_content } = message;
    if (role === "tool") messages.push({ role, content, tool_call_id });
    else if (tool_calls?.length) messages.push({ role, content: content || null, tool_calls, ...(reasoning_content && { reasoning_content }) });
    else messages.push({ role, content });
  }
  return messages;
}

/** A title, of what was said first. */
export function titleOf(tree) {
  const first = path(tree).find(({ message }) => message.role === "user");
  const text = first?.message.content.replace(/\s+/g, " ").trim() ?? "";
  return text.length > 60 ? `${text.slice(0, 59)}…` : text || "New conversation";
}

/** Conversations as the text of a file. */
export function serialize(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

/** Reads such a text. Throws what a person can act upon; takes nothing that it does not know. */
export function parse(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("the file is not JSON");
  }
  if (file?.format !== FORMAT || file.version !== 1 || !Array.isArray(file.conversations)) {
    throw new Error("the file does not hold conversations of this page");
  }
  if (file.conversations.length > MAX_CONVERSATIONS) {
    throw new Error(`the file holds more than ${MAX_CONVERSATIONS} conversations`);
  }
  return file.conversations.map(checked);
}

function checked(given) {
  const nodes = Object.values(given?.nodes ?? {});
  if (nodes.length > MAX_NODES) throw new Error(`a conversation has more than ${MAX_NODES} messages`);
  const tree = { ...conversation(), title: text(given.title).slice(0, 200), created: number(given.created) };
  const ids = new Map(nodes.map((node) => [text(node?.id), newId()]));
  for (const node of nodes) {
    const parent = node.parent === null ? null : ids.get(text(node.parent));
    if (parent === undefined) throw new Error("a message follows one that is not in the file");
    const id = ids.get(node.id);
    tree.nodes[id] = { id, parent, message: message(node.message), created: number(node.created), meta: meta(node.meta) };
  }
  for (const node of Object.values(tree.nodes)) checkEnds(tree, node);
  tree.root = ids.get(given.root) ?? null;
  tree.leaf = ids.get(given.leaf) ?? tree.root;
  return tree;
}

function checkEnds(tree, node) {
  const limit = Object.keys(tree.nodes).length;
  let steps = 0;
  for (let id = node.id; id !== null; id = tree.nodes[id].parent) {
    if (++steps > limit) throw new Error("messages follow each other in a circle");
  }
}

function message(given) {
  if (!ROLES.includes(given?.role)) throw new Error("a message has an unknown role");
  const kept = { role: given.role, content: text(given.content ?? "") };
  if (given.reasoning_content) kept.reasoning_content = text(given.reasoning_content);
  if (given.tool_call_id) kept.tool_call_id = text(given.tool_call_id);
  if (given.tool_calls) {
    kept.tool_calls = given.tool_calls.map(({ id, function: { name, arguments: args } }) => ({
      id: text(id), type: "function", function: { name: text(name), arguments: text(args) },
    }));
  }
  return kept;
}

function meta(given) {
  const kept = {};
  for (const name of ["ttft_ms", "rate", "tokens", "prompt_tokens"]) {
    if (typeof given?.[name] === "number") kept[name] = given[name];
  }
  for (const name of ["model", "version", "finish", "error"]) {
    if (typeof given?.[name] === "string") kept[name] = given[name];
  }
  return kept;
}

function text(value) {
  if (typeof value !== "string") throw new Error("the file has something else where a text should be");
  return value;
}

function number(value) {
  if (!Number.isFinite(value)) throw new Error("the file has something else where a number should be");
  return value;
}
