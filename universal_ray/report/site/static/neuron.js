// The page of one neuron, and two of them beside one another.

const pins = new Set(JSON.parse(kept.get("pins") || "[]"));

function pinButton(place) {
  const id = run.id(place);
  const button = h("button", { type: "button", class: "pin", "aria-pressed": String(pins.has(id)), title: "Pin, to compare (p)", click: () => pin(id) },
    h("span", { "aria-hidden": "true" }, pins.has(id) ? "●" : "○"), h("span", { class: "hidden" }, `pin ${id}`));
  button.dataset.id = id;
  return button;
}

function pin(id) {
  if (!pins.delete(id)) pins.add(id);
  kept.set("pins", JSON.stringify([...pins]));
  for (const button of document.querySelectorAll("button.pin")) {
    if (button.dataset.id !== id) continue;
    button.setAttribute("aria-pressed", String(pins.has(id)));
    button.firstElementChild.textContent = pins.has(id) ? "●" : "○";
  }
  showPins();
  say(pins.has(id) ? `${id} is pinned` : `${id} is not pinned any more`);
}

function showPins() {
  const badge = document.getElementById("pins");
  badge.hidden = !pins.size;
  badge.textContent = count(pins.size);
}

async function neuronPage(name) {
  const place = run.find(name);
  if (place < 0) return h("article", {}, h("h1", {}, worded("No such neuron")), h("p", {}, h("bdi", {}, visible(name)), " is not in this run. ", h("a", { href: "#/list" }, worded("All neurons"))));
  return h("article", { class: "neuron" }, await neuronBody(place, false));
}

async function neuronBody(place, beside) {
  await Promise.all([run.all(ALWAYS), run.vocabulary()]);
  const rows = await run.detail(place);
  return [neuronHead(place, rows, beside), strip(place, beside), rows ? [
    examplesSection(place, rows), partnersSection(place, rows), logitsSection(rows), activationsSection(place, rows), headsSection(rows), interventionsSection(rows), featuresSection(rows), rawSection(place, rows),
  ] : h("p", { class: "missing" }, worded("This neuron is told by its row in the list alone, so that the report stays small: report.detail=all tells all neurons in full.")), rows ? null : numbersOfList(place)];
}

function neuronHead(place, rows, beside) {
  const at = listed.places.indexOf(place);
  const { block, layer, neuron } = run.where(place);
  const title = h(beside ? "h2" : "h1", { class: "title" }, beside ? link(place) : [h("span", { class: "model" }, block.label, ":"), `${layer}.${neuron}`], " ", pinButton(place));
  const steps = !beside && at >= 0 && h("nav", { class: "steps", "aria-label": "In the list" },
    at > 0 && h("a", { href: run.address(listed.places[at - 1]), rel: "prev", title: "The one before (k)" }, "←"),
    h("a", { href: listed.address, class: "position" }, `${count(at + 1)} of ${count(listed.places.length)}`),
    at + 1 < listed.places.length && h("a", { href: run.address(listed.places[at + 1]), rel: "next", title: "The next one (j)" }, "→"));
  return h("header", { class: "head" }, h("div", { class: "line" }, title, steps), h("p", { class: "signs" }, signs(place)), description(place, rows));
}

function signs(place) {
  const twin = run.columns.get("twin")?.values[place];
  const universal = run.columns.get("is_universal")?.values[place];
  const mutual = run.columns.get("mutual_partners")?.values[place];
  return [
    run.no_neurons && h("span", { class: "sign", title: run.no_neurons }, run.unit),
    universal === 1 ? h("span", { class: "sign own" }, "universal") : universal === 0 ? h("span", { class: "sign" }, "not universal") : null,
    known(mutual) && h("span", { class: "sign" }, `${plural(mutual, "mutual partner")}`),
    twin >= 0 && h("span", { class: "sign warn" }, "same partners as ", link(twin)),
    ...rolesOf(place).map((role) => h("a", { class: "sign", href: listAddress({ role }) }, role)),
  ].flatMap((sign) => (sign ? [sign, " "] : []));
}

