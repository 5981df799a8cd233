// The front page: what was asked, what was found, and on what it rests.

async function frontPage() {
  const page = run.reference;
  await run.vocabulary();
  if (!page) return h("article", { class: "front" }, h("h1", {}, "Nothing to show yet"), h("p", { class: "lead" }, "No table of this run tells of a reference model’s neurons."), notes());
  return h("article", { class: "front" }, references(), opening(page), facts(page), strongest(page), layersSection(page), depth(page),
    against(page), families(page), descriptionsSection(page), rolesSection(page), ablations(page), persistence(), notes());
}

/** Which reference model the page is of, where the run has several. */
function references() {
  if (run.pages.length < 2) return null;
  const choose = h("select", { id: "reference", change: (event) => { run.chosen = Number(event.target.value); show(); } },
    run.pages.map((page, place) => h("option", { value: place, selected: place === (run.chosen || 0) }, page.label)));
  return h("p", { class: "references" }, h("label", { for: "reference" }, "Reference model "), choose);
}

function names(models) {
  const labels = models.map((model) => run.labels.get(model) || model.split("/").at(-1));
  return labels.length < 2 ? labels.join("") : `${labels.slice(0, -1).join(", ")} and ${labels.at(-1)}`;
}

function opening(page) {
  const own = (page.counts || []).find((each) => each.threshold === run.threshold);
  const title = own ? `${count(own.count)} of ${count(page.neurons)} ${run.unit}s are universal` : `${count(page.neurons)} ${run.unit}s of ${page.label}`;
  const others = names(page.others || []);
  return h("header", { class: "opening" }, h("h1", {}, title),
    h("p", { class: "lead" }, "Models that were trained alike, from other random numbers: do they grow the same ", `${run.unit}s? Every ${run.unit} of `,
      h("b", {}, page.label), others && [` was compared with every ${run.unit} of `, h("b", {}, others)],
      run.tokens_kept && [` over ${count(run.tokens_kept)} tokens`],
      ". It counts as universal when its best match in the other models, averaged over them, correlates more by ",
      h("b", {}, String(run.threshold ?? "a threshold")),
      run.chance === "shifted" ? ` than its best match would beside other text: units of the other models at the tokens of other rows.`
        : ` than the best match in a random rotation of them, which has no ${run.unit}s to find.`, run.no_neurons && ` ${run.no_neurons}`,
      page.published && [" The paper found ", count(page.published.universal), ` (${percent(page.published.universal_share, 2)}).`]));
}

/** The two or three facts that stand first. */
function facts(page) {
  if (!page.counts) return missing("neurons", "how many neurons are universal");
  return h("section", { class: "facts", "aria-label": "How many" },
    h("ol", { class: "cliff" }, page.counts.toReversed().map(({ threshold, count: many }) => h("li", {},
      h("a", { href: listAddress({ model: page.label, ranges: { excess_corr: [threshold, null] }, sort: "-excess_corr" }) },
        h("span", { class: "many" }, count(many)),
        h("span", { class: "what" }, `above ${threshold}`),
        h("span", { class: "share" }, percent(many / page.neurons, 2)))))),
    cliff(page));
}

function cliff(page) {
  if (!page.histograms?.excess) return null;
  const { edges, own: excess, chance } = page.histograms.excess;
  const series = [{ name: "excess", values: excess, kind: "filled own" }];
  if (chance) series.push({ name: run.chance, values: chance, kind: "line base" });
  const draw = (width) => histogram(width, {
    edges, series, name: "excess correlation", height: 250,
    lines: page.counts.map(({ threshold }) => ({ at: threshold, name: threshold === 0.45 && width < 620 ? "" : String(threshold) })),
  });
  return picture({
    alt: `Histogram of the excess correlation of ${count(page.measured)} neurons, on a logarithmic scale, with thresholds ${page.counts.map((each) => each.threshold).join(", ")}`,
    draw, from: "neurons.parquet, pairs.parquet",
    caption: [legend([["filled own", "excess correlation"], ...(chance ? [["line base", `the same of a ${run.chance} model`]] : [])]),
      `n = ${count(page.measured)} neurons of ${page.label}; heights are logarithmic. The threshold is a cliff: a little lower, and many more are universal.`,
      Object.entries(page.reasons_without_correlation || {}).map(([why, many]) => ` Without a correlation: ${count(many)}, ${why}.`),
      !chance && " With a single draw of the baseline there is no second one to compare it with."],
    table: () => ({ heads: ["from", "to", "excess", run.chance], rows: excess.map((_, bin) => [fixed(edges[bin]), fixed(edges[bin + 1]), ...[excess, chance].map((each) => count(each?.[bin]))]) }),
  });
}

