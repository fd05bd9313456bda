// The panel of one answer: points are toggled here, decisions go to the server.
// gradio hands in `element` (the component's root) and `trigger` (tells Python of an event).
// Nothing is stored: not in cookies, not in the address, not in any storage of the browser.
const panel = () => element.querySelector(".lm-panel");
const toggles = () => [...element.querySelectorAll(".lm-toggle")];
const held = (button) => button.getAttribute("aria-pressed") === "true";
let asked = 0; // when a decision was sent; the next one waits until its reply has been drawn

function proposed(article) {
  return Object.fromEntries(
    toggles().map((button) => [button.closest("[data-point]").dataset.point, held(button)]),
  );
}

function show(article) {
  let mark = 0;
  let changed = false;
  for (const button of toggles()) {
    const point = button.closest("[data-point]");
    point.dataset.was ??= String(held(button));
    const differs = point.dataset.was !== String(held(button));
    point.classList.toggle("lm-changed", differs);
    changed ||= differs;
    if (held(button)) mark += Number(point.dataset.worth);
  }
  article.classList.toggle("lm-pending", changed);
  const output = article.querySelector("output");
  if (output) output.textContent = String(Math.round(mark * 1e6) / 1e6);
}

function toggle(button) {
  show(panel()); // remembers what it was
  button.setAttribute("aria-pressed", String(!held(button)));
  show(panel());
}

function act(name) {
  const article = panel();
  if (name === "undo" && article?.classList.contains("lm-pending")) {
    for (const button of toggles()) {
      button.setAttribute("aria-pressed", button.closest("[data-point]").dataset.was);
    }
    show(article);
    return;
  }
  // A key that is held down, or a double click, must not decide about an answer nobody has seen.
  if (Date.now() - asked < 5000) return;
  asked = Date.now();
  if (name !== "accept") {
    trigger("act", { name, answer: article?.dataset.answer ?? "" });
  } else if (article) {
    const identical = article.querySelector(".lm-identical")?.checked ?? false;
    const { answer, mark } = article.dataset;
    trigger("act", { name, answer, mark, identical, verdicts: proposed(article) });
  } else {
    asked = 0;
  }
}

element.addEventListener("click", (event) => {
  const toggled = event.target.closest(".lm-toggle");
  const action = event.target.closest("[data-do]");
  if (toggled) toggle(toggled);
  else if (action) act(action.dataset.do);
});

// Which point a piece of evidence belongs to, and the other way round.
element.addEventListener("pointerover", (event) => {
  const mark = event.target.closest("mark[data-points]");
  const point = event.target.closest("[data-point]");
  const ids = mark ? mark.dataset.points.split(" ") : point ? [point.dataset.point] : [];
  for (const other of element.querySelectorAll("mark[data-points]")) {
    const shared = other.dataset.points.split(" ").some((id) => ids.includes(id));
    other.classList.toggle("lm-lit", shared);
  }
  for (const other of element.querySelectorAll("[data-point]")) {
    other.classList.toggle("lm-lit", ids.includes(other.dataset.point));
  }
});

const KEYS = { a: "accept", u: "undo", j: "next", k: "previous" };
function pressed(event) {
  if (!element.isConnected) {
    document.removeEventListener("keydown", pressed);
    return;
  }
  const typing = event.target.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (!element.offsetParent) return;
  // The last decision may have emptied the list, and can be taken back still.
  if (!panel() && event.key !== "u") return;
  const button = element.querySelector(`[data-point="${event.key}"] .lm-toggle`);
  if (/^[1-9]$/.test(event.key) && button) toggle(button);
  else if (event.key === "i") element.querySelector(".lm-identical")?.click();
  else if (KEYS[event.key]) act(KEYS[event.key]);
  else return;
  event.preventDefault();
}
document.addEventListener("keydown", pressed);
watch("value", () => {
  asked = 0;
});
