"""Figures of what neurons respond to: Figures 1, 4 and 15 to 21 of the paper."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Page

from universal_ray.report.figures import paint
from universal_ray.report.figures.bins import heights, of_activations, spiked
from universal_ray.report.figures.figure import RESPONSES, Figure, Made
from universal_ray.report.figures.source import NotDrawn, Source

MEMBER = "member"
WITH, WITHOUT = "with the feature", "without"
AT_BEST, ELSEWHERE = "in the subset of its largest mean", "in the others"
MOST = 30
"""Neurons of a family that are drawn, as many as in the paper's figures."""
POSITIONS, PLACES, TOKENS = 20, 6, 10
"""Neurons of position and of places, and tokens of each of the latter."""
SPANS = 96
"""Of positions that are drawn as one, where a row has more."""
FAMILIES_OF_TOKENS = ("unigram", "first letter", "alphabet")
WORD_ROLES = ("whole", "beginning", "middle", "end")
SEVERAL, OF_EACH, FEATURES = 3, 4, 6
"""Neurons that make a feature one with duplicates; those drawn of each; features drawn."""


def members(source: Source, *families: str) -> pd.DataFrame:
    """Neurons of some families: universal ones first, and of these the best explained.

    Raises NotDrawn where there is none.
    """
    found = source.own("taxonomy", "layer", "neuron", "family", "feature", "variance_reduction",
                       status=MEMBER)  # fmt: skip
    found = found[found["family"].isin(families)].dropna()
    if found.empty:
        raise NotDrawn(f"no neuron is a member of the family {' or '.join(families)}")
    neurons = source.own("neurons", "layer", "neuron", "is_universal")
    found = found.merge(neurons, on=["layer", "neuron"], how="left")
    found["is_universal"] = found["is_universal"].fillna(False).astype(bool)
    return found.sort_values(
        ["is_universal", "variance_reduction"], ascending=False, kind="stable", ignore_index=True
    )


def _responses(source: Source, chosen: pd.DataFrame, by: str, *more: str) -> pd.DataFrame:
    """Rows of the conditional table of chosen neurons, in their order. Raises NotDrawn."""
    rows = source.own("conditional", "layer", "neuron", *more, by=by)
    rows = rows[rows["tokens"] > 0].dropna(subset=[each for each in more if each != "subset"])
    known = chosen.assign(panel=[f"{layer}.{neuron}" for layer, neuron in
                                 zip(chosen["layer"], chosen["neuron"], strict=True)])  # fmt: skip
    found = known.merge(rows, on=["layer", "neuron"])
    if found.empty:
        raise NotDrawn(f"no row of conditional.parquet tells of these neurons by {by}")
    return found


def _titled(rows: pd.DataFrame, feature: bool = True) -> str:
    row = rows.iloc[0]
    mark = "● " if row["is_universal"] else ""
    head = f"{mark}{row['panel']}  {row['variance_reduction']:.2f}"
    return f"{head}\n{paint.shown(row['feature'], 24)}" if feature else head


def features_of(*families: str) -> Callable[[Source], Made]:
    """Activations of the members of some families, with and without the feature of each."""

    def data(source: Source) -> Made:
        every = members(source, *families)
        chosen = every.head(MOST)
        rows = _responses(source, chosen, "feature", "inside", "tokens", "histogram")
        rows["tokens_counted"] = rows.pop("tokens")
        rows["group"] = np.where(rows.pop("inside").astype(bool), WITH, WITHOUT)
        shown = rows.drop(columns=["layer", "neuron", "family"])
        bins = of_activations(shown)
        told = _caption(source, every, chosen, rows, WITH, WITHOUT)
        return Made(bins, told + heights(bins))

    return data


def _caption(
    source: Source, every: pd.DataFrame, chosen: pd.DataFrame, rows: pd.DataFrame, *groups: str
) -> str:
    families = " and ".join(dict.fromkeys(every["family"]))
    tokens = rows.groupby("panel")["tokens_counted"].sum().max()
    return (
        f"{source.value.capitalize()}s {' and '.join(groups)}, each area 1, of {len(chosen)} of "
        f"{len(every):,} members of the family {families}: universal ones (●, excess above "
        f"{source.threshold:g}; {every['is_universal'].sum():,} of them) first, and of these the "
        "best explained. Above each: layer.neuron, the share of variance that its feature "
        f"explains, and the {'subset' if AT_BEST in groups else 'feature'}. n = {tokens:,} tokens."
    )


