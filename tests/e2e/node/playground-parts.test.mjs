// The playground's parts that need no browser.
import assert from "node:assert/strict";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const load = (name) => import(pathToFileURL(`${process.env.SCONCE_PLAYGROUND}/${name}`));
const tree = await load("tree.js");
const { EventReader } = await load("sse.js");
const { Answer, SettingError, toBody } = await load("request.js");
const { versions } = await load("picker.js");
const { parse, quantile, split, sum } = await load("prometheus.js");

const user = (content) => ({ role: "user", content });
const model = (content) => ({ role: "assistant", content });
const shown = (it) => tree.path(it).map(({ message }) => message.content);

test("an edited message is a branch, and both can be had again", () => {
  const it = tree.conversation();
  const first = tree.add(it, null, user("a"));
  const answer = tree.add(it, first.id, model("b"));
  tree.add(it, answer.id, user("c"));
  first.created -= 10;
  const edited = tree.add(it, null, user("A"));
  tree.add(it, edited.id, model("B"));
  assert.deepEqual(shown(it), ["A", "B"]);
  assert.deepEqual(tree.siblings(it, edited), [first, edited]);

  tree.select(it, first);
  assert.deepEqual(shown(it), ["a", "b", "c"]);
  tree.remove(it, first);
  assert.deepEqual(shown(it), ["A", "B"]);
  tree.remove(it, edited);
  assert.deepEqual([shown(it), it.leaf, it.root], [[], null, null]);
});

test("what is exported is read again, with every branch", () => {
  const it = tree.conversation();
  const ask = tree.add(it, null, user("a"));
  const call = { id: "1", type: "function", function: { name: "f", arguments: "{}" } };
  const answer = tree.add(it, ask.id, { ...model(""), tool_calls: [call] });
  answer.meta = { ttft_ms: 3, finish: "tool_calls", secret: "dropped" };
  tree.add(it, answer.id, { role: "tool", content: "4", tool_call_id: "1" });

  const [back] = tree.parse(tree.serialize([it]));

  assert.notEqual(back.id, it.id);
  assert.deepEqual(tree.toMessages(back, back.leaf, "s"), tree.toMessages(it, it.leaf, "s"));
  assert.deepEqual(tree.path(back)[1].meta, { ttft_ms: 3, finish: "tool_calls" });
});

test("a file that is not whole is refused in words", () => {
  const file = (nodes) => JSON.stringify({ format: "sconce-conversations", version: 1, conversations: [{ title: "t", created: 1, nodes, root: null, leaf: null }] });
  const node = (id, parent, message = user("x")) => ({ id, parent, created: 1, message });
  for (const [text, reason] of [
    ["{", /not JSON/],
    ["{}", /does not hold/],
    [file({ a: node("a", "missing") }), /not in the file/],
    [file({ a: node("a", "b"), b: node("b", "a") }), /circle/],
    [file({ a: node("a", null, { role: "root", content: "" }) }), /unknown role/],
    [file({ a: node("a", null, { role: "user", content: 7 }) }), /should be/],
  ]) assert.throws(() => tree.parse(text), reason, text);
});

test("events are the same wherever the stream is cut", () => {
  const stream = ": hello\r\n\r\ndata: {\"a\":\ndata: 1}\n\ndata:2\r\r\nevent: x\ndata: é\n\ndata: cut";
  const expected = ['{"a":\n1}', "2", "é"];
  for (let i = 0; i <= stream.length; i += 1) {
    for (let j = i; j <= stream.length; j += 7) {
      const reader = new EventReader();
      const events = [stream.slice(0, i), stream.slice(i, j), stream.slice(j)].flatMap((piece) => reader.push(piece));
      assert.deepEqual(events, expected, `${i} ${j}`);
    }
  }
});

