// Tabs as https://www.w3.org/WAI/ARIA/apg/patterns/tabs/ has them: arrows move, one tab stop.

/** Has every tab list of the page work; `onShow(panel)` after a panel has been shown. */
export function wireTabs(root, onShow = () => {}) {
  for (const list of root.querySelectorAll("[role=tablist]")) wire(list, onShow);
}

function wire(list, onShow) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const choose = (chosen) => {
    for (const tab of tabs) {
      const is = tab === chosen;
      tab.setAttribute("aria-selected", String(is));
      tab.tabIndex = is ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !is;
    }
    onShow(document.getElementById(chosen.getAttribute("aria-controls")));
  };
  for (const tab of tabs) tab.addEventListener("click", () => choose(tab));
  list.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    const move = moves[event.key];
    if (move === undefined) return;
    event.preventDefault();
    const at = tabs.indexOf(document.activeElement);
    const to = Number.isFinite(move) ? (at + move + tabs.length) % tabs.length : move < 0 ? 0 : tabs.length - 1;
    tabs[to].focus();
    choose(tabs[to]);
  });
}
