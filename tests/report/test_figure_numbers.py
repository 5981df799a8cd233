"""What figures draw are the numbers of their tables, held against a second computation."""


import numpy as np
import pytest
from helpers_figures import (
    BY_NAME,
    DRAWS,
    LAYERS,
    NEURONS,
    THRESHOLD,
    data_of,
    frame,
    of_panel,
    source,
)
from matplotlib.figure import Figure as Page
from scipy.stats import percentileofscore


def test_densities_are_counts_of_all_neurons():
    neurons = frame("neurons")
    data = data_of("densities")
    names = {"best match": "mean_corr", "best by chance": "mean_baseline",
             "excess": "excess_corr"}  # fmt: skip
    assert set(data["quantity"]) == set(names)
    for quantity, own in data.groupby("quantity"):
        assert own["neurons"].sum() == NEURONS
        assert (own["density"] * (own["high"] - own["low"])).sum() == pytest.approx(1)
        for row in own.itertuples():
            values = neurons[names[quantity]]
            inside = (values >= row.low) & (values < row.high)
            assert inside.sum() == row.neurons


def test_the_spread_has_every_neuron_in_the_square_where_it_is():
    neurons, data = frame("neurons"), data_of("spread")
    for group, universal in (("universal", True), ("others", False)):
        mine = neurons[neurons["is_universal"] == universal]
        own = data[data["group"] == group]
        assert own["neurons"].sum() == len(mine) > 0
        for row in own.itertuples():
            here = mine["min_corr"].between(row.x_low, row.x_high, inclusive="left")
            here &= mine["max_corr"].between(row.y_low, row.y_high, inclusive="left")
            assert here.sum() == row.neurons


def test_layers_of_partners_are_means_over_the_other_models():
    pairs, data = frame("pairs"), data_of("depth")
    for row in data.itertuples():
        shares = [
            (own["max_layer"] == row.partner_layer).mean()
            for _, own in pairs[pairs["layer"] == row.layer].groupby("other")
        ]
        assert row.share == pytest.approx(np.mean(shares))
    np.testing.assert_allclose(data.groupby("layer")["share"].sum(), 1)
    assert len(data) == LAYERS * LAYERS


def test_shares_of_layers_are_told_at_every_level():
    neurons, data = frame("neurons"), data_of("layers")
    assert set(data["above"]) == {0.4, 0.45, THRESHOLD}
    for row in data.itertuples():
        excess = neurons.loc[neurons["layer"] == row.layer, "excess_corr"]
        assert row.universal == (excess > row.above).sum() and row.neurons == len(excess)
        assert row.share == row.universal / row.neurons


def test_each_draw_of_the_baseline_has_its_own_universal_neurons():
    pairs, data = frame("pairs"), data_of("baseline_draws")
    pairs[list(range(DRAWS))] = np.stack(pairs["baseline_draws"])
    mean = pairs.groupby(["layer", "neuron"])[["max_corr", *range(DRAWS)]].mean()
    for draw, own in data.groupby("draw"):
        assert own["neurons"].sum() == NEURONS
        expected = (mean["max_corr"] - mean[draw] > THRESHOLD).sum()
        assert set(own["universal"]) == {expected}


def test_percentiles_are_those_of_scipy():
    statistics, neurons = frame("statistics"), frame("neurons")
    found = statistics.merge(neurons, on=["model", "layer", "neuron"])
    ranks = [
        percentileofscore(found.loc[found["layer"] == row.layer, "kurt"], row.kurt, kind="rank")
        for row in found[found["is_universal"]].itertuples()
    ]
    data = data_of("percentiles").query("statistic == 'kurt'").set_index("letter")
    assert data.loc[0, "low"] == data.loc[0, "high"] == pytest.approx(np.median(ranks))
    assert data.loc[2, "low"] == pytest.approx(np.quantile(ranks, 1 / 8))
    assert data.loc[2, "high"] == pytest.approx(np.quantile(ranks, 7 / 8))


def test_statistics_by_layer_are_quantiles_of_each_group():
    found = frame("statistics").merge(frame("neurons"), on=["model", "layer", "neuron"])
    for row in data_of("by_layer").itertuples():
        here = (found["layer"] == row.layer) & (found["is_universal"] == (row.group == "universal"))
        values = found.loc[here, row.statistic]
        assert (row.low, row.median) == pytest.approx(tuple(values.quantile([0.05, 0.5])))
        assert row.neurons == len(values)


