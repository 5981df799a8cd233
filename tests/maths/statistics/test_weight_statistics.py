"""Statistics of weights against numpy and scipy in float64, neuron by neuron, pair by pair.

Shapes: N neurons, C channels, V vocabulary, H heads, K channels of a head.
"""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from universal_ray.maths.statistics.weights import (
    ModelWeights,
    composition,
    extreme_heads,
    head_maps,
    meets,
    resemblance,
    vector_statistics,
    vocabulary,
)

NEURONS, CHANNELS, VOCABULARY, HEADS, KEYS = 40, 12, 70, 6, 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(**changed: Tensor | None) -> ModelWeights:
    given: dict[str, Any] = {
        "w_in_NC": draw(NEURONS, CHANNELS, seed=1) * torch.logspace(-1, 1, NEURONS)[:, None],
        "w_out_NC": draw(NEURONS, CHANNELS, seed=2),
        "bias_N": draw(NEURONS, seed=3),
        "unembed_CV": draw(CHANNELS, VOCABULARY, seed=4),
        "embed_CV": draw(CHANNELS, VOCABULARY, seed=11),
        "query_HCK": draw(HEADS, CHANNELS, KEYS, seed=5),
        "key_HCK": draw(HEADS, CHANNELS, KEYS, seed=6),
        "value_HCK": draw(HEADS, CHANNELS, KEYS, seed=7),
        "output_HKC": draw(HEADS, KEYS, CHANNELS, seed=8),
    }
    given |= {"up_NC": None, "up_bias_N": None}
    return ModelWeights(
        convention="raw", layers=2, parallel=False, missing={}, **given | changed
    )


def double(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.double().numpy()


def cosines(a_NC: np.ndarray, b_MC: np.ndarray) -> np.ndarray:
    a_NC, b_MC = (w / np.linalg.norm(w, axis=1, keepdims=True) for w in (a_NC, b_MC))
    return a_NC @ b_MC.T


def test_norms_bias_cosine_and_penalty():
    given = weights()
    found = {name: value.numpy() for name, value in vector_statistics(given).items()}
    w_in, w_out = double(given.w_in_NC), double(given.w_out_NC)
    expected = {
        "w_in_norm": np.sqrt((w_in**2).sum(1)),
        "w_out_norm": np.sqrt((w_out**2).sum(1)),
        "input_bias": double(given.bias_N),
        "in_out_sim": cosines(w_in, w_out).diagonal(),
        "l2_penalty": (w_in**2).sum(1) + (w_out**2).sum(1),
    }
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-13, err_msg=name)


def test_a_gated_neuron_reads_by_its_gate_and_by_what_that_lets_through():
    up_NC = draw(NEURONS, CHANNELS, seed=9)
    given = weights(up_NC=up_NC, up_bias_N=draw(NEURONS, seed=10))
    found = {name: value.numpy() for name, value in vector_statistics(given).items()}
    gate, up, out = double(given.w_in_NC), double(up_NC), double(given.w_out_NC)
    expected = {
        "up_norm": np.sqrt((up**2).sum(1)),
        "up_bias": double(given.up_bias_N),
        "up_out_sim": cosines(up, out).diagonal(),
        "gate_up_sim": cosines(gate, up).diagonal(),
        "l2_penalty": (gate**2).sum(1) + (up**2).sum(1) + (out**2).sum(1),
    }
    plain = vector_statistics(weights())
    assert found.keys() == plain.keys() | expected.keys()
    for name in found:
        value = expected.get(name, plain[name].numpy() if name in plain else None)
        np.testing.assert_allclose(found[name], value, rtol=1e-13, err_msg=name)


@pytest.mark.parametrize("block", [7, 256])
def test_moments_and_ends_over_the_vocabulary(block):
    given = weights()
    found = vocabulary(given.w_out_NC, given.unembed_CV, 5, block=block)
    cosine_NV = cosines(double(given.w_out_NC), double(given.unembed_CV).T)
    expected = {
        "vocab_mean": cosine_NV.mean(1),
        "vocab_var": cosine_NV.var(1),
        "vocab_skew": scipy.stats.skew(cosine_NV, axis=1),
        "vocab_kurt": scipy.stats.kurtosis(cosine_NV, axis=1, fisher=False),
    }
    assert found.moments.keys() == expected.keys()
    for name in expected:
        value = found.moments[name].numpy()
        np.testing.assert_allclose(value, expected[name], rtol=1e-11, atol=1e-15, err_msg=name)
    order_NV = np.argsort(cosine_NV, axis=1, kind="stable")
    np.testing.assert_array_equal(found.bottom_id_RT, order_NV[:, :5])
    np.testing.assert_array_equal(found.top_id_RT, order_NV[:, ::-1][:, :5])
    ordered_NV = np.sort(cosine_NV, axis=1)
    np.testing.assert_allclose(found.bottom_RT, ordered_NV[:, :5], rtol=1e-12)
    np.testing.assert_allclose(found.top_RT, ordered_NV[:, ::-1][:, :5], rtol=1e-12)


