// The server's API. The key lives in the tab's session storage and goes to this server only.

import { EventReader } from "./sse.js";

const KEY = "sconce.key";

export const getKey = () => sessionStorage.getItem(KEY) ?? "";

export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** What the server says of a request that it refused. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, init = {}) {
  const headers = { ...init.headers };
  if (getKey()) headers.authorization = `Bearer ${getKey()}`;
  const reply = await fetch(path, { ...init, headers, credentials: "omit" });
  if (!reply.ok) {
    const text = await reply.text();
    throw new ApiError(reply.status, messageOf(text) ?? `HTTP ${reply.status}`);
  }
  return reply;
}

function messageOf(text) {
  try {
    return JSON.parse(text).error?.message;
  } catch {
    return undefined;
  }
}

export async function models() {
  return (await (await call("v1/models")).json()).data;
}

export async function metrics() {
  return (await call("metrics")).text();
}

/** The probe's answer, whether it is ready or not. */
export async function health() {
  return (await fetch("health", { credentials: "omit" })).json();
}

/**
 * Streams a chat completion: calls `onChunk` with each chunk. Resolves with the answer's headers
 * when it is whole; a stream that ends without its end is an error.
 */
export async function chat(body, signal, onChunk) {
  const reply = await call("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const reader = new EventReader();
  const pieces = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await pieces.read();
    if (done) throw new Error("the answer broke off");
    for (const data of reader.push(value)) {
      if (data === "[DONE]") return reply.headers;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(0, chunk.error.message ?? "the server failed");
      onChunk(chunk);
    }
  }
}