/** What the run says of it in words: the description that was scored, or what its best feature says. */
function description(place, rows) {
  const told = rows?.descriptions;
  if (told?.text) return [h("p", { class: "lead" }, h("bdi", {}, visible(told.text, true))), evidence(told)];
  const family = labelOf("family", place), feature = labelOf("feature", place), status = labelOf("status", place);
  const share = rows?.taxonomy?.variance_reduction;
  const logit = rows?.roles?.logit_class;
  return [h("p", { class: "lead" }, feature ? [status === "member" ? "Goes with the feature " : "Nothing explains it well; closest is the feature ", h("b", {}, feature), ` (${family})`, known(share) && `, which explains ${percent(share)} of its variance`, ". "] : "What it responds to was not measured. ",
    logit && [rows.roles.logit_effect === "suppresses" ? "Suppresses " : "Promotes ", h("b", {}, logit), known(rows.roles.class_variance_reduction) && ` (${percent(rows.roles.class_variance_reduction)} of its effect on the logits)`, "."]),
  told && h("p", { class: "evidence" }, `No description: ${told.null_reason}.`)];
}

/** How well a description holds, here and for partners. */
function evidence(told) {
  const mean = (values) => { const all = (values || []).filter(known); return all.length ? all.reduce((sum, each) => sum + each, 0) / all.length : NaN; };
  return h("p", { class: "evidence" }, worded(`On tokens that it was not fitted on: r ${fixed(told.score, 2)} (shuffled ${fixed(told.score_shuffled, 2)}), average precision ${fixed(told.auprc, 2)}, F1 ${fixed(told.f1, 2)}; with its partners r ${fixed(mean(told.transfer), 2)}, with random neurons ${fixed(mean(told.transfer_control), 2)}.`));
}

/** Where it stands: excess and its error, and its place among its layer. */
function strip(place, beside) {
  const { block, layer } = run.where(place);
  const excess = run.columns.get("excess_corr")?.values;
  const first = block.start + layer * block.width;
  const value = excess?.[place], error = run.columns.get("baseline_se")?.values?.[place];
  const peers = excess ? excess.subarray(first, first + block.width) : [];
  const below = peers.length ? peers.reduce((many, each) => many + (each < value), 0) / peers.length : NaN;
  const item = (title, text, note) => h("div", {}, h("dt", {}, title), h("dd", {}, text, note && h("span", { class: "note" }, note)));
  const number = (name) => measured(run.columns.get(name)?.values?.[place], run.reason(name, place));
  return h("section", { class: "strip" },
    h("dl", {}, item("excess", number("excess_corr"), known(error) && ` ± ${fixed(error)}`), item("best r", number("mean_corr")), item(run.chance, number("mean_baseline")),
      item("in its layer", known(value) ? `${fixed(100 * below, 1)}` : measured(null, run.reason("excess_corr", place)), known(value) && " % lie below")),
    !beside && known(value) && layerPicture(peers, value, layer));
}

function layerPicture(peers, value, layer) {
  const numbers = [...peers].filter(known);
  const low = Math.min(...numbers, 0), high = Math.max(...numbers, run.threshold ?? 0.5) * 1.02;
  const edges = Array.from({ length: 49 }, (_, at) => low + ((high - low) * at) / 48);
  const heights = Array(48).fill(0);
  for (const each of numbers) heights[Math.min(Math.floor(((each - low) / (high - low)) * 48), 47)] += 1;
  return picture({ alt: `Histogram of the excess correlation of layer ${layer}, with this neuron at ${fixed(value)}`,
    draw: (width) => histogram(width, { edges, series: [{ values: heights, kind: "filled own" }], marker: value, height: 150, name: "excess correlation", lines: [{ at: run.threshold ?? 0.5, name: String(run.threshold ?? 0.5) }] }),
    caption: `The ${count(numbers.length)} neurons of layer ${layer}; the pointer is this one.` });
}

function examplesSection(place, rows) {
  if (rows.examples?.length) {
    const kinds = ["top", "bottom", "quantile", "random", "silent"].filter((kind) => rows.examples.some((each) => each.kind === kind));
    const titles = { top: "Where it is largest", bottom: "Where it is smallest", quantile: "In between", random: "At random", silent: "Where it is silent" };
    return section("The same text under every model", scaleSwitch(), kinds.map((kind) => (kind === kinds[0] || kind === "bottom"
      ? h("section", { class: "kind" }, h("h3", {}, titles[kind]), sameText(place, rows, { kinds: [kind], most: 8 }))
      : folded(titles[kind], () => sameText(place, rows, { kinds: [kind], most: 8 })))));
  }
  return rows.statistics?.example_text && section("Where it is largest", contexts(rows.statistics), rows.statistics.example_low_text && [h("h3", {}, "Where it is smallest"), contexts({ example_text: rows.statistics.example_low_text, example_value: rows.statistics.example_low_value })],
    run.tables.includes("examples") ? null : missing("examples", "the same text under every model"));
}

