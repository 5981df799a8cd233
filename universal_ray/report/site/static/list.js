// The list of all neurons: filters, search, order and pages, all of them in the address.

const PER_PAGE = 50;
const ALWAYS = ["excess_corr", "mean_corr", "mean_baseline", "is_universal", "baseline_se", "mutual_partners", "twin", "family", "status", "feature", "roles"];
const WAYS = ["fires on", "promotes", "suppresses"];
const CHOICES = ["model", "layer", "family", "status", "role", "universal", "pinned"];

/** What the list shows, from its address. */
function readList(query) {
  const given = new URLSearchParams(query);
  const state = { ranges: {}, q: given.get("q") || "", way: given.get("way") || "", sort: given.get("sort") || "", page: Math.max(Number(given.get("page")) || 1, 1) };
  for (const name of CHOICES) state[name] = given.get(name) || "";
  for (const [name, value] of given) {
    const column = run.columns.get(name);
    if (column?.kind === "number" && value.includes("..")) state.ranges[name] = value.split("..").map((end) => (end === "" || Number.isNaN(Number(end)) ? null : Number(end)));
  }
  return state;
}

function listAddress(state) {
  const given = new URLSearchParams();
  for (const name of [...CHOICES, "q", "way", "sort"]) if (state[name] || state[name] === 0) given.set(name, state[name]);
  for (const [name, [low, high]] of Object.entries(state.ranges || {})) given.set(name, `${low ?? ""}..${high ?? ""}`);
  if (state.page > 1) given.set("page", state.page);
  const query = given.toString();
  return query ? `#/list?${query}` : "#/list";
}

/** The places that a list holds, in its order; kept, so that a neuron's page can go on in it. */
const listed = { address: "", places: new Uint32Array(0), words: null, unmeasured: 0 };

async function found(state) {
  const wanted = [...new Set([...ALWAYS, ...Object.keys(state.ranges), sortOf(state).name])];
  await run.all(wanted);
  const passes = passing(state);
  const words = state.q ? await search(state.q, state.way) : null;
  const allowed = words && marked(words.neurons);
  let unmeasured = 0;
  const order = ordered(sortOf(state));
  const places = new Uint32Array(order.length);
  let many = 0;
  for (const place of order) {
    if (allowed && !allowed[place]) continue;
    const verdict = passes(place);
    if (verdict === null) unmeasured += 1;
    else if (verdict) places[many++] = place;
  }
  return { places: places.slice(0, many), words, unmeasured };
}

function marked(places) {
  const marks = new Uint8Array(run.neurons);
  for (const place of places) marks[place] = 1;
  return marks;
}

/** A test of places: true, false, or null where a filter's number was not measured. */
function passing(state) {
  const tests = [];
  const block = run.blocks.find((each) => each.label === state.model);
  if (block) tests.push((place) => place >= block.start && place < block.start + block.layers * block.width);
  if (state.layer !== "") {
    const layer = Number(state.layer);
    tests.push((place) => run.where(place).layer === layer);
  }
  if (state.pinned) tests.push((place) => pins.has(run.id(place)));
  for (const name of ["family", "status"]) if (state[name]) tests.push(coded(name, state[name]));
  if (state.role) tests.push(flagged(state.role));
  const universal = run.columns.get("is_universal")?.values;
  if (state.universal && universal) {
    const value = { yes: 1, no: 0 }[state.universal];
    tests.push(value === undefined ? (place) => Number.isNaN(universal[place]) : (place) => universal[place] === value);
  }
  const ranges = Object.entries(state.ranges).filter(([name]) => run.columns.get(name)?.values).map(([name, [low, high]]) => [run.columns.get(name).values, low ?? -Infinity, high ?? Infinity]);
  return (place) => {
    for (const test of tests) if (!test(place)) return false;
    let unknown = false;
    for (const [values, low, high] of ranges) {
      const value = values[place];
      if (value < low || value > high) return false;
      if (Number.isNaN(value)) unknown = true;
    }
    return unknown ? null : true;
  };
}

function coded(name, label) {
  const column = run.columns.get(name);
  const code = column ? column.labels.indexOf(label) + 1 : 0;
  return (place) => code > 0 && column.values[place] === code;
}