def _gallery(page: Page, data: pd.DataFrame, draw: Callable[[Axes, pd.DataFrame], None]) -> None:
    """A small panel for each neuron, with a legend for all."""
    panels, scale = list(data["panel"].unique()), "log" if spiked(data) else "linear"
    made = paint.panels(page, len(panels), columns=5, height=0.75, top=0.58, left=0.12,
                        apart=(0.15, 0.52))  # fmt: skip
    for panel, (_, rows) in zip(made, data.groupby("panel", sort=False), strict=True):
        draw(panel, rows)
        panel.set_title(_titled(rows), fontsize=6.5, linespacing=1.3)
        panel.tick_params(labelsize=6)
        panel.set(yscale=scale, ylim=(0 if scale == "linear" else None, None))
        paint.hide_heights(panel)
    for panel in paint.below(made, 5):
        panel.set_xlabel("pre-activation", fontsize=6.5)
    paint.legend(page, made[0])


def draw_features(data: pd.DataFrame, page: Page) -> None:
    _gallery(page, data, lambda panel, rows: _draw_two(panel, rows, WITH, WITHOUT))


def _draw_two(panel: Axes, rows: pd.DataFrame, first: str, rest: str) -> None:
    """A group over what it is held against."""
    for group, color, line in ((rest, paint.GREY, "--"), (first, paint.OWN, "-")):
        own = rows[rows["group"] == group]
        if len(own):
            filled = group == first
            paint.steps(panel, own, color=color, line=line, label=group, filled=filled)


def words(source: Source) -> Made:
    every = members(source, *FAMILIES_OF_TOKENS)
    many = every.groupby("feature", sort=False).size()
    many = many[many >= SEVERAL].sort_values(ascending=False, kind="stable").head(FEATURES)
    if many.empty:
        raise NotDrawn(f"no feature of tokens explains {SEVERAL} neurons best")
    chosen = pd.concat([every[every["feature"] == name].head(OF_EACH) for name in many.index])
    rows = _responses(source, chosen, "word", "group", "tokens", "histogram")
    rows = rows[rows["group"].isin(WORD_ROLES)].copy()
    if rows.empty:
        raise NotDrawn("no token of these neurons is part of a word")
    rows["tokens_counted"] = rows.pop("tokens")
    shown = rows.drop(columns=["layer", "neuron", "family"])
    told = ", ".join(f"{paint.shown(name)} ({count} neurons)" for name, count in many.items())
    bins = of_activations(shown)
    return Made(
        bins,
        "Neurons that one feature of tokens explains best, where there are three or more of it, by "
        f"the role of the token in its word: {source.value}s over all tokens of a role, each area "
        f"1 (●: universal, excess above {source.threshold:g}). Features: {told}. "
        f"n = {rows.groupby('panel')['tokens_counted'].sum().max():,} tokens.{heights(bins)}",
    )


def draw_words(data: pd.DataFrame, page: Page) -> None:
    _gallery(page, data, _draw_words)


def _draw_words(panel: Axes, rows: pd.DataFrame) -> None:
    for place, role in enumerate(WORD_ROLES):
        own = rows[rows["group"] == role]
        if len(own):
            paint.steps(panel, own, color=paint.SEVERAL[place], line=paint.LINES[place], label=role)


