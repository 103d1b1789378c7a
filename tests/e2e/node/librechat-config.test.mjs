// What docs/librechat.md has for librechat.yaml, by LibreChat's own schema. DOCUMENT is the page.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";
import { load } from "js-yaml";

const { configSchema, Constants } = createRequire(import.meta.url)("librechat-data-provider");
const blocks = [...readFileSync(process.env.DOCUMENT, "utf8").matchAll(/^~~~yaml\n(.*?)^~~~/gms)];
const [config, compose] = blocks.map(([, text]) => load(text));

/** Whether a parsed part still has everything that was given: the schema drops what it does not know. */
function assertKept(given, parsed, path) {
  if (given === null || typeof given !== "object") return assert.equal(parsed, given, path);
  for (const [key, value] of Object.entries(given)) assertKept(value, parsed?.[key], `${path}.${key}`);
}

test("the configuration is one that LibreChat takes, and knows every word of", () => {
  assert.equal(blocks.length, 2);
  assert.equal(config.version, Constants.CONFIG_VERSION);
  assertKept(config, configSchema.parse(config), "config");
  assert.equal(config.endpoints.custom[0].titleModel, Constants.CURRENT_MODEL);
});

test("words that it does not know are noticed", () => {
  const wrong = structuredClone(config);
  wrong.endpoints.custom[0].baseUrl = "http://127.0.0.1";
  assert.throws(() => assertKept(wrong, configSchema.parse(wrong), "config"), /baseUrl/);
});

test("the container gets that file, and reaches the address that is allowed", () => {
  const [{ source }] = compose.services.api.volumes;
  const [host] = compose.services.api.extra_hosts[0].split(":");
  assert.equal(source, "./librechat.yaml");
  const { host: asked } = new URL(config.endpoints.custom[0].baseURL);
  assert.deepEqual(config.endpoints.allowedAddresses, [asked]);
  assert.ok(asked.startsWith(`${host}:`));
});

test("the other options that are listed are LibreChat's too", () => {
  const options = {
    apiKey: "user_provided", titleConvo: false, dropParams: ["user"], addParams: { top_k: 40 }, provider: "anthropic",
  };
  const text = readFileSync(process.env.DOCUMENT, "utf8");
  for (const name of Object.keys(options)) assert.match(text, new RegExp(`^\\| \`${name}: `, "m"));
  const other = structuredClone(config);
  Object.assign(other.endpoints.custom[0], options);
  assertKept(other, configSchema.parse(other), "config");
});
