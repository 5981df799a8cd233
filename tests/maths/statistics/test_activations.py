"""Streaming statistics of activations against scipy and numpy in float64, token by token.

Shapes: B rows, P positions, T tokens, D neurons, V vocabulary, S subsets, G groups, H bins.
"""

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from universal_ray.errors import NumericalError
from universal_ray.maths.statistics.activations import (
    BINS,
    EDGES,
    GROUPS,
    TOKENS_AT_ONCE,
    LayerSums,
    group_means,
    merge_layers,
    neuron_statistics,
    places,
)

ROWS, CONTEXT, WIDTH, VOCABULARY, SUBSETS, EXAMPLES = 60, 20, 7, 11, 3, 5
EXACT = ("histogram", "fired", "count", "maximum", "examples", "minimum", "lowest", "shift")
"""Sums that have the same bits in whatever order they are added."""


@dataclass(frozen=True)
class Tokens:
    """A small study: what a model shows on every token, and which tokens count."""

    tokens_BP: Tensor
    kept_T: Tensor
    subset_B: Tensor
    pre_TD: Tensor
    post_TD: Tensor

    def sums(self, first: int = 0, stop: int = ROWS, batch: int = 8) -> LayerSums:
        """Sums over some rows, batch by batch."""
        sums = empty()
        for start in range(first, stop, batch):
            rows = slice(start, min(start + batch, stop))
            tokens = slice(rows.start * CONTEXT, rows.stop * CONTEXT)
            where = places(
                self.tokens_BP[rows],
                self.kept_T[tokens],
                first_row=rows.start,
                subset_B=self.subset_B[rows],
            )
            sums.update_(self.pre_TD[tokens], self.post_TD[tokens], where)
        return sums

    def group(self, kind: str) -> np.ndarray:
        """Group of every token that counts."""
        tokens_BP = self.tokens_BP.numpy()
        before_BP = np.full_like(tokens_BP, -1)
        before_BP[:, 1:] = tokens_BP[:, :-1]
        every = {
            "current": tokens_BP.ravel(),
            "previous": before_BP.ravel(),
            "position": np.tile(np.arange(CONTEXT), ROWS),
            "subset": np.repeat(self.subset_B.numpy(), CONTEXT),
        }
        return every[kind][self.kept_T.numpy()]

    def kept(self, x_TD: Tensor) -> np.ndarray:
        return x_TD[self.kept_T].double().numpy()


def empty(shift: float = -0.4, both_ends: bool = True) -> LayerSums:
    return LayerSums.zeros(
        torch.full((WIDTH,), shift),
        vocabulary=VOCABULARY,
        context=CONTEXT,
        subsets=SUBSETS,
        examples=EXAMPLES,
        both_ends=both_ends,
        by_subset=True,
    )


@cache
def study() -> Tokens:
    """Neurons of scales over a factor of 100, one of them far from zero; the last never varies."""
    generator = torch.Generator().manual_seed(0)

    def draw(stop: int, *shape: int) -> Tensor:
        return torch.randint(stop, shape, generator=generator)

    noise_TD = torch.randn(ROWS * CONTEXT, WIDTH, generator=generator)
    pre_TD = noise_TD**3 * torch.logspace(-1, 1, WIDTH) + torch.linspace(-1, 12, WIDTH)
    pre_TD[:, -1] = 0.1
    up_TD = torch.randn(ROWS * CONTEXT, WIDTH, generator=torch.Generator().manual_seed(1))
    return Tokens(
        # The last id is never seen, nor the last subset.
        tokens_BP=draw(VOCABULARY - 1, ROWS, CONTEXT),
        kept_T=draw(10, ROWS * CONTEXT) > 0,
        subset_B=draw(SUBSETS, ROWS) - 1,
        pre_TD=pre_TD,
        # As in a gated MLP; the first neuron's gate alone, which leaves it below zero.
        post_TD=torch.nn.functional.silu(pre_TD) * (1 + torch.linspace(0, 2, WIDTH) * up_TD),
    )


@cache
def whole() -> LayerSums:
    return study().sums()


def assert_close(
    found: Tensor, expected: np.ndarray, rtol: float = 1e-11, atol: float = 1e-12
) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=rtol, atol=atol)