def positions(source: Source) -> Made:
    every = members(source, "position")
    chosen = every.head(POSITIONS)
    names = ["pre_mean", "pre_deviation", "post_mean", "post_deviation"]
    rows = _responses(source, chosen, "position", "position", "tokens", *names)
    span = -(-int(rows["position"].max() + 1) // SPANS)
    rows["first"] = rows["position"] // span * span
    data = _pooled(rows)
    if not source.neurons:
        data = data.drop(columns=["pre_mean", "pre_deviation"])
    both = ", before and after the activation function," if source.neurons else ""
    return Made(
        data,
        f"Mean and standard deviation by position in the row{both} of {len(chosen)} of "
        f"{len(every):,} neurons that position explains best: universal ones (●, excess above "
        f"{source.threshold:g}) first. n = {rows.groupby('panel')['tokens'].sum().max():,} tokens"
        + (f"; {span} positions are drawn as one." if span > 1 else "."),
    )


def _pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """Means and deviations over all tokens of the positions that are drawn as one."""
    sides = ("pre", "post")
    weighted = rows.assign(**{
        f"{side}_{power}": rows["tokens"] * value
        for side in sides
        for power, value in (
            ("sum", rows[f"{side}_mean"]),
            ("squares", rows[f"{side}_deviation"] ** 2 + rows[f"{side}_mean"] ** 2),
        )
    })  # fmt: skip
    sums = [f"{side}_{power}" for side in sides for power in ("sum", "squares")]
    kept = ["panel", "feature", "variance_reduction", "is_universal", "first"]
    over = weighted.groupby(kept, sort=False)
    found = over[["tokens", *sums]].sum().assign(last=over["position"].max())
    for side in sides:
        found[f"{side}_mean"] = found[f"{side}_sum"] / found["tokens"]
        square = found[f"{side}_squares"] / found["tokens"] - found[f"{side}_mean"] ** 2
        found[f"{side}_deviation"] = np.sqrt(square.clip(lower=0))
    return found.drop(columns=sums).reset_index()


def draw_positions(data: pd.DataFrame, page: Page) -> None:
    panels = list(data["panel"].unique())
    made = paint.panels(page, len(panels), columns=4, height=1.05, top=0.5, left=0.35,
                        apart=(0.3, 0.45))  # fmt: skip
    both = "pre_mean" in data
    look = {"pre": (paint.GREY, "--", "before the activation function")} if both else {}
    look["post"] = (paint.OWN, "-", "after the activation function" if both else "mean")
    for panel, (_, rows) in zip(made, data.groupby("panel", sort=False), strict=True):
        at = (rows["first"] + rows["last"]) / 2
        for side, (color, line, label) in look.items():
            mean, deviation = rows[f"{side}_mean"], rows[f"{side}_deviation"]
            panel.fill_between(at, mean - deviation, mean + deviation, color=color, alpha=0.2,
                               linewidth=0)  # fmt: skip
            panel.plot(at, mean, color=color, linestyle=line, linewidth=1, label=label)
        panel.set_title(_titled(rows, feature=False), fontsize=6.5)
        panel.tick_params(labelsize=6)
    for panel in paint.below(made, 4):
        panel.set_xlabel("position", fontsize=6.5)
    paint.legend(page, made[0])


def _subsets(source: Source) -> list[str]:
    """Names of the subsets of the corpus. Raises NotDrawn where there are none to compare."""
    names = source.summary.get("profile", {}).get("subsets") or []
    if len(names) < 2:
        raise NotDrawn("rows of the corpus have no subsets to compare (docs/tables.md, `subset`)")
    return list(names)


def subset_histograms(source: Source) -> Made:
    names = _subsets(source)
    every = members(source, "semantic")
    chosen = every.head(MOST)
    found = source.own("statistics", "layer", "neuron", "mean_by_subset", "histogram_by_subset")
    found = chosen.merge(found.dropna(), on=["layer", "neuron"])
    if found.empty:
        raise NotDrawn("histograms by subset were not asked for (taxonomy.subset_histograms)")
    parts = []
    for row in found.itertuples():
        counts_SH = np.stack(row.histogram_by_subset)
        best = int(np.nanargmax(np.asarray(row.mean_by_subset, dtype=np.float64)))
        others_H = np.delete(counts_SH, best, axis=0).sum(0)
        for group, counts_H in ((AT_BEST, counts_SH[best]), (ELSEWHERE, others_H)):
            parts.append({
                "panel": f"{row.layer}.{row.neuron}", "feature": row.feature,
                "variance_reduction": row.variance_reduction, "is_universal": row.is_universal,
                "subset": names[best], "group": group, "tokens_counted": int(counts_H.sum()),
                "histogram": counts_H,
            })  # fmt: skip
    rows = pd.DataFrame(parts)
    bins, caption = of_activations(rows), _caption(source, every, chosen, rows, AT_BEST, ELSEWHERE)
    return Made(bins, caption + heights(bins))


def draw_subset_histograms(data: pd.DataFrame, page: Page) -> None:
    named = data.assign(feature=data["subset"])
    _gallery(page, named, lambda panel, rows: _draw_two(panel, rows, AT_BEST, ELSEWHERE))


def subsets(source: Source) -> Made:
    names = _subsets(source)
    every = members(source, "semantic")
    chosen = every.head(MOST)
    means = source.own("statistics", "layer", "neuron", "mean_by_subset", "post_mean", "post_var")
    rows = chosen.merge(means.dropna(), on=["layer", "neuron"])
    if rows.empty:
        raise NotDrawn("no mean by subset of these neurons was measured")
    data = pd.DataFrame([
        {"panel": f"{row.layer}.{row.neuron}", "feature": row.feature,
         "variance_reduction": row.variance_reduction, "is_universal": row.is_universal,
         "subset": name, "mean": mean, "deviations": (mean - row.post_mean) / np.sqrt(row.post_var)}
        for row in rows.itertuples()
        for name, mean in zip(names, row.mean_by_subset, strict=True)
    ])  # fmt: skip
    return Made(
        data,
        "Mean activation by subset of the corpus, less the mean of all tokens, in standard "
        f"deviations of the neuron. n = {len(chosen)} of {len(every):,} members of the family "
        f"semantic, universal ones (●, excess above {source.threshold:g}) first. Right of each its "
        "feature.",
    )


def draw_subsets(data: pd.DataFrame, page: Page) -> None:
    values = data.pivot_table(index="panel", columns="subset", values="deviations", sort=False)
    rows, columns = values.shape
    height = max(0.19 * rows, 1.5)
    (panel,) = paint.panels(page, 1, columns=1, height=height, left=0.9, right=2.6,
                            bottom=1.1)  # fmt: skip
    most = max(float(np.nanmax(np.abs(values.to_numpy()))), 1e-6)
    mesh = panel.pcolormesh(values.to_numpy(float), cmap="PuOr_r", vmin=-most, vmax=most)
    panel.set_ylim(rows, 0)
    heads = data.drop_duplicates("panel")
    panel.set_yticks(np.arange(rows) + 0.5, [
        f"{'● ' if universal else ''}{name}"
        for name, universal in zip(heads["panel"], heads["is_universal"], strict=True)
    ])  # fmt: skip
    panel.set_xticks(np.arange(columns) + 0.5, [paint.shown(str(each), 20) for each in values],
                     rotation=45, ha="right", rotation_mode="anchor")  # fmt: skip
    for place, feature in enumerate(heads["feature"]):
        panel.text(columns + 0.2, place + 0.5, paint.shown(feature, 22), va="center", fontsize=6.5)
    beside = panel.get_position()
    scale = page.add_axes((0.86, beside.y0, 0.015, beside.height))
    page.colorbar(mesh, cax=scale, label="deviations from its mean")


def subset_tokens(source: Source) -> Made:
    every = members(source, "semantic", *FAMILIES_OF_TOKENS)
    rows = _responses(source, every, "token in subset", "subset", "token_id", "tokens", "post_mean")
    where = rows.groupby("subset", dropna=False, sort=False)["tokens"].sum()
    subset = where.idxmax()
    rows = rows[rows["subset"].isna() if pd.isna(subset) else rows["subset"] == subset]
    rows = rows.merge(source.rows("vocabulary", "token_id", "text").dropna(), on="token_id")
    if rows.empty:
        raise NotDrawn("no text of these tokens is told by vocabulary.parquet")
    best = rows.groupby(["panel", "family"], sort=False)["post_mean"].max().reset_index()
    best["context"] = best["family"] == "semantic"
    best = best.sort_values(["context", "post_mean"], ascending=False, kind="stable").head(PLACES)
    ids, panels = rows["token_id"].nunique(), list(best["panel"])
    rows = rows[rows["panel"].isin(panels)].copy()
    rows["order"] = rows["panel"].map(panels.index)
    rows = rows.sort_values(["order", "post_mean"], ascending=[True, False], kind="stable")
    data = rows.groupby("order", sort=False).head(TOKENS)
    kept = ["panel", "feature", "variance_reduction", "is_universal", "subset", "token_id", "text",
            "tokens", "post_mean"]  # fmt: skip
    tokens = int(rows.drop_duplicates("token_id")["tokens"].sum())
    return Made(
        data[kept].reset_index(drop=True),
        "The tokens with the largest mean activation within one subset of the corpus"
        + ("" if pd.isna(subset) else f", {subset}")
        + f", of the {ids} most frequent ids of the whole. Drawn are the {len(panels)} members of "
        "a family of context, else of tokens, with the largest of these means (●: universal, "
        f"excess above {source.threshold:g}). n = {tokens:,} tokens.",
    )


def draw_subset_tokens(data: pd.DataFrame, page: Page) -> None:
    panels = list(data["panel"].unique())
    made = paint.panels(page, len(panels), columns=3, height=1.5, left=0.75, top=0.4,
                        apart=(0.85, 0.65))  # fmt: skip
    for panel, (_, rows) in zip(made, data.groupby("panel", sort=False), strict=True):
        panel.barh(range(len(rows)), rows["post_mean"], color=paint.OWN, height=0.7)
        panel.set_yticks(range(len(rows)), [paint.shown(each, 10) for each in rows["text"]])
        panel.set_ylim(len(rows) - 0.4, -0.6)
        panel.tick_params(axis="y", length=0)
        panel.set_title(_titled(rows), fontsize=7, linespacing=1.3)
    for panel in paint.below(made, 3):
        panel.set_xlabel("mean activation")


_TABLES = ("conditional", "taxonomy", "neurons", "summary")
FIGURES = (
    Figure(
        name="words", title="Duplicates, by the role of the token in its word", chapter=RESPONSES,
        tables=_TABLES, data=words, draw=draw_words, paper={4: "a", 15: ""},
    ),
    Figure(
        name="unigrams", title="Neurons of tokens", chapter=RESPONSES, tables=_TABLES,
        data=features_of("unigram"), draw=draw_features, paper={16: ""},
    ),
    Figure(
        name="alphabet", title="Neurons of letters", chapter=RESPONSES, tables=_TABLES,
        data=features_of("alphabet", "first letter"), draw=draw_features, paper={1: "a", 17: ""},
    ),
    Figure(
        name="previous", title="Neurons of the token before", chapter=RESPONSES, tables=_TABLES,
        data=features_of("previous token"), draw=draw_features, paper={1: "b", 18: ""},
    ),
    Figure(
        name="positions", title="Neurons of position", chapter=RESPONSES, tables=_TABLES,
        data=positions, draw=draw_positions, paper={1: "c", 19: ""},
    ),
    Figure(
        name="syntax", title="Neurons of syntax", chapter=RESPONSES, tables=_TABLES,
        data=features_of("syntax"), draw=draw_features, paper={4: "b", 20: ""},
    ),
    Figure(
        name="contexts", title="Neurons of context", chapter=RESPONSES, tables=_TABLES,
        data=features_of("semantic"), draw=draw_features, paper={1: "d", 21: ""},
    ),
    Figure(
        name="subsets", title="Neurons of context, by subset of the corpus", chapter=RESPONSES,
        tables=("statistics", "taxonomy", "neurons", "summary"), data=subsets, draw=draw_subsets,
        paper={21: ""},
    ),
    Figure(
        name="subset_histograms", title="Neurons of context, in one subset and in the others",
        chapter=RESPONSES, tables=("statistics", "taxonomy", "neurons", "summary"),
        data=subset_histograms, draw=draw_subset_histograms, paper={21: ""},
    ),
    Figure(
        name="subset_tokens", title="Tokens with the largest means within a subset",
        chapter=RESPONSES, tables=("conditional", "vocabulary", "taxonomy", "neurons", "summary"),
        data=subset_tokens, draw=draw_subset_tokens, paper={4: "c"},
    ),
)  # fmt: skip