function flagged(role) {
  const column = run.columns.get("roles");
  if (role === "any") return (place) => column && column.values[place] !== 0;
  const bit = column ? column.labels.indexOf(role) : -1;
  return (place) => bit >= 0 && ((column.values[place] >>> bit) & 1) === 1;
}

function sortOf(state) {
  const name = (state.sort || (run.columns.has("excess_corr") ? "-excess_corr" : "place")).replace(/^-/, "");
  return { name, down: state.sort ? state.sort.startsWith("-") : name !== "place" };
}

const orders = new Map();

/** All places in the order of a column, what was not measured last. */
function ordered({ name, down }) {
  const key = (down ? "-" : "") + name;
  if (!orders.has(key)) {
    const column = run.columns.get(name);
    if (!column?.values || column.kind === "tokens" || column.kind === "flags") return Uint32Array.from({ length: run.neurons }, (_, place) => place);
    if (orders.size > 6) orders.clear();
    orders.set(key, sorted(Float64Array.from(column.values), down));
  }
  return orders.get(key);
}

/** Places by value, equal ones as they stand, NaN at the end: a radix sort of the 64 bits' upper 48. */
function sorted(values, down) {
  const bits = new Uint32Array(values.buffer);
  const keys = [new Uint32Array(values.length), new Uint32Array(values.length)];
  for (let place = 0; place < values.length; place++) {
    const value = values[place];
    let [high, low] = [bits[2 * place + 1], bits[2 * place]];
    if (high >>> 31) [high, low] = [~high >>> 0, ~low >>> 0];
    else high = (high | 0x80000000) >>> 0;
    if (down) [high, low] = [~high >>> 0, ~low >>> 0];
    if (Number.isNaN(value)) [high, low] = [0xffffffff, 0xffffffff];
    keys[0][place] = low;
    keys[1][place] = high;
  }
  let order = Uint32Array.from({ length: values.length }, (_, place) => place);
  for (const [key, shift] of [[keys[0], 16], [keys[1], 0], [keys[1], 16]]) order = byDigit(order, key, shift);
  return order;
}

function byDigit(order, key, shift) {
  const counts = new Uint32Array(65537);
  for (const place of order) counts[((key[place] >>> shift) & 0xffff) + 1] += 1;
  for (let digit = 0; digit < 65536; digit++) counts[digit + 1] += counts[digit];
  const next = new Uint32Array(order.length);
  for (const place of order) next[counts[(key[place] >>> shift) & 0xffff]++] = place;
  return next;
}

/** Neurons that tokens with a text in them lead to: {texts, neurons}. */
async function search(query, way) {
  if (!run.words) return { texts: [], neurons: [], lacking: true };
  const { content, arrays } = await load("tokens");
  const typed = (text) => text.toLowerCase().replaceAll("␣", " ").replaceAll("⏎", "\n").replaceAll("⇥", "\t");
  const texts = content.texts.map(typed), wanted = typed(query);
  let chosen = texts.flatMap((text, at) => (text.trim() === wanted.trim() && wanted.trim() ? [at] : []));
  if (!chosen.length) chosen = texts.flatMap((text, at) => (text.includes(wanted) ? [at] : []));
  const neurons = new Set();
  const only = WAYS.indexOf(way);
  for (const at of chosen.slice(0, 200)) {
    const number = content.files.findLastIndex((first) => first <= at);
    const entries = (await load(`tokens-${Math.min(number, content.files.length - 2)}`)).arrays[0];
    const base = arrays[0][content.files[Math.min(number, content.files.length - 2)]];
    for (let entry = arrays[0][at] - base; entry < arrays[0][at + 1] - base; entry++) {
      if (only < 0 || entries[entry] % 4 === only) neurons.add(Math.floor(entries[entry] / 4));
    }
  }
  return { texts: chosen.map((at) => content.texts[at]), neurons: [...neurons] };
}

