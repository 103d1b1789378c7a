// The page of clients/web in a real browser. PAGE is where it is served; RELAY stands before the model's
// server and holds the answer back after its first text.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const { PAGE, RELAY, SCONCE_CHROMIUM: executablePath } = process.env;

let browser;

before(async () => {
  browser = await chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
});
after(() => browser.close());

test("an answer is shown while it is written, and as text", async () => {
  const page = await browser.newPage();
  page.setDefaultTimeout(100_000);
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("request", (request) => {
    if (!request.url().startsWith(PAGE)) problems.push(request.url());
  });
  await page.goto(PAGE);

  await page.getByRole("textbox", { name: "Message" }).fill("Tell me a <b>story</b> about the sea.");
  await page.keyboard.press("Enter");
  const answer = page.locator("article.assistant");
  await page.waitForFunction(() => document.querySelector("article.assistant")?.textContent);
  const first = await answer.textContent();
  assert.ok(await page.getByRole("button", { name: "Send" }).isDisabled());

  await fetch(`${RELAY}/go-on`, { method: "POST" });
  await page.waitForFunction(() => !document.querySelector("button").disabled);
  const whole = await answer.textContent();
  assert.ok(whole.startsWith(first) && whole.length > first.length, whole);
  assert.equal(await page.locator("article.user").textContent(), "Tell me a <b>story</b> about the sea.");
  assert.equal(await page.locator("article.error").count(), 0);
  assert.deepEqual(problems, []);
});
