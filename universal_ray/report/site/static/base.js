// What all parts of the page share: elements, numbers, and texts as a person can see them.

/** An element with attributes and children; text enters the page as text, never as HTML. */
function h(name, attributes, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same of SVG. */
function s(name, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "style") for (const [key, of] of Object.entries(value)) element.style.setProperty(key, of);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const NOT_MEASURED = "not measured";

/** A number of so many significant digits, as text; null and NaN are no number. */
function figure(value, digits = 3) {
  if (typeof value === "string") return value;
  if (!known(value)) return "–";
  if (Number.isInteger(value)) return count(value);
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(digits - 1) : value.toPrecision(digits);
  return minus(size >= 1000 && size < 1e6 ? count(Math.round(value)) : text);
}

/** With so many decimals. */
function fixed(value, decimals = 3) {
  return known(value) ? minus(value.toFixed(decimals)) : "–";
}

function percent(value, decimals = 1) {
  return known(value) ? minus((100 * value).toFixed(decimals)) + " %" : "–";
}

function count(value) {
  return known(value) ? minus(String(value).replace(/\B(?=(\d{3})+$)/g, ",")) : "–";
}

function minus(text) {
  return text.replace("-", "−");
}

function known(value) {
  return typeof value === "number" && !Number.isNaN(value);
}

/** A number, or that there is none and why: unlike a zero. */
function measured(value, reason, text = fixed) {
  if (known(value)) return text(value);
  return h("span", { class: "none", title: reason ? `${NOT_MEASURED}: ${reason}` : NOT_MEASURED },
    h("span", { "aria-hidden": "true" }, "–"), h("span", { class: "hidden" }, NOT_MEASURED));
}

/** A sentence on neurons, about the units of the run, as report/units.py has it. */
function worded(text) {
  if (typeof text !== "string" || !run.no_neurons) return text;
  return text.replace(/(?<![\w./-])([Nn])euron(s?)(?![\w/]|\.\w)/g, (_, letter, more) => (letter === "N" ? run.unit[0].toUpperCase() + run.unit.slice(1) : run.unit) + more);
}

function plural(many, one, more = one + "s") {
  return `${count(many)} ${many === 1 ? one : more}`;
}

// The tables' own signs for blanks and breaks, ␣ ⏎ ⇥, are drawn as blanks and breaks are.
const SEEN = { " ": "·", "␣": "·", "\n": "↵", "⏎": "↵", "\t": "→", "⇥": "→", "\r": "␍", "\u00a0": "⍽", "\ufffd": "�" };
/** Blanks in a row that are drawn; of more, how many. */
const MANY = 4;
// Control and format characters, surrogates and blanks: what would not show, or would move what does.
const UNSEEN = /[\p{C}\p{Z}\ufffd␣⏎⇥]/u;

/** What stands for a character that would not show; of prose the tables' own signs stay. */
function sign(character, prose) {
  if (prose && "␣⏎⇥".includes(character)) return character;
  return SEEN[character] || `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

/** A text with its white space, and all else that cannot be seen, shown; of prose single blanks stay. */
function visible(text, prose = false) {
  const parts = [...text.matchAll(/(.)\1*/gsu)].flatMap(([same, character]) => {
    if (!UNSEEN.test(character) || (prose && same === " ")) return [same];
    const many = [...same].length;
    const shown = sign(character, prose);
    const kind = SEEN[character] ? "mark" : "mark code";
    if (many > MANY) return [h("span", { class: kind }, shown), h("span", { class: "times" }, `×${many}`)];
    return Array.from({ length: many }, () => h("span", { class: kind }, shown));
  });
  return parts.length ? parts : [h("span", { class: "mark code" }, "special")];
}

/** A token by itself. */
function token(text) {
  return h("bdi", { class: "token" }, visible(text));
}

function tokens(texts) {
  return h("span", { class: "tokens" }, texts.map((text) => [token(text), " "]));
}

/** Says something to those who listen to the page. */
function say(text) {
  document.getElementById("said").textContent = text;
}

/** What is kept between visits to this report, where the browser keeps anything. */
const kept = {
  get(name) {
    try { return localStorage.getItem(`universal_ray ${location.pathname} ${name}`); } catch { return null; }
  },
  set(name, value) {
    try { localStorage.setItem(`universal_ray ${location.pathname} ${name}`, value); } catch { /* it is kept for as long as the page is open */ }
  },
};