async function listPage(query) {
  const state = readList(query);
  const result = await found(state);
  Object.assign(listed, result, { address: listAddress(state) });
  const pages = Math.max(Math.ceil(result.places.length / PER_PAGE), 1);
  state.page = Math.min(state.page, pages);
  const shown = [...result.places.slice((state.page - 1) * PER_PAGE, state.page * PER_PAGE)];
  const extra = [...new Set([...Object.keys(state.ranges), sortOf(state).name])].filter((name) => !ALWAYS.includes(name) && run.columns.get(name)?.kind === "number");
  await run.all(["fires_on", "promotes"]);
  const words = run.words ? (await load("tokens")).content.texts : [];
  run.said = await run.descriptionsOf();
  return h("article", { class: "list" }, h("h1", {}, worded("Neurons")), filters(state), summary(state, result),
    result.places.length ? table(state, shown, extra, words) : h("p", { class: "nothing" }, worded("No neuron passes all of these. "), h("a", { href: "#/list" }, "Show all")),
    pager(state, pages), csvButton(state, extra, words));
}

/** Go to the list with some of its state changed, from its first page. */
function change(state, changes) {
  location.hash = listAddress({ ...state, page: 1, ...changes });
}

function chooser(state, name, title, options) {
  const id = `filter-${name}`;
  return h("div", { class: "field" }, h("label", { for: id }, title),
    h("select", { id, change: (event) => change(state, { [name]: event.target.value }) },
      options.map(([value, text]) => h("option", { value, selected: String(value) === String(state[name]) }, text))));
}

function filters(state) {
  const layers = Math.max(...run.blocks.map((block) => block.layers));
  const labels = (name) => (run.columns.get(name)?.labels || []).map((each) => [each, each]).toSorted();
  const set = [...CHOICES, "q", "way"].filter((name) => state[name]).length + Object.keys(state.ranges).length;
  const open = matchMedia("(min-width: 760px)").matches || set > 0;
  return h("details", { class: "filtering", open }, h("summary", {}, "Filters"), h("form", { class: "filters", "aria-label": "Filters", submit: (event) => event.preventDefault() },
    run.blocks.length > 1 && chooser(state, "model", "Model", [["", "all models"], ...run.blocks.map((block) => [block.label, block.label])]),
    chooser(state, "layer", "Layer", [["", "all layers"], ...Array.from({ length: layers }, (_, layer) => [String(layer), `layer ${layer}`])]),
    run.columns.has("is_universal") && chooser(state, "universal", "Universal", [["", "any"], ["yes", "universal"], ["no", "not universal"], ["unmeasured", NOT_MEASURED]]),
    run.columns.has("family") && chooser(state, "family", "Family", [["", "any family"], ...labels("family")]),
    run.columns.has("status") && chooser(state, "status", "Explained", [["", "any"], ...labels("status")]),
    run.columns.has("roles") && chooser(state, "role", "Role", [["", "any or none"], ["any", "some role"], ...labels("roles")]),
    run.words && h("div", { class: "field wide" }, h("label", { for: "filter-q" }, "Token"),
      h("div", { class: "joined" },
        h("input", { id: "filter-q", type: "search", value: state.q, placeholder: "part of a token", autocomplete: "off", spellcheck: "false", change: (event) => change(state, { q: event.target.value }) }),
        h("select", { "aria-label": "How the token matters", change: (event) => change(state, { way: event.target.value }) },
          [["", "any way"], ...WAYS.map((way) => [way, way])].map(([value, text]) => h("option", { value, selected: value === state.way }, text))))),
    chooser(state, "pinned", "Pinned", [["", "all"], ["yes", "pinned alone"]]),
    Object.entries(state.ranges).map(([name, ends]) => rangeField(state, name, ends)), addRange(state)));
}

function rangeField(state, name, [low, high]) {
  const column = run.columns.get(name);
  const set = (at) => (event) => {
    const value = event.target.value.trim().replace("−", "-");
    const ends = [low, high];
    ends[at] = value === "" || Number.isNaN(Number(value)) ? null : Number(value);
    change(state, { ranges: { ...state.ranges, [name]: ends } });
  };
  const { [name]: _, ...rest } = state.ranges;
  return h("fieldset", { class: "field range" }, h("legend", { title: column.description }, word(name)),
    h("div", { class: "joined" },
      h("input", { "aria-label": `${word(name)}, at least`, inputmode: "decimal", placeholder: "from", value: low ?? "", change: set(0) }),
      h("input", { "aria-label": `${word(name)}, at most`, inputmode: "decimal", placeholder: "to", value: high ?? "", change: set(1) }),
      h("button", { type: "button", class: "drop", title: `Without ${word(name)}`, click: () => change(state, { ranges: rest }) }, "×", h("span", { class: "hidden" }, ` without ${word(name)}`))));
}