def test_activations_with_a_feature_are_those_of_its_neurons():
    conditional = source().tables["conditional"].to_pandas()
    members = frame("taxonomy").query("family == 'unigram' and status == 'member'")
    data = data_of("unigrams")
    assert set(data["panel"]) == {f"{row.layer}.{row.neuron}" for row in members.itertuples()}
    universal = data.drop_duplicates("panel")["is_universal"].tolist()
    assert universal == sorted(universal, reverse=True) and len(set(universal)) == 2
    edges = (np.arange(256) * 25 - 2550) / 255
    by_feature = conditional[conditional["by"] == "feature"]
    for panel, own in data.groupby("panel"):
        both = of_panel(by_feature, panel).set_index("inside")["histogram"]
        for inside, group in ((True, "with the feature"), (False, "without")):
            rows, expected = own[own["group"] == group], both[inside]
            assert rows["tokens"].sum() == expected.sum()
            some = rows[rows["tokens"] > 0]
            bins = np.searchsorted(edges, some["high"] - 1e-9)
            assert some["tokens"].tolist() == expected[bins].tolist()
            area = (rows["density"] * (rows["high"] - rows["low"])).sum()
            assert area == pytest.approx(1)


def test_activations_in_the_best_subset_are_held_against_all_others():
    statistics, data = frame("statistics"), data_of("subset_histograms")
    statistics = statistics[statistics["model"] == "a"]
    assert data["panel"].nunique() > 1 and data["subset"].nunique() > 1
    for panel, own in data.groupby("panel"):
        (row,) = of_panel(statistics, panel).itertuples()
        best = int(np.argmax(row.mean_by_subset))
        groups = {"in the subset of its largest mean": best, "in the others": 1 - best}
        for group, place in groups.items():
            told = own[own["group"] == group]
            assert told["tokens"].tolist() == list(row.histogram_by_subset[place])
            assert set(told["subset"]) == {("=one", "<b>two</b>")[best]}


def test_positions_that_are_drawn_as_one_have_the_moments_of_all_their_tokens():
    conditional = source().tables["conditional"].to_pandas()
    data = data_of("positions")
    row = data.iloc[3]
    own = of_panel(conditional[conditional["by"] == "position"], row["panel"])
    own = own[own["tokens"] > 0]
    own = own[own["position"].between(row["first"], row["last"])]
    assert len(own) > 1 and row["tokens"] == own["tokens"].sum()
    draws = [(each.tokens, each.pre_mean, each.pre_deviation) for each in own.itertuples()]
    # Half of the tokens a deviation above the mean and half below have these moments.
    values = np.repeat([mean + sign * deviation for tokens, mean, deviation in draws
                        for sign in (-1, 1) for _ in range(tokens)], 1)  # fmt: skip
    assert row["pre_mean"] == pytest.approx(values.mean())
    assert row["pre_deviation"] == pytest.approx(values.std())


def test_moments_of_logits_are_told_with_the_least_and_the_most_of_a_model():
    statistics = frame("statistics")
    for row in data_of("logit_moments").itertuples():
        here = statistics[statistics["layer"] == row.layer]
        each = [np.percentile(own[row.statistic], row.percentile)
                for _, own in here.groupby("model")]  # fmt: skip
        expected = pytest.approx((np.mean(each), min(each), max(each)))
        assert (row.mean, row.low, row.high) == expected


def test_logits_of_a_class_are_all_its_ids():
    roles, data = frame("roles"), data_of("logit_effects")
    for panel, own in data.groupby("panel"):
        (row,) = of_panel(roles, panel).itertuples()
        inside = own[own["group"] == "in the class"]
        assert inside["count"].tolist() == row.effect_inside.tolist()
        assert own["role"].unique().tolist() == list(row.roles)
        assert (inside["low"].iloc[0], inside["high"].iloc[-1]) == (row.effect_low, row.effect_high)


def test_sweeps_are_the_measured_means():
    rows = frame("interventions")
    data = data_of("sweeps")
    assert len(data) == 4 * len(rows)
    for row in data.itertuples():
        neuron = int(row.panel.split(".")[1])
        (own,) = rows[(rows["neuron"] == neuron) & (rows["value"] == row.value)].to_dict("records")
        names = [row.measure, f"{row.measure}_low", f"{row.measure}_high"]
        assert [row.mean, row.low, row.high] == [own[name] for name in names]


def test_neurons_of_every_group_are_drawn():
    data, page = data_of("sweeps"), Page()
    BY_NAME["sweeps"].draw(data, page)
    for panel in page.axes:
        assert len(panel.lines) == data["panel"].nunique()
        assert {line.get_label() for line in panel.lines} == set(data["group"])


def test_paths_that_the_study_names_are_drawn_first():
    rows = frame("attention")
    assert rows["named"].tolist() == [False, True]
    layer, neuron, head = (int(rows[name].iloc[1]) for name in ("layer", "neuron", "head_layer"))
    assert data_of("head_paths")["panel"].iloc[0] == f"{layer}.{neuron} → head {head}.0"


def test_scores_of_heads_are_added_up():
    data, heads = data_of("head_scores"), frame("heads")
    own = data[data["group"] == "neurons"]["count"]
    assert own.tolist() == np.stack(heads["histogram"]).sum(0).tolist()
