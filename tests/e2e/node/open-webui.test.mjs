// Open WebUI's page in a real browser. RELAY stands between it and the model's server and holds the answer
// back after its first text.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const { PAGE, RELAY, PICTURES, SCONCE_CHROMIUM: executablePath } = process.env;

let browser;
let page;

before(async () => {
  browser = await chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(100_000);
  await page.goto(PAGE);
  await page.getByRole("button", { name: "Okay, Let's Go!" }).click();
});
after(() => browser.close());

test("an answer is shown while it is written", async () => {
  await page.locator("#chat-input").click();
  await page.keyboard.type("Tell me a story about the sea.");
  await page.keyboard.press("Enter");
  const answer = page.locator(".chat-assistant");
  await page.waitForFunction(() => document.querySelector(".chat-assistant")?.innerText.trim());
  const first = (await answer.innerText()).trim();

  await fetch(`${RELAY}/go-on`, { method: "POST" });
  await page.getByRole("button", { name: "Regenerate" }).waitFor();
  const whole = (await answer.innerText()).trim();
  await page.screenshot({ path: `${PICTURES}/chat.png` });
  assert.ok(whole.length > first.length && whole.startsWith(first), `${first} … ${whole}`);
});

test("a model is ejected", async () => {
  await page.getByRole("button", { name: "Selected model: chat" }).click();
  const row = page.getByRole("option", { name: /minilm/ }).or(page.getByLabel("Select minilm model"));
  await row.first().hover();
  await page.screenshot({ path: `${PICTURES}/models.png` });
  await page.getByRole("button", { name: "Eject model" }).nth(1).click();
  await page.getByText("Model unloaded successfully").waitFor();
});