/** Every number of a neuron can be filtered by. */
function addRange(state) {
  const free = [...run.columns.values()].filter((column) => column.kind === "number" && !state.ranges[column.name]);
  const tables = [...new Set(free.map((column) => column.table))];
  return h("div", { class: "field" }, h("label", { for: "filter-add" }, "More"),
    h("select", { id: "filter-add", change: (event) => change(state, { ranges: { ...state.ranges, [event.target.value]: [null, null] } }) },
      h("option", { value: "" }, "filter by a number …"),
      tables.map((name) => h("optgroup", { label: name }, free.filter((column) => column.table === name).map((column) => h("option", { value: column.name, title: column.description }, word(column.name)))))));
}

function summary(state, { places, words, unmeasured }) {
  const told = [`${count(places.length)} of ${plural(run.neurons, run.unit)}`];
  if (words) told.push(words.lacking ? "no table tells of tokens" : words.texts.length ? [plural(words.texts.length, "token"), ": ", tokens(words.texts.slice(0, 12)), words.texts.length > 12 && "…"] : "no such token");
  if (unmeasured) told.push(`${count(unmeasured)} left out: what is filtered by was ${NOT_MEASURED}`);
  return h("p", { class: "summary" }, told.map((part, at) => [at ? " · " : "", part]));
}

const HEADS = () => [
  ["", "", "pin"], ["place", run.unit, "id"], ["excess_corr", "excess", "number bar"], ["mean_corr", "best r", "number more"], ["mean_baseline", run.chance, "number more"],
  ["mutual_partners", "mutual", "number more"], ["", "description", "said more"], ["family", "family", "family"], ["roles", "roles", "more"], ["", "fires on", "words"], ["", "promotes", "words more"],
];

function table(state, places, extra, words) {
  const { name, down } = sortOf(state);
  const heads = [...HEADS().filter(([column, title]) => (title === "description" ? run.said : title === "promotes" ? run.words && !run.said : title === "fires on" ? run.words : !column || column === "place" || run.columns.has(column))), ...extra.map((each) => [each, word(each), "number"])];
  const head = ([column, title, kind]) => {
    if (!column || column === "roles" || column === "description") return h("th", { scope: "col", class: kind }, title || h("span", { class: "hidden" }, "pin"));
    const here = column === name;
    const next = here && down ? column : `-${column}`;
    return h("th", { scope: "col", class: kind, "aria-sort": here ? (down ? "descending" : "ascending") : null },
      h("a", { href: listAddress({ ...state, sort: column === "place" ? "place" : next, page: 1 }), title: run.columns.get(column)?.description || "by place" }, title, here && h("span", { class: "arrow", "aria-hidden": "true" }, down ? " ↓" : " ↑")));
  };
  return scrolling(h("table", { class: "neurons" }, h("thead", {}, h("tr", {}, heads.map(head))),
    h("tbody", {}, places.map((place) => h("tr", {}, heads.map(([column, title, kind]) => cell(place, column || title, kind, words)))))), worded("Neurons"));
}

function cell(place, column, kind, words) {
  const value = run.columns.get(column)?.values?.[place];
  switch (column) {
    case "": return h("td", { class: kind }, pinButton(place));
    case "place": return h("th", { scope: "row", class: kind }, link(place), marks(place));
    case "excess_corr": return h("td", { class: kind }, excessCell(place, value));
    case "family": return h("td", { class: kind }, familyCell(place));
    case "roles": return h("td", { class: kind }, rolesOf(place).join(", "));
    case "description": return h("td", { class: kind }, run.said[place] ? h("bdi", { class: "saying" }, visible(run.said[place].replace(/^Fires on: /, ""), true)) : measured(null, "no description holds"));
    case "fires on": return h("td", { class: kind }, wordsOf(place, "fires_on", words));
    case "promotes": return h("td", { class: kind }, wordsOf(place, "promotes", words));
    case "mutual_partners": return h("td", { class: kind }, measured(value, run.reason(column, place), count));
    default: return h("td", { class: kind }, measured(value, run.reason(column, place), figure));
  }
}