def test_ties_go_to_the_lowest_id_and_columns_without_direction_are_left_out():
    unembed_CV = torch.zeros(2, 6)
    unembed_CV[:, 1:] = torch.tensor([[2.0, 0.5, 0.0, -1.0, -3.0], [0.0, 0.0, 1.0, 0.0, 0.0]])
    found = vocabulary(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), unembed_CV, 3)
    assert found.top_id_RT[0].tolist() == [1, 2, 3] and found.top_RT[0].tolist() == [1, 1, 0]
    assert found.bottom_id_RT[0].tolist() == [4, 5, 3]
    assert float(found.moments["vocab_mean"][0]) == 0  # of five tokens, not of six
    assert float(found.moments["vocab_var"][0]) == pytest.approx(4 / 5)
    assert all(value[1].isnan() for value in found.moments.values())  # writes nothing


def test_a_count_beyond_the_vocabulary_gives_all_of_it():
    given = weights()
    assert vocabulary(given.w_out_NC, given.unembed_CV, 100).top_id_RT.shape == (40, VOCABULARY)


def extremes(cosine_NN: np.ndarray) -> tuple[np.ndarray, ...]:
    """Largest and smallest of each row with their places, the diagonal left out."""
    high_NN, low_NN = cosine_NN.copy(), cosine_NN.copy()
    np.fill_diagonal(high_NN, -np.inf)
    np.fill_diagonal(low_NN, np.inf)
    return high_NN.max(1), high_NN.argmax(1), low_NN.min(1), low_NN.argmin(1)


@pytest.mark.parametrize("block", [7, 20, 2048])
def test_extreme_cosines_to_any_other_neuron(block):
    given = weights()
    found = resemblance(given.w_in_NC.double(), given.w_out_NC.double(), block=block)
    into = cosines(double(given.w_in_NC), double(given.w_in_NC))
    out = cosines(double(given.w_out_NC), double(given.w_out_NC))
    for name, cosine_NN in {"in": into, "out": out, "both": np.minimum(into, out)}.items():
        high_N, high_place_N, low_N, low_place_N = extremes(cosine_NN)
        np.testing.assert_allclose(found[name].max_N, high_N, rtol=0, atol=1e-14)
        np.testing.assert_allclose(found[name].min_N, low_N, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(found[name].max_index_N, high_place_N)
        np.testing.assert_array_equal(found[name].min_index_N, low_place_N)


def test_duplicates_are_redundant_and_neurons_of_zeros_have_no_resemblance():
    w_in_NC, w_out_NC = draw(9, CHANNELS, seed=1), draw(9, CHANNELS, seed=2)
    w_in_NC[7], w_out_NC[7] = w_in_NC[2] * 3, w_out_NC[2] * 0.5  # a duplicate but for scale
    w_in_NC[4], w_out_NC[4] = w_in_NC[2], -w_out_NC[2]  # reads the same, writes the opposite
    w_in_NC[5] = 0
    found = resemblance(w_in_NC, w_out_NC, block=4)
    assert found["both"].max_index_N[[2, 7]].tolist() == [7, 2]
    torch.testing.assert_close(found["both"].max_N[[2, 7]], torch.ones(2))
    assert int((found["both"].max_N > 0.99).sum()) == 2
    assert int((found["in"].max_N > 0.99).sum()) == 3
    assert found["out"].min_index_N[4] in (2, 7)
    for each in found.values():
        assert each.max_N[5].isnan() and each.min_N[5].isnan()
        assert each.max_index_N[5] == each.min_index_N[5] == -1
        assert not bool(((each.max_index_N == 5) | (each.min_index_N == 5)).any())


def test_a_gated_duplicate_is_one_in_all_three_vectors():
    given, up_NC = weights(), draw(NEURONS, CHANNELS, seed=9)
    for w_NC in (given.w_in_NC, given.w_out_NC, up_NC):
        w_NC[7] = 3 * w_NC[2]
    given.w_in_NC[9], given.w_out_NC[9] = given.w_in_NC[4], given.w_out_NC[4]  # in two of them
    found = resemblance(given.w_in_NC, given.w_out_NC, up_NC, block=11)
    assert torch.nonzero(found["both"].max_N > 0.99).flatten().tolist() == [2, 7]
    alike = [cosines(double(w), double(w)) for w in (given.w_in_NC, given.w_out_NC, up_NC)]
    expected_N = extremes(np.minimum.reduce(alike))[0]
    np.testing.assert_allclose(found["both"].max_N, expected_N, atol=1e-6)


def test_ties_go_to_the_lowest_neuron_across_blocks():
    w_NC = torch.eye(3).repeat(3, 1)  # neurons 0, 3 and 6 are equal, and so on
    found = resemblance(w_NC, w_NC, block=2)
    assert found["out"].max_index_N.tolist() == [3, 4, 5, 0, 1, 2, 0, 1, 2]
    assert found["out"].min_index_N.tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0]


