// Conversations in the browser's database, and settings in its storage. Where the browser keeps
// nothing (private windows of some), the page works until it is closed.

const SETTINGS = "sconce.settings";

let database;

function open() {
  database ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("sconce", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return database;
}

async function run(mode, work) {
  const store = (await open()).transaction("conversations", mode).objectStore("conversations");
  return new Promise((resolve, reject) => {
    const request = work(store);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Every conversation, the newest first. */
export async function all() {
  try {
    const found = await run("readonly", (store) => store.getAll());
    return found.sort((a, b) => b.created - a.created);
  } catch {
    return [];
  }
}

/** Whether it could be kept. */
export async function save(conversation) {
  try {
    await run("readwrite", (store) => store.put(conversation));
    return true;
  } catch {
    return false;
  }
}

export async function forget(id) {
  try {
    await run("readwrite", (store) => store.delete(id));
  } catch {
    // Nothing was kept.
  }
}

export function settings() {
  try {
    return JSON.parse(localStorage.getItem(SETTINGS) ?? "{}");
  } catch {
    return {};
  }
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // Full or forbidden: they last as long as the page.
  }
}