function excessCell(place, value) {
  if (!known(value)) return measured(null, run.reason("excess_corr", place));
  const universal = run.columns.get("is_universal")?.values[place] === 1;
  return [h("span", { class: universal ? "gauge own" : "gauge", "aria-hidden": "true" }, h("i", { style: { width: `${Math.max(Math.min(value / 0.8, 1), 0) * 100}%` } })), fixed(value)];
}

/** Signs that a neuron bears beside its name. */
function marks(place) {
  const twin = run.columns.get("twin")?.values[place];
  return [
    run.columns.get("is_universal")?.values[place] === 1 && h("span", { class: "sign own", title: "universal" }, "universal"),
    twin >= 0 && h("a", { class: "sign", href: run.address(twin), title: `It has the same best partners as ${run.id(twin)}` }, `= ${run.short(twin)}`),
  ];
}

function familyCell(place) {
  const family = labelOf("family", place);
  if (!family) return measured(null, run.reason("family", place));
  const status = labelOf("status", place);
  return h("span", { class: status === "member" ? "" : "weak", title: `${status || ""}: ${labelOf("feature", place)}` }, family, status !== "member" && h("span", { class: "hidden" }, `, ${status}`));
}

function labelOf(name, place) {
  const column = run.columns.get(name);
  const code = column?.values?.[place];
  return code ? column.labels[code - 1] : "";
}

function rolesOf(place) {
  const column = run.columns.get("roles");
  return column?.values ? column.labels.filter((_, bit) => (column.values[place] >>> bit) & 1) : [];
}

function wordsOf(place, name, words) {
  const codes = run.columns.get(name)?.values?.subarray(3 * place, 3 * place + 3) || [];
  return tokens([...codes].filter((code) => code >= 0).map((code) => words[code]));
}

function pager(state, pages) {
  if (pages < 2) return null;
  const step = (page, title, key) => (page < 1 || page > pages ? h("span", { class: "off" }, title) : h("a", { href: listAddress({ ...state, page }), rel: key }, title));
  return h("nav", { class: "pager", "aria-label": "Pages of the list" }, step(state.page - 1, "← before", "prev"), h("span", {}, `page ${count(state.page)} of ${count(pages)}`), step(state.page + 1, "after →", "next"));
}

function csvButton(state, extra, words) {
  return h("p", { class: "tools" }, h("button", { type: "button", click: () => saveCsv(extra, words) }, `Save these ${count(listed.places.length)} as CSV`));
}

const FORMULA = /^[=+\-@\t\r]/;

/** All that passes the filters, with the columns that are shown. */
function saveCsv(extra, words) {
  const numbersOf = ["excess_corr", "mean_corr", "mean_baseline", "is_universal", "mutual_partners", ...extra].filter((name) => run.columns.has(name));
  const quoted = (text) => `"${(FORMULA.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  const lines = [["model", "layer", "neuron", ...numbersOf, "twin", "family", "status", "roles", "fires_on", "promotes"].join(",")];
  for (const place of listed.places) {
    const { block, layer, neuron } = run.where(place);
    const twin = run.columns.get("twin")?.values[place];
    const told = ["fires_on", "promotes"].map((name) => [...(run.columns.get(name)?.values?.subarray(3 * place, 3 * place + 3) || [])].filter((code) => code >= 0).map((code) => words[code]).join(" | "));
    lines.push([quoted(block.label), layer, neuron, ...numbersOf.map((name) => csvNumber(run.columns.get(name).values[place])),
      twin >= 0 ? quoted(run.id(twin)) : "", quoted(labelOf("family", place)), quoted(labelOf("status", place)), quoted(rolesOf(place).join("; ")), ...told.map(quoted)].join(","));
  }
  const address = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
  h("a", { href: address, download: "neurons.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
  say(`${plural(listed.places.length, run.unit)} saved`);
}

/** As short as float32 allows; nothing where not measured. */
function csvNumber(value) {
  return Number.isNaN(value) ? "" : String(Number(value.toPrecision(7)));
}
