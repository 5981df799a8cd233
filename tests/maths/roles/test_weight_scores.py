"""Scores from weights alone against direct float64 computations, on raw and folded weights.

Shapes: N neurons, C channels, V vocabulary, H heads of all layers, K channels of a head.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_roles import HEADS, LAYERS, MODELS, VOCABULARY, WIDTH, load

from universal_ray.errors import ConfigurationError
from universal_ray.maths.roles.attention import (
    bos_directions,
    bos_scores,
    null_scores,
    standardised,
    strongest_pairs,
)
from universal_ray.maths.roles.entropy import (
    EntropyOptions,
    antipodal_pairs,
    choose,
    null_space_share,
)
from universal_ray.maths.roles.frequency import frequency_scores, unigram
from universal_ray.maths.statistics.weights import resemblance, vector_statistics, vocabulary
from universal_ray.models.decoder import load_decoder
from universal_ray.models.source import resolve
from universal_ray.models.weights import load_weights

CASES = [(kind, convention) for kind in ("gpt2", "pythia") for convention in ("raw", "folded")]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(kind: str, directory: Path, convention: str) -> dict[str, Any]:
    """Weights from a plain model, folded in numpy where asked for."""
    model = load(directory)
    base = model.base_model
    unembed_CV = model.get_output_embeddings().weight.detach().numpy().T
    final = base.ln_f if kind == "gpt2" else base.final_layer_norm
    outs, queries, keys = [], [], []
    x_C = (base.wte.weight[0] + base.wpe.weight[0]) if kind == "gpt2" else base.embed_in.weight[0]
    with torch.no_grad():
        streams = model(torch.zeros(1, 1, dtype=torch.long), output_hidden_states=True)
    assert torch.allclose(streams.hidden_states[0][0, 0], x_C)
    for layer, block in enumerate(base.h if kind == "gpt2" else base.layers):
        if kind == "gpt2":
            outs.append(block.mlp.c_proj.weight)
            norm, joined = block.ln_1, block.attn.c_attn
            w_CX, b_X = joined.weight, joined.bias
            parts_C3HK = w_CX.unflatten(1, (3, HEADS, -1))
            b_3HK = b_X.unflatten(0, (3, HEADS, -1))
        else:
            outs.append(block.mlp.dense_4h_to_h.weight.T)
            norm, joined = block.input_layernorm, block.attention.query_key_value
            parts_C3HK = joined.weight.T.unflatten(1, (HEADS, 3, -1)).transpose(1, 2)
            b_3HK = joined.bias.unflatten(0, (HEADS, 3, -1)).transpose(0, 1)
        read_C = norm(streams.hidden_states[layer][0, 0])
        keys.append(torch.einsum("c,chk->hk", read_C, parts_C3HK[:, 1]) + b_3HK[1])
        query_CHK = parts_C3HK[:, 0]
        if convention == "folded":
            query_CHK = norm.weight[:, None, None] * query_CHK
            query_CHK = query_CHK - query_CHK.mean(0)
        queries.append(query_CHK.transpose(0, 1))
    w_out_NC = torch.cat(outs).detach().numpy()
    if convention == "folded":
        w_out_NC = w_out_NC - w_out_NC.mean(1, keepdims=True)
        unembed_CV = final.weight.detach().numpy()[:, None] * unembed_CV
        unembed_CV = unembed_CV - unembed_CV.mean(0)
        unembed_CV = unembed_CV - unembed_CV.mean(1, keepdims=True)
    return {
        "w_out": w_out_NC, "unembed": unembed_CV,
        "query": torch.cat(queries).detach().numpy(), "key": torch.cat(keys).detach().numpy(),
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "convention"), CASES)
def test_scores_are_their_definitions(kind, convention, tmp_path: Path):
    source = resolve(str(MODELS[kind](tmp_path)))
    weights = load_weights(source, convention)
    plain = by_hand(kind, tmp_path, convention)
    w_out_NC, unembed_CV = plain["w_out"], plain["unembed"]

    left_CC, singular_C, _ = np.linalg.svd(unembed_CV, full_matrices=False)
    bottom_CX = left_CC[:, -4:]
    if convention == "folded":  # one is of equal channels, which no logit and no norm sees
        assert singular_C[-1] < 1e-10 < 1e-3 < singular_C[-2]
        bottom_CX = bottom_CX[:, :-1]
    lengths = np.linalg.norm(w_out_NC, axis=1)
    share_N = np.linalg.norm(w_out_NC @ bottom_CX, axis=1) / lengths
    found_N = null_space_share(weights.w_out_NC, weights.unembed_CV, directions=4)
    np.testing.assert_allclose(found_N, share_N, atol=2e-5)

    counts_V = np.random.default_rng(1).integers(0, 900, VOCABULARY)
    log_V = np.log((counts_V + 1) / (counts_V + 1).sum())
    u_V = (log_V - log_V.mean()) / np.linalg.norm(log_V - log_V.mean())
    effect_NV = w_out_NC @ unembed_CV
    effect_NV = effect_NV - effect_NV.mean(1, keepdims=True)
    scores = frequency_scores(
        weights.w_out_NC, weights.unembed_CV, unigram(torch.from_numpy(counts_V))
    )
    np.testing.assert_allclose(scores.component_N, effect_NV @ u_V, atol=2e-4)
    cosine_N = effect_NV @ u_V / np.linalg.norm(effect_NV, axis=1)
    np.testing.assert_allclose(scores.cosine_N, cosine_N, atol=2e-5)

    key_HK = load_decoder(source).lone_keys(0)
    np.testing.assert_allclose(key_HK, plain["key"], atol=2e-4)
    assert weights.query_HCK is not None
    direction_HC = bos_directions(weights.query_HCK, key_HK)
    score_NH = bos_scores(weights.w_out_NC, direction_HC, LAYERS).numpy()
    for neuron in (0, 5, WIDTH + 1, 2 * WIDTH, 3 * WIDTH - 1):
        for head in range(LAYERS * HEADS):
            query_CK, key_K = plain["query"][head], plain["key"][head]
            if neuron // WIDTH < head // HEADS:
                by_definition = w_out_NC[neuron] @ query_CK @ key_K / np.sqrt(len(key_K))
                expected = by_definition / lengths[neuron]
                assert score_NH[neuron, head] == pytest.approx(expected, abs=2e-4)
            else:
                assert np.isnan(score_NH[neuron, head])


def test_a_neuron_in_the_null_space_is_the_one_candidate():
    unembed_CV = drawn(32, 200)
    unembed_CV[30:] *= 1e-3  # the unembedding reads these two channels hardly at all
    w_out_NC = drawn(90, 32, seed=1)
    w_out_NC[70] = 0
    w_out_NC[70, 31] = 9.0
    w_out_NC[71] = -0.7 * w_out_NC[70] + 0.1 * w_out_NC[71]
    w_out_NC[10] = w_out_NC[70]  # as good, but too early
    w_out_NC[20] = 0  # writes nothing
    moments = vocabulary(w_out_NC, unembed_CV, 1).moments
    statistics = moments | {
        "w_out_norm": w_out_NC.norm(dim=1),
        "null_share": null_space_share(w_out_NC, unembed_CV, directions=2),
    }
    assert float(statistics["null_share"][:10].max()) < 0.5
    options = EntropyOptions(last_layers=1, controls=8, norm_percentile=10.0)
    chosen = choose(statistics, 3, options)
    assert chosen.candidates_R.tolist() == [70, 71]
    assert antipodal_pairs(resemblance(w_out_NC, w_out_NC)["out"], -0.9).tolist() in (
        [[10, 71]], [[70, 71]],
    )  # fmt: skip
    controls_R = chosen.controls_R
    assert len(controls_R) == 8 == len(set(controls_R.tolist()))
    assert bool((controls_R >= 60).all()) and not {70, 71} & set(controls_R.tolist())
    assert torch.equal(choose(statistics, 3, options).controls_R, controls_R)
    without = {name: value.clone() for name, value in statistics.items()}
    without["null_share"][[70, 71]] = 0.2
    assert choose(without, 3, options).candidates_R.tolist() == []


def test_random_neurons_are_no_candidates():
    w_out_NC, unembed_CV = drawn(300, 64), drawn(64, 500, seed=1)
    statistics = vocabulary(w_out_NC, unembed_CV, 1).moments | {
        "w_out_norm": w_out_NC.norm(dim=1),
        "null_share": null_space_share(w_out_NC, unembed_CV),
    }
    assert choose(statistics, 3).candidates_R.tolist() == []
    # a random direction has 1/√64 of its length in one of 64
    assert float(statistics["null_share"].square().mean()) == pytest.approx(1 / 64, rel=0.2)


def test_directions_that_nothing_reads_and_nothing_writes_are_no_directions():
    """Centred weights have one, weights as trained none, and one that neurons write counts."""
    w_out_NC, unembed_CV = drawn(3000, 192), drawn(192, 600, seed=1)
    whole_N = null_space_share(w_out_NC, unembed_CV, directions=3)
    assert float(whole_N.square().mean()) == pytest.approx(3 / 192, rel=0.05)
    # As float32 centres them: zero but for rounding.
    centred_NC = (w_out_NC.float() - w_out_NC.float().mean(1, keepdim=True)).double()
    centred_CV = (unembed_CV.float() - unembed_CV.float().mean(0)).double()
    share_N = null_space_share(centred_NC, centred_CV, directions=3)
    assert float(share_N.square().mean()) == pytest.approx(2 / 191, rel=0.05)
    left_CC = torch.linalg.svd(centred_CV).U
    by_hand_N = (centred_NC @ left_CC[:, -3:-1]).norm(dim=1) / centred_NC.norm(dim=1)
    torch.testing.assert_close(share_N, by_hand_N, rtol=0, atol=1e-6)
    one_N = null_space_share(w_out_NC, centred_CV, directions=3)  # here neurons do write along it
    left_CC[:, -1] = 192**-0.5
    by_hand_N = (w_out_NC @ left_CC[:, -3:]).norm(dim=1) / w_out_NC.norm(dim=1)
    torch.testing.assert_close(one_N, by_hand_N, rtol=0, atol=1e-6)
    padded_CV = torch.cat([centred_CV, torch.zeros(192, 50, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(
        null_space_share(centred_NC, padded_CV, directions=3), share_N, rtol=0, atol=1e-6
    )


def test_the_first_by_the_papers_rules_are_told_whether_they_pass_or_not():
    w_out_NC, unembed_CV = drawn(300, 64), drawn(64, 500, seed=1)
    w_out_NC[280] = 0  # writes nothing: it has no rank
    statistics = vocabulary(w_out_NC, unembed_CV, 1).moments | {
        "w_out_norm": w_out_NC.norm(dim=1),
        "null_share": null_space_share(w_out_NC, unembed_CV),
    }
    chosen = choose(statistics, 3, EntropyOptions(norm_percentile=0.0))
    variance_N, share_N = statistics["vocab_var"].numpy(), statistics["null_share"].numpy()
    late = [neuron for neuron in range(100, 300) if neuron != 280]
    for rank_N, value_N in (
        (chosen.entropy_rank_N, variance_N), (chosen.null_share_rank_N, -share_N),
    ):
        assert [int(rank_N.eq(place).nonzero()) for place in range(199)] == sorted(
            late, key=lambda neuron: value_N[neuron]
        )
        assert set(rank_N[:100].tolist()) == {-1} == {int(rank_N[280])}
    assert chosen.candidates_R.tolist() == []


def test_neurons_that_write_along_frequency_stand_out():
    unembed_CV = drawn(40, 300)
    counts_V = torch.arange(300) ** 2
    found = unigram(counts_V)
    w_out_NC = drawn(50, 40, seed=1)
    w_out_NC[7] = torch.linalg.lstsq(unembed_CV.T, found.direction_V).solution
    scores = frequency_scores(w_out_NC, unembed_CV, found)
    assert int(scores.cosine_N.abs().argmax()) == 7
    shifted = frequency_scores(w_out_NC, unembed_CV + 3.0, found)  # all logits alike
    torch.testing.assert_close(shifted.cosine_N, scores.cosine_N)


def test_a_planted_pair_is_found_beyond_the_null_and_random_ones_are_not():
    query_HCK, key_HK = drawn(6, 48, 8), drawn(6, 8, seed=1)
    direction_HC = bos_directions(query_HCK, key_HK)
    w_out_NC = drawn(60, 48, seed=2)
    null_RH = null_scores(direction_HC, draws=400)
    random = bos_scores(w_out_NC, direction_HC, layers=3)
    assert strongest_pairs(random, null_RH, 10).tolist() == []
    assert standardised(random, null_RH).nan_to_num(0).abs().max() < 5
    w_out_NC[25] = 3 * direction_HC[5] + 0.1 * w_out_NC[25]  # layer 1 to the last head of layer 2
    w_out_NC[3] = -direction_HC[2]  # layer 0 to the first head of layer 1
    planted = bos_scores(w_out_NC, direction_HC, layers=3)
    pairs = strongest_pairs(planted, null_RH, 10).tolist()
    assert sorted(pairs) == [[3, 2], [25, 5]]
    assert planted[25, 5] > 0 > planted[3, 2]
    assert strongest_pairs(planted, null_RH, 1).tolist() == pairs[:1]


def test_the_null_is_that_of_uniform_directions():
    """A coordinate of a random unit vector in C dimensions has variance 1/C."""
    direction_HC = drawn(3, 30) * torch.tensor([[0.1], [1.0], [20.0]])
    null_RH = null_scores(direction_HC, draws=20_000)
    expected_H = direction_HC.norm(dim=1) / 30**0.5
    torch.testing.assert_close(null_RH.std(0), expected_H, rtol=0.03, atol=0)
    assert torch.equal(null_RH, null_scores(direction_HC, draws=20_000))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: null_space_share(drawn(3, 8), drawn(8, 20), directions=8), "8 singular"),
        (lambda: null_space_share(drawn(3, 8), drawn(8, 20), directions=0), "more than 0"),
        (lambda: unigram(torch.ones(5)), "equally frequent"),
        (lambda: choose({}, 1, EntropyOptions(last_layers=2)), "last 2 layers"),
    ],
)
def test_what_has_no_answer_is_refused(wrong, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        wrong()


def test_norms_come_from_the_same_place(tmp_path: Path):
    """`choose` reads `w_out_norm` as the statistics of weights name it."""
    weights = load_weights(resolve(str(MODELS["gpt2"](tmp_path))))
    moments = vocabulary(weights.w_out_NC, weights.unembed_CV, 1).moments
    share_N = null_space_share(weights.w_out_NC, weights.unembed_CV)
    chosen = choose(vector_statistics(weights) | moments | {"null_share": share_N}, LAYERS)
    assert len(chosen.controls_R) == 20
    assert bool((chosen.controls_R >= WIDTH).all())  # of three layers the last two