/** What is drawn once it is asked for. */
function folded(title, draw) {
  const details = h("details", { class: "kind" }, h("summary", {}, title));
  details.addEventListener("toggle", () => details.childElementCount < 2 && details.append(draw()));
  return details;
}

function scaleSwitch() {
  return h("p", { class: "switch" }, h("label", {}, h("input", { type: "checkbox", checked: view.shared, change: (event) => { view.shared = event.target.checked; kept.set("scale", view.shared ? "shared" : "own"); show(); } }), " one scale for all examples"));
}

function partnersSection(place, rows) {
  if (!rows.pairs?.length) return run.tables.includes("pairs") ? null : section("Partners", missing("pairs", "partners in the other models"));
  const line = (pair) => {
    const block = run.blocks.find((each) => each.model === pair.other);
    const other = (layer, neuron) => (block && known(layer) ? link(run.place(block, layer, neuron)) : measured(null, pair.null_reason));
    return h("tr", {}, h("th", { scope: "row" }, run.labels.get(pair.other) || pair.other), h("td", {}, other(pair.max_layer, pair.max_neuron), " ", pair.mutual && h("span", { class: "sign own", title: worded("its own best partner is this neuron") }, "mutual")),
      h("td", { class: "number" }, correlation(pair.max_corr, pair.corr_se, pair.null_reason)), h("td", { class: "number" }, measured(pair.baseline_corr, pair.null_reason)),
      h("td", { class: "more" }, (pair.top_neuron || []).slice(1, 4).map((neuron, at) => [other(pair.top_layer[at + 1], neuron), ` ${fixed(pair.top_corr[at + 1], 2)} `])),
      h("td", { class: "number more" }, other(pair.min_layer, pair.min_neuron), " ", fixed(pair.min_corr, 2)));
  };
  return section("Partners", scrolling(h("table", { class: "plain partners" }, h("caption", {}, worded("Its best match among the neurons of each other model. "), h("span", { class: "from" }, "pairs.parquet")),
    h("thead", {}, h("tr", {}, [["model", ""], ["best partner", ""], ["r", "number"], [run.chance, "number"], ["next", "more"], ["most opposed", "number more"]].map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))), h("tbody", {}, rows.pairs.map(line))), "Partners"));
}

function correlation(value, error, reason) {
  return [measured(value, reason), known(error) && h("span", { class: "note" }, ` ± ${fixed(error)}`)];
}

function logitsSection(rows) {
  const told = rows.statistics;
  if (!told?.vocab_top_token && !told?.token_mean_token) return null;
  const writes = Boolean(told.vocab_top_token);
  const side = (title, texts, values) => h("div", {}, h("h3", {}, title), h("ol", { class: "words" }, texts.map((text, at) => text !== null && h("li", {}, token(text), h("span", { class: `meter ${values[at] < 0 ? "below" : ""}`, "aria-hidden": "true" }, h("i", { style: { width: `${Math.min(Math.abs(values[at]) / Math.max(...values.map(Math.abs), 1e-9), 1) * 100}%` } })), h("span", { class: "value" }, fixed(values[at], 2))))));
  return section(writes ? "What it writes, and what it fires on" : "What it fires on", h("div", { class: "columns" }, writes && [side("Promotes", told.vocab_top_token, told.vocab_top), side("Suppresses", told.vocab_bottom_token || [], told.vocab_bottom || [])], told.token_mean_token && side("Largest mean by token", told.token_mean_token, told.token_mean), told.token_max_token && side("Largest by token", told.token_max_token, told.token_max)),
    h("p", { class: "from" }, writes && "cosines of its output with the unembedding, and ", "activations; statistics.parquet"), effectPicture(rows.roles));
}

