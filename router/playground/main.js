// Ties the page together: views, the list of conversations, models, the key, colours.

import { getKey, setKey } from "./api.js";
import { Chat } from "./chat.js";
import { byId, download, h } from "./dom.js";
import { Live } from "./live.js";
import { Picker } from "./picker.js";
import { Settings } from "./settings.js";
import * as storage from "./storage.js";
import { wireTabs } from "./tabs.js";
import * as tree from "./tree.js";

/** Files of conversations may be so large. */
const MAX_IMPORT_BYTES = 64 << 20;

const settings = new Settings(byId("settings"));
const picker = new Picker(settings, needKey);
const chat = new Chat(settings, {
  model: () => picker.value,
  needKey,
  changed: list,
  complain: (field, message) => (openPanel("settings", true), settings.complain(field, message)),
});
const live = new Live(byId("view-server"), needKey);

takeKeyFromAddress();
wireTabs(document, () => live.watch(!byId("view-server").hidden));
wireKey();
wireTheme();
wirePanels();
wireConversations();
picker.load();
list();

/** `#key=…` opens the page with a key: a fragment is never sent, and it leaves the address at once. */
function takeKeyFromAddress() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return;
  setKey(key);
  history.replaceState(null, "", location.pathname + location.search);
}

function needKey(reason) {
  const dialog = byId("key-dialog");
  if (dialog.open) return;
  byId("key-reason").textContent = reason ?? "This server asks for a key. It is kept in this tab until it is closed, and sent to this server only.";
  byId("key").value = getKey();
  dialog.showModal();
}

function wireKey() {
  byId("open-key").addEventListener("click", () => needKey());
  byId("key-dialog").addEventListener("close", ({ target }) => {
    if (!target.returnValue) return;
    setKey(target.returnValue === "use" ? byId("key").value.trim() : "");
    byId("key").value = "";
    target.returnValue = "";
    picker.load();
    live.watch(!byId("view-server").hidden);
  });
  // Enter in the field means the key, not the first button.
  byId("key").addEventListener("keydown", (event) => {
    if (event.key === "Enter") (event.preventDefault(), byId("key-dialog").close("use"));
  });
}

function wireTheme() {
  const apply = () => {
    const { theme } = settings.values;
    if (theme) document.documentElement.dataset.theme = theme;
  };
  byId("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = settings.values.theme ?? (dark ? "dark" : "light");
    settings.set("theme", now === "dark" ? "light" : "dark");
    apply();
  });
  apply();
}

/** A panel beside the conversation; on a narrow page it lies over it. */
function openPanel(id, open) {
  const panel = byId(id);
  panel.hidden = !open;
  panel.classList.toggle("open", open);
  byId(`toggle-${id}`).setAttribute("aria-expanded", String(open));
}

function wirePanels() {
  const isWide = matchMedia("(min-width: 60rem)");
  const arrange = () => (openPanel("list", isWide.matches), openPanel("settings", false));
  isWide.addEventListener("change", arrange);
  arrange();
  for (const id of ["list", "settings"]) {
    byId(`toggle-${id}`).addEventListener("click", () => openPanel(id, byId(id).hidden));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("key-dialog").open) chat.stop();
  });
}

async function list() {
  const conversations = await storage.all();
  byId("conversations").replaceChildren(...conversations.map((conversation) => {
    const isShown = conversation.id === chat.tree.id;
    const open = h("button.conversation", { "aria-current": isShown ? "true" : undefined, onclick: () => (chat.show(conversation), list()) }, conversation.title);
    const forget = h("button.icon", { "aria-label": `Delete ${conversation.title}`, onclick: () => drop(conversation) }, "×");
    return h("li", {}, open, forget);
  }));
}

async function drop(conversation) {
  if (!confirm(`Delete “${conversation.title}”?`)) return;
  await storage.forget(conversation.id);
  if (conversation.id === chat.tree.id) chat.show(tree.conversation());
  list();
}

function wireConversations() {
  byId("new-chat").addEventListener("click", () => (chat.show(tree.conversation()), list()));
  byId("export").addEventListener("click", async () => {
    const text = tree.serialize((await storage.all()).map((conversation) => withoutScores(conversation)));
    download("conversations.json", "application/json", text);
  });
  const file = byId("import-file");
  byId("import").addEventListener("click", () => file.click());
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    file.value = "";
    try {
      if (chosen.size > MAX_IMPORT_BYTES) throw new Error("the file is larger than 64 MiB");
      const conversations = tree.parse(await chosen.text());
      for (const conversation of conversations) await storage.save(conversation);
      byId("status").textContent = `${conversations.length} imported.`;
      list();
    } catch (error) {
      byId("status").textContent = `Nothing was imported: ${error.message}.`;
    }
  });
}

/** Scores can be had again, and are many times as long as the text. */
function withoutScores(conversation) {
  const nodes = Object.entries(conversation.nodes).map(([id, { scores: _, ...node }]) => [id, node]);
  return { ...conversation, nodes: Object.fromEntries(nodes) };
}