function missing(table, what) {
  const told = run.missing.find((sentence) => sentence.includes(`/${table}.`));
  return h("p", { class: "missing" }, `Not drawn: ${what}. `, told || `The table ${table}.parquet does not tell it.`);
}

function section(title, ...children) {
  return h("section", {}, h("h2", {}, worded(title)), children);
}

/** The strongest neuron with the same text under every model, and those after it. */
function strongest(page) {
  if (!page.strongest?.length) return null;
  const [first] = page.strongest;
  const rows = run.strongest.neurons[first] && run.rows(run.strongest, first);
  return section("The strongest match",
    h("p", {}, worded("Neuron "), link(first), ": ", rows?.pairs ? "its best matches, and the tokens that it is largest on." : "the largest excess correlation.", " ",
      h("a", { href: listAddress({ model: page.label, sort: "-excess_corr" }) }, worded("All neurons, strongest first"))),
    rows?.examples ? sameText(first, rows, { kinds: ["top"], most: 4 }) : [missing("examples", "the same text under every model"), rows?.statistics && contexts(rows.statistics, 4)],
    h("ol", { class: "chips" }, page.strongest.slice(1).map((place) => h("li", {}, link(place)))));
}

function layersSection(page) {
  if (!page.by_layer) return null;
  const shares = page.by_layer.map((row) => row.above[String(run.threshold)] ?? row.above["0.5"]);
  const entries = page.by_layer.map((row, place) => ({
    name: `layer ${row.layer}`, value: row.neurons ? shares[place] / row.neurons : null, other: row.neurons ? row.above["0.4"] / row.neurons : null,
    text: `${count(shares[place])}, ${count(row.above["0.4"])}`, kind: "own",
  }));
  const told = page.layers || [];
  return section("Where they are",
    h("div", { class: "pair" },
      picture({
        title: "Share that is universal, by layer", from: "neurons.parquet",
        alt: `Share of universal neurons in each of ${entries.length} layers`,
        draw: (width) => bars(width, { entries, text: percent, room: 70, name: worded("share of the layer’s neurons") }),
        caption: [legend([["filled own", `above ${run.threshold ?? 0.5}`], ["mark base", "above 0.4"]]), `n = ${count(page.by_layer[0]?.neurons)} neurons in each layer, a correlation or none; told are the numbers above ${run.threshold ?? 0.5} and 0.4.`],
        table: { heads: ["layer", "neurons", "above 0.4", "above 0.45", "above 0.5"], rows: page.by_layer.map((row) => [row.layer, count(row.neurons), ...["0.4", "0.45", "0.5"].map((each) => count(row.above[each]))]) },
      }),
      told.length > 0 && picture({
        title: `Best match and ${run.chance} baseline, by layer`, from: "summary.json",
        alt: `Mean best correlation and mean ${run.chance} baseline in each layer`,
        draw: (width) => bars(width, { entries: told.map((row) => ({ name: `layer ${row.layer}`, value: row.mean_corr, other: row.mean_baseline, kind: "own", text: `${fixed(row.mean_corr, 2)}, ${fixed(row.mean_baseline, 2)}` })), room: 70, name: "correlation" }),
        caption: [legend([["filled own", "best match"], ["mark base", `${run.chance} baseline`]]), "Means over a layer’s neurons, and over the other models."],
        table: { heads: ["layer", "best r", run.chance, "excess"], rows: told.map((row) => [row.layer, fixed(row.mean_corr), fixed(row.mean_baseline), fixed(row.mean_excess)]) },
      })));
}

function depth(page) {
  const values = page.partner_layers;
  if (!values?.length) return null;
  return section("How deep their partners are, and how close", h("div", { class: "pair" }, picture({
    title: "Layer of the best partner",
    alt: "Share of best partners in each layer of the other models, by the layer of the neuron", from: "pairs.parquet",
    draw: (width) => matrix(width, { rows: values.map((_, row) => row), columns: values[0].map((_, column) => column), values, down: "layer", across: "layer of the best partner" }),
    caption: `All ${count(page.measured)} neurons and ${plural(page.others.length, "other model")}: a row adds up to 100 %. ${percent(page.mutual_share)} of the best partners have the neuron as their own best partner.`,
    table: { heads: ["layer", ...values[0].map((_, column) => `in ${column}`)], rows: values.map((row, layer) => [layer, ...row.map((each) => percent(each))]) },
  }), closeness(page)));
}