function effectPicture(roles) {
  if (!roles?.effect_inside) return null;
  const bins = roles.effect_inside.length;
  const edges = Array.from({ length: bins + 1 }, (_, at) => roles.effect_low + ((roles.effect_high - roles.effect_low) * at) / bins);
  return picture({ title: "Effect on the logits", alt: `Histogram of its effect on the logits of ${roles.logit_class} and of other tokens`, from: "roles.parquet",
    draw: (width) => histogram(width, { edges, series: [{ values: roles.effect_outside, kind: "filled faint" }, { values: roles.effect_inside, kind: "line own" }], height: 180, name: "logit" }),
    caption: legend([["line own", `tokens of ${roles.logit_class}`], ["filled faint", "all others"]]), table: () => ({ heads: ["from", "to", "inside", "outside"], rows: roles.effect_inside.map((each, at) => [fixed(edges[at]), fixed(edges[at + 1]), count(each), count(roles.effect_outside[at])]) }) });
}

const PRE_EDGES = Array.from({ length: 258 }, (_, at) => (25 * (at - 1) - 2550) / 255);

function activationsSection(place, rows) {
  const told = rows.statistics;
  if (!told?.histogram) return null;
  return section("How it is distributed", h("div", { class: "pair" }, densityPicture(told, rows), positionPicture(told, rows)), groupPictures(rows), subsetPicture(told));
}

function densityPicture(told, rows) {
  const filled = told.histogram.map((each, at) => (each ? at : -1)).filter((at) => at >= 0);
  const [low, high] = [Math.max(filled[0] - 1, 0), Math.min(filled.at(-1) + 2, 257)];
  const edges = PRE_EDGES.slice(low, high + 1);
  const series = conditionalSeries(rows, low, high) || [{ name: "all tokens", values: told.histogram.slice(low, high), kind: "filled own" }];
  const value = run.no_neurons ? "value" : "pre-activation";
  return picture({ title: run.no_neurons ? "Value" : "Pre-activation", alt: `Histogram of its ${value} over all tokens`, from: "statistics.parquet",
    draw: (width) => histogram(width, { edges, series, name: value, height: 200, lines: [{ at: 0, name: "fires" }] }), caption: [series.length > 1 && legend(series.map((each) => [each.kind, each.name])), `It fires on ${percent(told.sparsity, 2)} of the tokens; heights are logarithmic.`],
    table: () => ({ heads: ["from", "to", "tokens"], rows: told.histogram.slice(low, high).map((each, at) => [fixed(edges[at], 2), fixed(edges[at + 1], 2), count(each)]) }) });
}

/** Tokens with its best feature and without it, where they were told apart. */
function conditionalSeries(rows, low, high) {
  const told = (rows.conditional || []).filter((row) => row.by === "feature" && row.histogram);
  if (told.length < 2) return null;
  const part = (inside) => told.find((row) => row.inside === inside).histogram.slice(low, high);
  return [{ name: "other tokens", values: part(false), kind: "filled faint" }, { name: `tokens with ${told[0].group}`, values: part(true), kind: "line own" }];
}

/** Means by what tokens are: their role in the word, the class of the next one, frequent ones of a subset. */
function groupPictures(rows) {
  const told = rows.conditional || [];
  const one = (by, title, name) => {
    const groups = told.filter((row) => row.by === by && known(row.post_mean)).map((row) => ({ ...row, name: name(row) })).toSorted((a, b) => b.post_mean - a.post_mean).slice(0, 16);
    return groups.length > 0 && picture({ title, alt: `${title}: mean activation`, from: "conditional.parquet",
      draw: (width) => bars(width, { entries: groups.map((row) => ({ name: row.name, value: row.post_mean, kind: "own" })), name: "mean activation", room: 160 }),
      caption: `${plural(groups.length, "group")}, the largest first.`,
      table: { heads: ["group", "tokens", "mean", "deviation", "pre-activation", "deviation"], rows: groups.map((row) => [row.name, count(row.tokens), figure(row.post_mean), figure(row.post_deviation), figure(row.pre_mean), figure(row.pre_deviation)]) } });
  };
  const told_text = (row) => `${shownText(textOf(row.token_id))} in ${row.subset ?? "the corpus"}`;
  return h("div", { class: "pair" }, one("word", "By the place of the token in its word", (row) => row.group), one("next token", "By the class of the next token", (row) => row.group), one("token in subset", "Frequent tokens in their subsets", told_text));
}

