// The page of a sweep of `sconce bench`, opened from the file REPORT as a browser would without a network.
// Pictures go to PICTURES.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const { REPORT, PICTURES, SCONCE_CHROMIUM: executablePath } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

let browser;

before(async () => {
  browser = await chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
});
after(() => browser.close());

for (const [name, width, colorScheme] of [["wide", 1280, "light"], ["phone", 375, "dark"]]) {
  test(`${name}: it asks nobody for anything, fits, and has its plots`, async () => {
    const page = await browser.newPage({ viewport: { width, height: 800 }, colorScheme });
    const [asked, wrong] = [[], []];
    page.on("request", (request) => asked.push(request.url()));
    page.on("console", (message) => wrong.push(message.text()));
    const url = pathToFileURL(REPORT).href;
    await page.goto(url);

    const plots = await page.locator("svg").evaluateAll((all) => all.map((it) => [it.getAttribute("aria-label"), it.clientWidth > 200 && it.clientHeight > 100]));
    for (const title of [
      "Throughput and time to first token", "Throughput and time between tokens", "Throughput by load", "Requests by load",
      "Time to first token", "Time between tokens", "Output tokens per second", "Requests",
    ]) assert.deepEqual(plots.find(([label]) => label === title), [title, true]);
    // Two curves of three points each.
    assert.equal(await page.locator('svg[aria-label="Throughput and time to first token"] circle').count(), 6);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "wider than the page");
    assert.deepEqual([asked, wrong], [[url], []]);

    await page.screenshot({ path: `${PICTURES}/report-${name}.png`, fullPage: true });
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa"] }));
    assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes[0].html.slice(0, 200)}`), []);
  });
}
