// Where the address leads, keys, and what the head of the page does.

const PAGES = {
  front: frontPage, list: listPage, figures: figuresPage, compare: comparePage,
  neuron: (query, rest) => neuronPage(decoded(rest)),
};

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

let turn = 0;

/** Draw what the address names. */
async function show() {
  const mine = (turn += 1);
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [name, rest = ""] = path.split(/\/(.*)/s);
  const page = Object.hasOwn(PAGES, name) ? name : "front";
  let made;
  try {
    made = await PAGES[page](query, rest);
  } catch (error) {
    made = h("article", {}, h("h1", {}, "This cannot be shown"), h("p", { class: "missing" }, error.message));
    console.error(error);
  }
  if (mine !== turn) return;
  const focus = document.activeElement?.id;
  document.getElementById("main").replaceChildren(made);
  for (const each of document.querySelectorAll("nav a[data-page]")) {
    if (each.dataset.page === page) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  document.title = `${made.querySelector("h1")?.textContent.trim() || ""} – universal neurons`;
  arrive(page, focus);
  document.documentElement.dataset.shown = location.hash || "#/";
}

let before = "";

/** To the top of another page; where one was, within the same. */
function arrive(page, focus) {
  if (page === before && page === "list") {
    if (focus) document.getElementById(focus)?.focus();
    say(document.querySelector(".summary").textContent);
  } else {
    scrollTo(0, 0);
    if (before) document.getElementById("main").focus({ preventScroll: true });
  }
  before = page;
}

function go(place) {
  if (place >= 0) location.hash = run.address(place);
}

function random() {
  const within = listed.places.length ? listed.places : null;
  const block = run.home();
  go(within ? within[Math.floor(Math.random() * within.length)] : block.start + Math.floor(Math.random() * block.layers * block.width));
}

/** Rows of a list, or neighbours in it. */
function step(by) {
  const links = [...document.querySelectorAll("table.neurons tbody th a:first-child")];
  if (links.length) {
    const at = links.indexOf(document.activeElement);
    links[Math.min(Math.max(at < 0 ? 0 : at + by, 0), links.length - 1)].focus();
    return;
  }
  document.querySelector(`.steps a[rel=${by > 0 ? "next" : "prev"}]`)?.click();
}

const THEMES = ["", "light", "dark"];

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  kept.set("theme", name);
  document.getElementById("theme-name").textContent = name || "as the system";
}

function nextTheme() {
  const now = document.documentElement.dataset.theme || "";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
  say(`Colours: ${document.getElementById("theme-name").textContent}`);
}

const KEYS = {
  "/": ["search", () => { const box = document.getElementById("query"); box.focus(); box.select(); }],
  j: ["the next row or neuron", () => step(1)],
  k: ["the one before", () => step(-1)],
  p: ["pin the neuron", () => (document.activeElement.closest("tr, article.neuron") || document.querySelector("article.neuron"))?.querySelector("button.pin")?.click()],
  c: ["compare what is pinned", () => { location.hash = "#/compare"; }],
  l: ["the list", () => { location.hash = listed.address || "#/list"; }],
  f: ["the figures", () => { location.hash = "#/figures"; }],
  o: ["the overview", () => { location.hash = "#/"; }],
  r: ["a random neuron of the list", random],
  t: ["light, dark, or as the system", nextTheme],
  "?": ["these keys", () => document.getElementById("help").showModal()],
};

function pressed(event) {
  const writing = event.target.closest?.("input, select, textarea, dialog");
  if (event.ctrlKey || event.metaKey || event.altKey || writing || kept.get("keys") === "off") return;
  const key = KEYS[event.key];
  if (!key) return;
  event.preventDefault();
  key[1]();
}

function fillHelp() {
  const dialog = document.getElementById("help");
  dialog.append(h("h2", { id: "help-title" }, "Keys"),
    h("dl", {}, Object.entries(KEYS).map(([key, [what]]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, worded(what))))),
    h("p", {}, h("label", {}, h("input", { type: "checkbox", checked: kept.get("keys") !== "off", change: (event) => kept.set("keys", event.target.checked ? "on" : "off") }), " single keys do something")),
    h("form", { method: "dialog" }, h("button", {}, "Close")));
}

function searched(event) {
  event.preventDefault();
  const text = document.getElementById("query").value;
  const place = run.find(text);
  if (place >= 0) go(place);
  else if (text) location.hash = listAddress({ q: text, sort: "-excess_corr" });
  document.activeElement.blur();
}

async function start() {
  setTheme(THEMES.includes(kept.get("theme")) ? kept.get("theme") : "");
  showPins();
  document.getElementById("search").addEventListener("submit", searched);
  document.getElementById("random").addEventListener("click", random);
  document.getElementById("theme").addEventListener("click", nextTheme);
  document.getElementById("keys").addEventListener("click", KEYS["?"][1]);
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); document.getElementById("main").focus(); });
  addEventListener("keydown", pressed);
  addEventListener("hashchange", show);
  await run.start();
  fillHelp();
  document.querySelector("nav a[data-page=list]").textContent = worded("Neurons");
  document.querySelector("label[for=query]").textContent = worded("Search a token, or a neuron as 8.859 or L8/N859");
  document.getElementById("random").title = worded("A random neuron (r)");
  document.querySelector("#random .hidden").textContent = worded("A random neuron");
  await show();
}

addEventListener("DOMContentLoaded", () => start().catch((error) => {
  document.getElementById("main").replaceChildren(h("h1", {}, "This cannot be shown"), h("p", { class: "missing" }, error.message));
  console.error(error);
}));