function positionPicture(told, rows) {
  if (!told.mean_by_position?.some(known)) return null;
  const spread = (rows.conditional || []).filter((row) => row.by === "position").toSorted((a, b) => a.position - b.position);
  const edge = (sign) => ({ values: spread.map((row) => (known(row.post_mean) ? row.post_mean + sign * row.post_deviation : null)), kind: "line faint" });
  const series = [...(spread.length === told.mean_by_position.length ? [edge(1), edge(-1)] : []), { values: told.mean_by_position, kind: "line own" }];
  return picture({ title: "By position", alt: "Mean activation by position in the row", from: spread.length ? "statistics.parquet, conditional.parquet" : "statistics.parquet",
    draw: (width) => lines(width, { series, name: "position", zero: true, height: 200 }),
    caption: `Mean activation by position in the row${series.length > 1 ? ", with a standard deviation to either side" : ""}; ${percent(told.position_variance_explained)} of its variance lies between positions.`, table: () => ({ heads: ["position", "mean"], rows: told.mean_by_position.map((each, at) => [at, figure(each)]) }) });
}

function subsetPicture(told) {
  if (!told.mean_by_subset?.length || !run.subsets?.length) return null;
  const entries = run.subsets.map((name, at) => ({ name, value: told.mean_by_subset[at], kind: "own" }));
  return picture({ title: "By subset of the corpus", alt: "Mean activation in each subset of the corpus", from: "statistics.parquet", draw: (width) => bars(width, { entries, name: "mean activation", room: 150 }), caption: `${plural(entries.length, "subset")} of the corpus.`, table: { heads: ["subset", "mean"], rows: entries.map((each) => [each.name, figure(each.value)]) } });
}

function headsSection(rows) {
  const told = rows.statistics;
  const ways = [["q", "writes to the queries of"], ["k", "writes to the keys of"], ["v", "writes to the values of"], ["o", "reads what is written by"]].filter(([key]) => known(told?.[`${key}_composition`]));
  if (!ways.length && !rows.attention) return null;
  const head = (layer, each) => `head ${layer}.${each}`;
  return section("Heads", ways.length > 0 && h("ul", { class: "plainly" }, ways.map(([key, text]) => h("li", {}, `${text} ${head(told[`${key}_composition_layer`], told[`${key}_composition_head`])} `, h("span", { class: "note" }, percent(told[`${key}_composition`]))))),
    rows.roles && known(rows.roles.bos_score) && h("p", {}, `Of all heads it moves the attention of ${head(rows.roles.bos_layer, rows.roles.bos_head)} to the first token most: ${fixed(rows.roles.bos_score, 2)}, `, h("span", { class: "note" }, `${fixed(rows.roles.bos_deviations, 1)} deviations of random directions`)),
    rows.attention && scrolling(plainTable(rows.attention, ["head_layer", "head", "score", "mean_bos", "mean_bos_change", "mean_norm", "mean_norm_change", "corr_activation_bos_change"], "Paths into the queries of heads, cut. attention.parquet"), "Paths into heads"));
}

/** Chosen columns of some rows of a table. */
function plainTable(rows, wanted, caption) {
  const shown = wanted.filter((name) => rows.some((row) => row[name] !== null && row[name] !== undefined));
  return h("table", { class: "plain" }, h("caption", {}, caption), h("thead", {}, h("tr", {}, shown.map((name) => h("th", { scope: "col", class: "number" }, word(name))))),
    h("tbody", {}, rows.map((row) => h("tr", {}, shown.map((name) => h("td", { class: "number" }, row[name] === null || row[name] === undefined ? measured(null) : figure(row[name])))))));
}