/** Best matches beside those by chance. */
function closeness(page) {
  if (!page.histograms?.correlation?.chance) return null;
  const { edges, own: best, chance: baseline } = page.histograms.correlation;
  return picture({ title: `Best match and ${run.chance} baseline`, from: "neurons.parquet",
    alt: `Histograms of the best correlation and of the best with a ${run.chance} model`,
    draw: (width) => histogram(width, { edges, series: [{ values: best, kind: "filled own" }, { values: baseline, kind: "line base" }], name: "correlation", height: 210 }),
    caption: [legend([["filled own", "best match"], ["line base", `best match in a ${run.chance} model`]]), `n = ${count(page.measured)}; means over ${plural((page.others || []).length, "other model")}; heights are logarithmic.`],
    table: () => ({ heads: ["from", "to", "best r", run.chance], rows: best.map((_, bin) => [fixed(edges[bin]), fixed(edges[bin + 1]), count(best[bin]), count(baseline[bin])]) }) });
}

const WORDS = {
  w_in_norm: "input norm", w_out_norm: "output norm", input_bias: "input bias", in_out_sim: "cos(input, output)", l2_penalty: "L2 penalty", mean: "mean", var: "variance", skew: "skewness", kurt: "kurtosis",
  vocab_mean: "logits: mean", vocab_var: "logits: variance", vocab_skew: "logits: skewness", vocab_kurt: "logits: kurtosis", sparsity: "share of tokens it fires on", post_mean: "activation: mean", post_var: "activation: variance",
  position_information: "information on position", position_variance_explained: "variance by position", in_sim: "nearest input", out_sim: "nearest output", both_sim: "nearest in both", in_sim_min: "furthest input", out_sim_min: "furthest output",
  q_composition: "writes to queries", k_composition: "writes to keys", v_composition: "writes to values", o_composition: "reads from heads",
  excess_corr: "excess", mean_corr: "best r", mutual_partners: "mutual",
};

function word(name) {
  return name === "mean_baseline" ? run.chance : WORDS[name] || name.replaceAll("_", " ");
}

/** Whether an activation's statistic is that of the value before it, as of units that have but one. */
function same(one, other) {
  return known(other) && one !== other && ["delta", "median_universal", "median_others"].every((each) => one[each] === other[each]);
}

function against(page) {
  const all = page.universal_against_others || {};
  const told = Object.entries(all).filter(([name, each]) => each && known(each.delta) && !same(each, all[name.replace(/^post_/, "")]));
  if (!told.length) return null;
  told.sort(([, a], [, b]) => b.delta - a.delta);
  const entries = told.map(([name, each]) => ({ name: word(name), value: each.delta, low: each.delta_low, high: each.delta_high, kind: each.direction ? "own" : "faint" }));
  const [, first] = told[0];
  return section("What sets them apart", picture({
    alt: "Cliff’s delta of universal neurons against the others for each statistic, with 95 % intervals", from: "statistics.parquet, summary.json",
    draw: (width) => intervals(width, { entries, name: "Cliff’s δ: lower in universal ones ← → higher" }),
    caption: `${count(first.universal)} universal neurons against ${count(first.others)} others, with 95 % intervals; grey where the interval holds zero.`,
    table: { heads: ["statistic", "δ", "from", "to", "median, universal", "median, others", "in the paper"], rows: told.map(([name, each]) => [word(name), fixed(each.delta, 2), fixed(each.delta_low, 2), fixed(each.delta_high, 2), figure(each.median_universal), figure(each.median_others), { 1: "higher", "-1": "lower" }[each.published_direction] || "not told"]) },
  }));
}