test("only what was set is asked for, and what can't be meant is said", () => {
  const body = toBody({ temperature: "0", top_k: " ", stop: "a\n\\n", tools: "[]" }, "m", []);
  assert.deepEqual([body.temperature, body.stop, "top_k" in body, "tools" in body], [0, ["a", "\n"], false, false]);
  const schema = toBody({ schema: '{"type":"object"}' }, "m", []).response_format;
  assert.equal(schema.json_schema.strict, true);
  for (const [settings, field] of [[{ top_k: "1.5" }, "top_k"], [{ tools: "{" }, "tools"], [{ tools: "{}" }, "tools"], [{ schema: "x" }, "schema"], [{ temperature: "hot" }, "temperature"]]) {
    assert.throws(() => toBody(settings, "m", []), (error) => error instanceof SettingError && error.field === field);
  }
});

test("chunks become one message", () => {
  const answer = new Answer(0);
  const chunk = (delta, more = {}) => ({ model: "m", choices: [{ index: 0, delta, ...more }] });
  answer.take(chunk({ role: "assistant", content: "" }), 5);
  assert.equal(answer.meta.ttft_ms, undefined);
  answer.take(chunk({ reasoning_content: "hm" }), 10);
  answer.take(chunk({ content: "a" }), 20);
  answer.take(chunk({ tool_calls: [{ index: 0, id: "1", function: { name: "f", arguments: "{" } }] }), 30);
  answer.take(chunk({ tool_calls: [{ index: 0, function: { arguments: "}" } }] }, { finish_reason: "tool_calls" }), 40);
  answer.take({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 31 } }, 1010);

  assert.deepEqual(answer.message, {
    role: "assistant", content: "a", reasoning_content: "hm",
    tool_calls: [{ id: "1", type: "function", function: { name: "f", arguments: "{}" } }],
  });
  assert.deepEqual([answer.meta.ttft_ms, answer.meta.rate, answer.meta.finish], [10, 30, "tool_calls"]);
});

test("metrics are read, and quantiles are those of what came between", () => {
  const text = (a, b, c) => `# HELP x y\nh_bucket{m="q\\"u",le="1"} ${a}\nh_bucket{m="q\\"u",le="2"} ${b}\nh_bucket{m="q\\"u",le="+Inf"} ${c}\ng 7\n`;
  const [before, now] = [parse(text(5, 5, 5)), parse(text(5, 15, 15))];

  assert.equal(sum(now, "g"), 7);
  assert.equal(sum(now, "absent"), undefined);
  assert.equal(now[0].labels.m, 'q"u');
  assert.equal(quantile(before, now, "h", 0.5), 1.5);
  assert.equal(quantile(now, now, "h", 0.5), undefined);
  assert.equal(quantile(before, parse(text(5, 5, 9)), "h", 0.5), 2);
});

test("versions are told with what they get of a name, the largest share first", () => {
  const samples = parse([
    'sconce_route_share{model_name="a:prod",version="a@2"} 0.1',
    'sconce_route_share{model_name="a:prod",version="a@1"} 0.9',
    'sconce_route_share{model_name="a:prod",version="a@3"} 0',
    'sconce_route_shadow_share{model_name="a:prod",version="a@3"} 0.25',
    'sconce_route_share{model_name="b",version="b@1"} 0',
    'sconce_route_shadow_share{model_name="b",version="b@1"} 0',
  ].join("\n"));
  assert.deepEqual(split(samples).map(({ name, version, share, shadow }) => [name, version, share, shadow]), [
    ["a:prod", "a@1", 0.9, 0], ["a:prod", "a@2", 0.1, 0], ["a:prod", "a@3", 0, 0.25],
  ]);
  assert.deepEqual(split(parse("sconce_num_requests_running 1")), []);
});

test("versions to pick are those that get requests, and others of the same models", () => {
  const part = (name, version, share) => ({ name, version, share, shadow: 0 });
  const parts = [part("a:prod", "a@1", 0.9), part("a:prod", "a@2", 0.1), part("b", "b@4", 1)];
  const workers = ["a@1", "a@3", "a@3", "b@4", "ab@1", null].map((version) => ({ version }));
  assert.deepEqual(versions("a:prod", parts, workers), [{ version: "a@1", share: 0.9 }, { version: "a@2", share: 0.1 }, { version: "a@3", share: 0 }]);
  assert.deepEqual(versions("b", parts, workers), [{ version: "b@4", share: 1 }]);
  assert.deepEqual(versions("hash", [], workers), []);
});