function interventionsSection(rows) {
  const sweep = (rows.interventions || []).filter((row) => row.kind === "sweep" && row.frozen === null);
  const mean = (rows.interventions || []).filter((row) => row.kind === "mean");
  if (!sweep.length && !mean.length) return null;
  sweep.sort((a, b) => a.value - b.value);
  const curve = (name, title) => picture({ title, alt: `${title} by the value it is held at`, from: "interventions.parquet",
    draw: (width) => lines(width, { series: [{ values: sweep.map((row) => row[`${name}_low`]), kind: "line faint" }, { values: sweep.map((row) => row[`${name}_high`]), kind: "line faint" }, { values: sweep.map((row) => row[name]), kind: "line own" }], positions: sweep.map((row) => row.value), name: "held at", zero: true }),
    caption: `${count(sweep[0].tokens)} tokens; faint lines bound the 95 % interval.`, table: { heads: ["held at", "change", "from", "to"], rows: sweep.map((row) => [figure(row.value), figure(row[name]), figure(row[`${name}_low`]), figure(row[`${name}_high`])]) } });
  return section("What happens when it is held", sweep.length > 0 && h("div", { class: "pair" }, curve("loss_change", "Change of the loss, nats"), curve("entropy_change", "Change of the entropy, nats")),
    mean.length > 0 && scrolling(plainTable(mean.map((row) => ({ ...row, frozen: row.frozen || "nothing" })), ["frozen", "value", "loss_change", "loss_change_low", "loss_change_high", "loss_shift", "entropy_change"], "Held at its mean, with the final scale or the unigram component frozen. interventions.parquet"), "Held at its mean"));
}

function featuresSection(rows) {
  if (!rows.features?.length) return null;
  return section("Features that explain it", picture({ alt: "Share of its variance that each of its best features explains", from: "features.parquet", draw: (width) => bars(width, { entries: rows.features.map((row) => ({ name: row.feature, value: row.variance_reduction, kind: "own" })), text: percent, room: 190, name: "variance explained" }),
    caption: "The best of all that were tried.", table: { heads: ["feature", "family", "of the token", "explained", "mean difference", "tokens"], rows: rows.features.map((row) => [row.feature, row.feature_family, row.looks_at, percent(row.variance_reduction), figure(row.mean_difference), count(row.support)]) } }));
}

function rawSection(place, rows) {
  const text = JSON.stringify({ id: run.id(place), ...rows }, null, 1);
  const details = h("details", { class: "numbers" }, h("summary", {}, "Rows of the tables as JSON"), h("p", { class: "from" }, "Numbers to six significant digits, in lists to four; long lists are cut."));
  details.addEventListener("toggle", () => {
    if (details.querySelector("pre")) return;
    details.append(h("button", { type: "button", click: () => navigator.clipboard?.writeText(text).then(() => say("Copied")) }, "Copy"), h("pre", { tabindex: "0", "aria-label": "Rows as JSON" }, text));
  });
  return section("Everything that is known", details);
}

/** All numbers of the list, for a neuron that has no more. */
function numbersOfList(place) {
  const box = h("div", {}, h("p", { class: "wait" }, "Loading …"));
  run.all([...run.columns.keys()]).then((columns) => box.replaceChildren(scrolling(h("table", { class: "plain" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "what"), h("th", { scope: "col", class: "number" }, "value"), h("th", { scope: "col" }, "meaning"))),
    h("tbody", {}, columns.filter((column) => column.kind === "number").map((column) => h("tr", {}, h("th", { scope: "row" }, word(column.name)), h("td", { class: "number" }, measured(column.values[place], run.reason(column.name, place), figure)), h("td", {}, column.description))))), "Numbers")));
  return section("Everything that is known", box);
}

async function comparePage(query) {
  const given = new URLSearchParams(query).get("with");
  const names = (given ? given.split(",") : [...pins]).slice(0, 2);
  const places = names.map((name) => run.find(name));
  const form = h("form", { class: "filters", "aria-label": "Which two", submit: (event) => {
    event.preventDefault();
    location.hash = `#/compare?with=${[...event.target.querySelectorAll("input")].map((input) => encodeURIComponent(input.value.trim())).join(",")}`;
  } }, ["first", "second"].map((which, at) => h("div", { class: "field" }, h("label", { for: `compare-${at}` }, worded(`The ${which} neuron`)), h("input", { id: `compare-${at}`, value: names[at] || "", placeholder: "as a:1.848", list: "pinned", autocomplete: "off" }))),
  h("datalist", { id: "pinned" }, [...pins].map((id) => h("option", { value: id }))), h("button", { type: "submit" }, "Compare"));
  const sides = await Promise.all(places.map(async (place, at) => h("div", { class: "side" }, place < 0 ? h("p", { class: "missing" }, worded("No such neuron: "), h("bdi", {}, visible(names[at]))) : await neuronBody(place, true))));
  return h("article", { class: "compare" }, h("h1", {}, worded("Two neurons")), form, places.length < 2 && h("p", {}, worded("Pin two neurons by the ring beside their names, or name them here.")), h("div", { class: "sides" }, sides));
}