def test_a_neuron_alone_resembles_none():
    found = resemblance(torch.ones(1, 3), torch.ones(1, 3))["out"]
    assert found.max_N.isnan().all() and found.max_index_N.tolist() == [-1]


def test_composition_with_heads_is_that_of_whole_matrices():
    given = weights()
    maps = head_maps(given)
    query, key = double(given.query_HCK), double(given.key_HCK)
    value, output = double(given.value_HCK), double(given.output_HKC)
    w_in, w_out = double(given.w_in_NC), double(given.w_out_NC)
    for head in range(HEADS):
        scores_CC = query[head] @ key[head].T  # what a query at one place asks of another's key
        writes_CC = value[head] @ output[head]
        whole = {
            "q": (w_out, scores_CC), "k": (w_out, scores_CC.T),
            "v": (w_out, writes_CC), "o": (w_in, writes_CC.T),
        }  # fmt: skip
        assert maps.keys() == whole.keys()
        for name, (w_NC, matrix_CC) in whole.items():
            expected_N = np.linalg.norm(w_NC @ matrix_CC, axis=1)
            expected_N /= np.linalg.norm(matrix_CC) * np.linalg.norm(w_NC, axis=1)
            found_NH = composition(torch.from_numpy(w_NC).float(), maps[name])
            np.testing.assert_allclose(found_NH[:, head], expected_N, rtol=2e-6, err_msg=name)


def test_composition_has_its_bounds():
    """One for a head that reads nothing but the neuron's direction, zero for one that does not."""
    reads_CK = torch.zeros(CHANNELS, KEYS)
    reads_CK[0, 0] = 2.0
    given = weights(query_HCK=reads_CK[None], key_HCK=draw(1, CHANNELS, KEYS))
    w_NC = torch.eye(CHANNELS)[:2] * 7
    found_NH = composition(w_NC, head_maps(given)["q"])
    torch.testing.assert_close(found_NH, torch.tensor([[1.0], [0.0]]))


def test_what_a_model_lacks_is_not_made_up():
    assert set(head_maps(weights(query_HCK=None))) == {"v", "o"}
    assert set(head_maps(weights(value_HCK=None))) == {"q", "k"}
    assert "input_bias" not in vector_statistics(weights(bias_N=None))


@pytest.mark.parametrize("parallel", [False, True])
def test_a_neuron_meets_heads_in_causal_order_alone(parallel):
    """By hand: what it writes goes up, what it reads comes from below, or beside it if it may."""
    layers, heads, neurons = 3, 2, 4
    value_NH = torch.rand(layers * neurons, layers * heads, generator=torch.Generator())
    for kind in "qkvo":
        before_NH = meets(
            kind, layers=layers, heads=layers * heads, neurons=layers * neurons, parallel=parallel
        )
        for sign, neuron in itertools.product((1, -1), range(layers * neurons)):
            found_NK, head_NK = extreme_heads(sign, value_NH, before_NH, 3)
            layer = neuron // neurons
            first, last = (layer + 1, layers) if kind != "o" else (0, layer + (not parallel))
            own = value_NH[neuron, first * heads : last * heads]
            order = np.argsort(-sign * own.numpy(), kind="stable")[:3]
            there = len(order)
            assert found_NK[neuron, :there].tolist() == own[order].tolist()
            assert (head_NK[neuron, :there] - first * heads).tolist() == order.tolist()
            assert found_NK[neuron, there:].isnan().all()
            assert (head_NK[neuron, there:] == -1).all()


def test_a_neuron_of_zeros_composes_with_no_head():
    value_NH = composition(torch.zeros(2, CHANNELS), head_maps(weights())["v"])
    for sign in (1, -1):
        found_NK, head_NK = extreme_heads(
            sign, value_NH, torch.ones(2, HEADS, dtype=torch.bool), 2
        )
        assert found_NK.isnan().all() and head_NK.tolist() == [[-1, -1], [-1, -1]]


def test_no_weight_is_changed():
    given = weights()
    before = {name: w.clone() for name, w in vars(given).items() if isinstance(w, Tensor)}
    vector_statistics(given)
    vocabulary(given.w_out_NC, given.unembed_CV, 3)
    resemblance(given.w_in_NC, given.w_out_NC)
    composition(given.w_out_NC, head_maps(given)["v"])
    assert all(torch.equal(w, getattr(given, name)) for name, w in before.items())