function families(page) {
  if (!page.families) return run.tables.includes("taxonomy") ? null : section("What they respond to", missing("taxonomy", "families of features"));
  const rows = [["any family", page.families.explained], ...Object.entries(page.families.by_family)];
  const entries = rows.map(([name, row]) => ({ name, value: row.share, other: row.share_of_others, kind: "own", text: row.members === null ? "" : `${count(row.members)} of ${count(row.neurons)}` }));
  const agreement = page.agreement;
  return section("What they respond to", picture({
    title: "Neurons that one feature explains, by family", from: "taxonomy.parquet",
    alt: "Share of universal and of other neurons in each family of features",
    draw: (width) => bars(width, { entries, to: Math.max(...entries.map((each) => Math.max(each.value || 0, each.other || 0)), 0.01), name: "share" }),
    caption: [legend([["filled own", "universal neurons"], ["mark base", "other neurons of the same layers"]]), `${count(run.features)} features were tried on every neuron. `,
      agreement?.universal && `Best partners of universal neurons are of the same family in ${percent(agreement.universal.same, 0)} of ${count(agreement.universal.pairs)} pairs (by chance ${percent(agreement.universal.chance)}), of others in ${percent(agreement.others.same, 0)} of ${count(agreement.others.pairs)}.`],
    table: { heads: ["family", "universal", "share", "of others", "gain", "from", "to"], rows: rows.map(([name, row]) => [name, `${count(row.members)} of ${count(row.neurons)}`, percent(row.share), percent(row.share_of_others), percent(row.gain), percent(row.gain_low), percent(row.gain_high)]) },
  }), h("p", { class: "links" }, "Open: ", Object.keys(page.families.by_family).map((family) => [h("a", { href: listAddress({ model: page.label, family, status: "member" }) }, family), " "])));
}

/** How many can be said in words, and whether the words hold for partners too. */
function descriptionsSection(page) {
  const told = (run.descriptions || []).find((each) => each.model === page.model);
  if (!told) return null;
  const groups = [["universal", told.universal], ["other", told.others]].filter(([, row]) => row);
  const entries = groups.flatMap(([name, row]) => [["itself", "score", "own"], ["partners", "transfer", "own"], [worded("random neurons"), "transfer_control", ""]].map(([who, key, kind]) => ({ name: `${name}: ${who}`, value: row[key], kind })));
  return section("Do descriptions carry over?", picture({
    alt: "Correlation of descriptions with the activations of their neurons, of partners and of random neurons", from: "descriptions.parquet, summary.json",
    draw: (width) => bars(width, { entries, text: (value) => fixed(value, 2), name: "correlation", room: 170 }),
    caption: [groups.map(([name, row]) => `Of ${count(row.neurons)} ${name} neurons ${count(row.described)} can be described in words with r of at least ${told.least}. `), "Drawn is how well the words of a neuron hold on tokens that they were not fitted on: for itself, for its partners in the other models, and for random neurons of their layers."],
    table: { heads: ["neurons", "described", "r", "shuffled", "partners", "random", "gain", "from", "to"], rows: groups.map(([name, row]) => [name, count(row.described), ...["score", "score_shuffled", "transfer", "transfer_control", "gain", "gain_low", "gain_high"].map((key) => fixed(row[key], 2))]) },
  }));
}

function rolesSection(page) {
  const mine = (run.models_by_role || []).find((each) => each.model === page.model);
  if (!mine) return run.tables.includes("roles") ? null : section("What they do", missing("roles", "roles of neurons"));
  const rows = Object.entries(mine.roles).map(([role, told]) => {
    const overlap = page.roles?.overlap?.[role];
    const seeds = run.models_by_role.map((each) => each.roles[role]?.neurons).filter(known);
    return h("tr", {},
      h("th", { scope: "row" }, told ? h("a", { href: listAddress({ model: page.label, role }) }, role) : role),
      h("td", { class: "number" }, measured(told?.neurons, mine.not_measured?.[role], count)),
      h("td", { class: "number wide" }, told ? told.by_layer.map(count).join(" · ") : "–"),
      h("td", { class: "number" }, seeds.length ? `${count(Math.min(...seeds))}–${count(Math.max(...seeds))}` : "–"),
      h("td", { class: "number" }, overlap ? `${count(overlap.members)} of ${count(overlap.neurons)}` : measured(null, page.roles?.not_measured?.[role])));
  });
  return section("What they do", scrolling(h("table", { class: "plain" },
    h("caption", {}, `Neurons of ${page.label} by role, in all its layers, in all ${run.models_by_role.length} models, and among universal ones. `, h("span", { class: "from" }, "roles.parquet")),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "role"), ["neurons", "by layer", "in all models", "universal"].map((name) => h("th", { scope: "col", class: name === "by layer" ? "number wide" : "number" }, name)))),
    h("tbody", {}, rows)), "Neurons by role"));
}