def test_moments_are_those_of_scipy():
    pre_TD, found = study().kept(study().pre_TD), neuron_statistics(whole())
    assert_close(found["mean"], pre_TD.mean(0))
    assert_close(found["var"], pre_TD.var(0), rtol=1e-11, atol=1e-15)
    live = slice(0, WIDTH - 1)
    assert_close(found["skew"][live], scipy.stats.skew(pre_TD[:, live]))
    assert_close(found["kurt"][live], scipy.stats.kurtosis(pre_TD[:, live], fisher=False))
    post_TD = study().kept(study().post_TD)
    assert_close(found["post_mean"], post_TD.mean(0))
    assert_close(found["post_var"], post_TD.var(0), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("shift", [0.1, 0.0, -3.7])
def test_a_neuron_that_never_varies_has_no_shape(shift):
    sums = empty(shift)
    pre_TD = torch.full((CONTEXT * 8, WIDTH), 0.1)
    sums.update_(
        pre_TD, pre_TD, places(torch.zeros(8, CONTEXT).long(), pre_TD[:, 0] > 0, first_row=0)
    )
    found = neuron_statistics(sums)
    assert found["skew"].isnan().all() and found["kurt"].isnan().all()
    assert_close(found["mean"], np.full(WIDTH, float(torch.tensor(0.1))))
    assert (found["var"] < 1e-13).all()


def test_moments_far_from_zero_do_not_cancel():
    """Mean ten thousand deviations from zero, as float32 resolves it."""
    pre_TD = torch.randn(4000, WIDTH, generator=torch.Generator().manual_seed(1)) + 10_000
    sums = empty(10_000.0)
    tokens_BP = torch.zeros(200, CONTEXT).long()
    sums.update_(pre_TD, pre_TD, places(tokens_BP, torch.ones(4000).bool(), first_row=0))
    found = neuron_statistics(sums)
    assert_close(found["kurt"], scipy.stats.kurtosis(pre_TD.double().numpy(), fisher=False))


def test_sparsity_is_the_share_above_zero_exactly():
    sums = empty()
    pre_TD = torch.zeros(CONTEXT, WIDTH)
    tiny = float(np.nextafter(np.float32(0), np.float32(1)))
    pre_TD[:3, 0], pre_TD[:7, 1], pre_TD[:, 2] = tiny, 1e-17, -tiny
    pre_TD[:, 3], pre_TD[0, 4] = -0.0, 20.0
    sums.update_(
        pre_TD, pre_TD, places(torch.zeros(1, CONTEXT).long(), torch.ones(20).bool(), first_row=0)
    )
    expected = [3 / 20, 7 / 20, 0, 0, 1 / 20, 0, 0]
    assert neuron_statistics(sums)["sparsity"].tolist() == expected
    # The histogram knows the same: zero is an edge, and what is above it in the bins above.
    zero = EDGES.tolist().index(0.0)
    assert (sums.histogram_DH[:, zero + 1 :].sum(1) / CONTEXT).tolist() == expected


def test_edges_are_the_papers():
    np.testing.assert_allclose(EDGES.numpy(), np.linspace(-10, 15, 256), rtol=0, atol=4e-15)


def test_the_histogram_has_the_rule_of_searchsorted():
    """At every edge, its float32 neighbours, beyond both ends, and for values at random."""
    near_E = EDGES.numpy().astype(np.float32)
    infinity = np.float32(np.inf)
    values = [near_E, np.nextafter(near_E, infinity), np.nextafter(near_E, -infinity)]
    values += [np.float32([-1e30, -10.1, 15.1, 1e30, 0, -0.0, 1e-30, -1e-30])]
    values += [np.random.default_rng(0).uniform(-12, 17, 5000).astype(np.float32)]
    x_T = np.concatenate(values)
    x_T = x_T[: len(x_T) // CONTEXT * CONTEXT]
    pre_TD = torch.from_numpy(np.stack([np.roll(x_T, k) for k in range(WIDTH)], axis=1))
    sums = empty()
    tokens_BP = torch.zeros(len(x_T) // CONTEXT, CONTEXT).long()
    sums.update_(pre_TD, pre_TD, places(tokens_BP, torch.ones(len(x_T)).bool(), first_row=0))
    bin_T = np.searchsorted(EDGES.numpy(), x_T.astype(np.float64), side="left")
    expected_H = np.bincount(bin_T, minlength=BINS)
    assert expected_H.min() > 0
    for neuron in range(WIDTH):
        np.testing.assert_array_equal(sums.histogram_DH[neuron].numpy(), expected_H)


def test_a_histogram_of_every_subset_has_its_tokens_alone():
    found_SDH = whole().histogram_SDH
    assert found_SDH is not None and found_SDH.dtype == torch.int32
    for subset, pre_TD in enumerate(by_group("subset", study().kept(study().pre_TD), SUBSETS)):
        for neuron in range(WIDTH):
            bin_T = np.searchsorted(EDGES.numpy(), pre_TD[:, neuron], side="left")
            expected_H = np.bincount(bin_T, minlength=BINS)
            np.testing.assert_array_equal(found_SDH[subset, neuron].numpy(), expected_H)


def by_group(kind: str, x_TD: np.ndarray, sizes: int) -> list[np.ndarray]:
    group_T = study().group(kind)
    return [x_TD[group_T == group] for group in range(sizes)]


SIZES = dict(zip(GROUPS, (VOCABULARY, VOCABULARY, CONTEXT, SUBSETS), strict=True))


@pytest.mark.parametrize("kind", GROUPS)
def test_means_by_group(kind):
    parts = by_group(kind, study().kept(study().post_TD), SIZES[kind])
    assert whole().count[kind].tolist() == [len(part) for part in parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy deplores the mean of nothing
        assert_close(group_means(whole(), kind), np.stack([part.mean(0) for part in parts]))


def test_groups_without_tokens_have_no_mean_and_tokens_without_group_count_in_none():
    assert group_means(whole(), "current")[-1].isnan().all()
    assert group_means(whole(), "subset")[-1].isnan().all()
    kept = int(study().kept_T.sum())
    first = int(study().kept_T.view(ROWS, CONTEXT)[:, 0].sum())
    assert int(whole().count["previous"].sum()) == kept - first
    assert 0 < int(whole().count["subset"].sum()) < kept
    without = places(study().tokens_BP, study().kept_T, first_row=0).groups["subset"]
    assert (without == -1).all()


@pytest.mark.parametrize("tokens", [1, 19, 20, 41, 100_000])
def test_steps_of_any_length_give_the_same_sums(monkeypatch, tokens):
    """Tokens without a group lie at the ends of a step, and within it."""
    monkeypatch.setitem(TOKENS_AT_ONCE, "cpu", tokens)
    found = study().sums(batch=ROWS)
    for name, expected in whole().tensors().items():
        bound = 0 if name.startswith(EXACT) else 1e-12
        torch.testing.assert_close(found.tensors()[name], expected, rtol=bound, atol=bound)


def test_how_often_neurons_fire_by_position():
    parts = by_group("position", study().kept(study().pre_TD), CONTEXT)
    expected_PD = np.stack([(part > 0).sum(0) for part in parts])
    np.testing.assert_array_equal(whole().fired_PD.numpy(), expected_PD)


def test_maxima_by_token():
    parts = by_group("current", study().kept(study().post_TD), VOCABULARY)
    expected_VD = [part.max(0, initial=-np.inf) for part in parts]
    np.testing.assert_array_equal(whole().maximum_VD.numpy(), np.stack(expected_VD))
    assert (whole().maximum_VD[:-1, 0] < 0).any()  # negative maxima are not lost


def test_examples_are_the_largest_of_all_tokens():
    post_TD = study().post_TD.clone()
    post_TD[~study().kept_T] = -torch.inf
    order_DT = torch.sort(post_TD.T, dim=1, descending=True, stable=True).indices[:, :EXAMPLES]
    examples = whole().examples
    assert torch.equal(examples.token_DK, order_DT)
    assert torch.equal(examples.value_DK, post_TD.T.gather(1, order_DT))
    row_DK, position_DK = examples.place(CONTEXT)
    assert torch.equal(row_DK * CONTEXT + position_DK, order_DT) and int(position_DK.max()) < 20


def test_minima_by_token():
    parts = by_group("current", study().kept(study().post_TD), VOCABULARY)
    expected_VD = [part.min(0, initial=np.inf) for part in parts]
    assert whole().minimum_VD is not None
    np.testing.assert_array_equal(whole().minimum_VD.numpy(), np.stack(expected_VD))
    assert (whole().minimum_VD[:-1] < -1).any()


def test_the_lower_end_has_the_smallest_of_all_tokens():
    post_TD = study().post_TD.clone()
    post_TD[~study().kept_T] = torch.inf
    order_DT = torch.sort(post_TD.T, dim=1, stable=True).indices[:, :EXAMPLES]
    assert whole().lowest is not None
    assert torch.equal(whole().lowest.token_DK, order_DT)
    assert torch.equal(-whole().lowest.value_DK, post_TD.T.gather(1, order_DT))


def test_a_layer_without_a_lower_end_is_the_same_but_for_it():
    one = empty(both_ends=False)
    where = places(study().tokens_BP, study().kept_T, first_row=0, subset_B=study().subset_B)
    one.update_(study().pre_TD, study().post_TD, where)
    again = LayerSums.of(merge_layers([one]).tensors())
    assert again.minimum_VD is None and again.lowest is None
    both = study().sums(batch=ROWS).tensors()
    assert both.keys() - again.tensors().keys() == {
        "minimum_VD", "lowest.value_DK", "lowest.token_DK",
    }  # fmt: skip
    assert all(torch.equal(value, both[name]) for name, value in again.tensors().items())


def test_parts_with_one_end_and_with_two_are_no_parts_of_one_layer():
    with pytest.raises(NumericalError, match=r"some parts .* both ends"):
        merge_layers([empty(), empty(both_ends=False)])


def test_parts_of_disjoint_tokens_make_the_whole():
    parts = [study().sums(first, first + 20) for first in (0, 20, 40)]
    before = [{key: value.clone() for key, value in part.tensors().items()} for part in parts]
    merged = merge_layers(parts)
    for name, expected in whole().tensors().items():
        bound = 0 if name.startswith(EXACT) else 1e-12
        torch.testing.assert_close(merged.tensors()[name], expected, rtol=bound, atol=bound)
    for part, kept in zip(parts, before, strict=True):
        assert all(torch.equal(value, kept[key]) for key, value in part.tensors().items())
    # The order given is the order of the additions; the same order gives the same bits.
    again = merge_layers([study().sums(first, first + 20) for first in (0, 20, 40)])
    assert all(torch.equal(v, again.tensors()[k]) for k, v in merged.tensors().items())
    # Integers, extremes and examples have the same bits in any order.
    swapped = merge_layers(parts[::-1]).tensors()
    for name, value in merged.tensors().items():
        if name.startswith(EXACT):
            assert torch.equal(value, swapped[name]), name


def test_bits_do_not_depend_on_the_neurons_held_together():
    alone = LayerSums.zeros(
        torch.full((2,), -0.4),
        vocabulary=VOCABULARY,
        context=CONTEXT,
        subsets=SUBSETS,
        examples=EXAMPLES,
        both_ends=True,
    )
    where = places(study().tokens_BP, study().kept_T, first_row=0, subset_B=study().subset_B)
    alone.update_(study().pre_TD[:, 3:5], study().post_TD[:, 3:5], where)
    together = study().sums(batch=ROWS)
    assert torch.equal(alone.powers_5D, together.powers_5D[:, 3:5])
    assert torch.equal(alone.total["current"], together.total["current"][:, 3:5])
    assert torch.equal(alone.examples.token_DK, together.examples.token_DK[3:5])


def test_stored_and_read_again():
    again = LayerSums.of(whole().tensors())
    assert again.tensors().keys() == whole().tensors().keys()
    assert all(torch.equal(v, again.tensors()[k]) for k, v in whole().tensors().items())
    assert len(whole().tensors()) == 20


def test_no_tokens_add_nothing():
    sums = study().sums()
    before = {name: tensor.clone() for name, tensor in sums.tensors().items()}
    nothing = torch.zeros(ROWS * CONTEXT).bool()
    sums.update_(
        study().pre_TD, study().post_TD, places(study().tokens_BP, nothing, first_row=ROWS)
    )
    after = sums.tensors()
    assert [name for name, was in before.items() if not torch.equal(was, after[name])] == []


def test_parts_of_different_shifts_are_refused():
    with pytest.raises(NumericalError, match="different shifts"):
        merge_layers([empty(0.0), empty(1.0)])


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_activations_that_are_not_finite_are_refused(wrong):
    pre_TD = torch.zeros(CONTEXT, WIDTH)
    pre_TD[3, 5] = wrong
    where = places(torch.zeros(1, CONTEXT).long(), torch.ones(CONTEXT).bool(), first_row=0)
    with pytest.raises(NumericalError, match=r"neuron 5 of a layer .* not finite"):
        empty().update_(pre_TD, pre_TD, where)
    # A token that does not count does not matter.
    where = places(torch.zeros(1, CONTEXT).long(), torch.arange(CONTEXT) != 3, first_row=0)
    sums = empty()
    sums.update_(pre_TD, pre_TD, where)
    assert int(sums.powers_5D[0, 0]) == CONTEXT - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activations_stay_as_they_are(dtype):
    pre_TD, post_TD = study().pre_TD.to(dtype), study().post_TD.to(dtype)
    before = pre_TD.clone(), post_TD.clone()
    everything = torch.ones(ROWS * CONTEXT).bool()
    empty().update_(pre_TD, post_TD, places(study().tokens_BP, everything, first_row=0))
    assert torch.equal(pre_TD, before[0]) and torch.equal(post_TD, before[1])


def test_half_precision_is_summed_as_it_stands():
    sums = empty()
    pre_TD = study().pre_TD.bfloat16()
    where = places(study().tokens_BP, study().kept_T, first_row=0, subset_B=study().subset_B)
    sums.update_(pre_TD, torch.nn.functional.gelu(pre_TD), where)
    expected = study().kept(pre_TD).mean(0)
    assert_close(neuron_statistics(sums)["mean"], expected)
