// Text with activations: each token over a stack of bars, one for every model, so that the same
// text is read under all of them at once.

/** Shares of a scale below this are no bar: what GELU leaves of a silent neuron. */
const SEEN_FROM = 0.04;

const view = { shared: kept.get("scale") !== "own" };

/**
 * The examples of a neuron that are of some kinds, `most` of each at the most, as cards.
 * `rows` are its rows by table.
 */
function sameText(place, rows, { kinds, most }) {
  const chosen = kinds.flatMap((kind) => rows.examples.filter((each) => each.kind === kind).slice(0, most));
  if (!chosen.length) return h("p", { class: "missing" }, "No example of this kind.");
  const lanes = lanesOf(place, chosen[0]);
  const scales = lanes.map((_, lane) => Math.max(...rows.examples.map((each) => largest(lane, each)), 1e-9));
  const unread = chosen.some((each) => !each.partner_quantised);
  return h("div", { class: "examples" }, laneLegend(lanes), unread && h("p", { class: "lanes" }, "Dotted: partners were not read on this row."), chosen.map((each) => exampleCard(each, lanes, scales)));
}

/** Who the bars are of: the neuron, then its best partner in every other model. */
function lanesOf(place, example) {
  return [{ id: run.id(place), place }, ...(example.partners || []).map((id) => ({ id, place: id ? run.find(id) : -1 }))];
}

function laneLegend(lanes) {
  return h("p", { class: "lanes" }, h("span", {}, "Bars, from the top: "),
    lanes.map((lane, at) => h("span", { class: `lane lane-${Math.min(at, 1)}` }, lane.place >= 0 ? link(lane.place) : lane.id || "no partner")));
}

/** Activations of a lane on the tokens of an example. */
function laneValues(lane, example) {
  if (lane === 0) return example.quantised.map((each) => each * example.scale);
  const values = example.partner_quantised?.[lane - 1];
  return values ? values.map((each) => each * example.partner_scales[lane - 1]) : null; // not read there, or no partner
}

function largest(lane, example) {
  return Math.max(...(laneValues(lane, example) || [0]).map(Math.abs));
}

const KINDS = { top: "largest", bottom: "smallest", quantile: "quantile", random: "random", silent: "silent" };

function exampleCard(example, lanes, scales) {
  const values = lanes.map((_, lane) => laneValues(lane, example));
  const most = lanes.map((_, lane) => (view.shared ? scales[lane] : largest(lane, example) || 1));
  const readout = h("span", { class: "readout" }, `${KINDS[example.kind] || example.kind} · row ${count(example.row)} · ${subset(example)}largest here ${figure(largest(0, example))}`);
  const resting = readout.textContent;
  const columns = example.token_ids.map((id, at) => h("span", { class: example.start + at === example.focus ? "column focus" : "column", "data-at": at },
    tokenOf(id, at, values[0], most[0]),
    h("span", { class: "stack" }, values.map((each, lane) => laneBar(each?.[at], most[lane], lane)))));
  const text = h("div", { class: "score", tabindex: "0", role: "group", "aria-label": `Example, ${KINDS[example.kind]}: arrow keys move along its tokens` }, columns);
  let here = -1;
  const point = (at) => {
    columns[here]?.classList.remove("here");
    here = at;
    columns[here]?.classList.add("here");
    readout.textContent = here < 0 ? resting : `“${shownText(textOf(example.token_ids[here]))}” at ${count(example.start + here)}: ${lanes.map((lane, each) => `${lane.id} ${figure(values[each]?.[here])}`).join(", ")}`;
  };
  text.addEventListener("pointerover", (event) => point(Number(event.target.closest(".column")?.dataset.at ?? -1)));
  text.addEventListener("pointerleave", () => point(-1));
  text.addEventListener("blur", () => point(-1));
  text.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    point(Math.min(Math.max(here + step, 0), columns.length - 1));
    say(readout.textContent);
  });
  return h("div", { class: "example" }, text, h("p", { class: "about" }, readout));
}

function subset(example) {
  return example.subset ? `${example.subset} · ` : "";
}

function laneBar(value, most, lane) {
  if (!known(value)) return h("span", { class: "lane-bar unknown" });
  const share = Math.min(Math.abs(value) / most, 1);
  return h("span", { class: `lane-bar lane-${Math.min(lane, 1)}${value < 0 ? " below" : ""}` }, share > SEEN_FROM && h("i", { style: { height: `${Math.round(share * 100)}%` } }));
}

function tokenOf(id, at, values, most) {
  const text = textOf(id);
  const share = Math.min(Math.abs(values[at]) / most, 1);
  const tint = Math.round(34 * Math.log10(1 + 9 * share));
  const shown = token(text);
  shown.style.setProperty("--tint", `${tint}%`);
  if (values[at] < 0) shown.classList.add("below");
  return shown;
}

function textOf(id) {
  return run.texts?.[id] ?? `#${id}`;
}

/** The same where only text can be: in a picture, or said. */
function shownText(text) {
  return visible(text).map((part) => part.textContent ?? part).join("");
}

/** Contexts of the tokens on which a neuron is largest, where there is nothing better. */
function contexts(statistics, most = 8) {
  const texts = statistics.example_text || [];
  return h("ol", { class: "contexts" }, texts.slice(0, most).map((text, at) => text !== null && h("li", {},
    h("bdi", { class: "context" }, visible(text)), h("span", { class: "value" }, figure(statistics.example_value?.[at])))));
}