function ablations(page) {
  const sets = (page.roles?.sets || []).filter((each) => known(each.loss_universal?.mean));
  if (!sets.length) return null;
  const whole = sets.filter((each) => each.layer === null);
  const entries = (whole.length ? whole : sets).flatMap((each) => [["universal", "loss_universal", "own"], ["random", "loss_random", "base"]].map(([who, key, kind]) => ({
    name: `${who}, held at ${each.at === "mean" ? "their means" : each.at}`, value: each[key].mean, low: each[key].low, high: each[key].high, kind, note: `${fixed(each[key].mean, 4)} nats`,
  })));
  const ends = entries.flatMap((each) => [each.low, each.high, each.value, 0]).filter(known);
  const reach = Math.max(...ends) - Math.min(...ends);
  return section("What it costs to lose them", picture({
    alt: "Change of the loss when universal neurons, or random ones of the same layers, are held at zero or at their means", from: "interventions.parquet",
    draw: (width) => intervals(width, { entries, from: Math.min(...ends) - reach * 0.06, to: Math.max(...ends) + reach * 0.45, name: "change of the loss, nats", height: 30, room: 230 }),
    caption: [legend([["mark own", "universal neurons"], ["mark base", "as many random neurons of the same layers"]]), `${plural(sets[0].neurons, "neuron")}; ${count(run.tokens_intervened)} tokens; 95 % intervals.`],
    table: { heads: ["held at", "layer", "neurons", "universal", "random", "difference", "from", "to"], rows: sets.map((each) => [each.at, each.layer ?? "all", count(each.neurons), fixed(each.loss_universal.mean, 4), fixed(each.loss_random.mean, 4), fixed(each.loss_difference?.mean, 4), fixed(each.loss_difference?.low, 4), fixed(each.loss_difference?.high, 4)]) },
  }));
}

/** Of models followed through their training: what stays universal. */
function persistence() {
  return (run.followed || []).map((told) => section("Through training", scrolling(h("table", { class: "plain" },
    h("caption", {}, "Universal neurons at each revision, and which share of them is universal at another."),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "revision"), h("th", { scope: "col", class: "number" }, "universal"), told.revisions.map((each) => h("th", { scope: "col", class: "number" }, `at ${each}`)))),
    h("tbody", {}, told.revisions.map((revision, place) => h("tr", {}, h("th", { scope: "row" }, revision), h("td", { class: "number" }, count(told.universal[place])), told.persistence[place].map((each) => h("td", { class: "number" }, percent(each, 0))))))), "Through training")));
}

/** Sentences that begin with a file, those of several files that say the same as one. */
function gathered(sentences) {
  const files = new Map();
  for (const each of sentences) {
    const [file, rest] = each.split(/(?<=^\S+) /);
    files.set(rest, [...(files.get(rest) || []), file]);
  }
  return [...files].map(([rest, which]) => `${which.join(", ")} ${which.length > 1 ? rest.replace(/^is /, "are ") : rest}`);
}

/** What is not here, and what the page is made of. */
function notes() {
  const lacks = Object.entries(run.not_measured).flatMap(([model, each]) => Object.entries(each).map(([what, why]) => [run.labels.get(model) || model, what, why]));
  const alike = new Map();
  for (const [model, what, why] of lacks) alike.set(`${what}: ${why}`, [...(alike.get(`${what}: ${why}`) || []), model]);
  const { slim, full } = run.levels;
  return h("section", { class: "notes" }, h("h2", {}, "What this rests on"),
    h("p", {}, `${plural(run.blocks.length, "model")}, ${plural(run.neurons, run.unit)} in the list; ${count(full)} of them are told in full, ${count(slim)} in short`,
      full + slim < run.neurons ? `, ${count(run.neurons - full - slim)} by their row in the list alone, so that the report stays small.` : ".",
      ` Made by universal_ray ${run.version}; what each column means is said where it is shown.`),
    (run.missing.length > 0 || alike.size > 0) && h("ul", {},
      gathered(run.missing).map((sentence) => h("li", {}, sentence)),
      [...alike].map(([sentence, models]) => h("li", {}, `${NOT_MEASURED}, ${sentence} (${models.join(", ")})`))));
}
