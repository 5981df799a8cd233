"""The profile of gated MLPs: activations of either sign, told at both ends."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from helpers_models import save_model
from helpers_study import make, make_study, make_tokens, profile_of
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from universal_ray.corpus.rows import open_corpus
from universal_ray.features.vocabulary import read_vocabulary
from universal_ray.planning.shards import layer_bytes
from universal_ray.storage.finished import PROFILE

pytestmark = pytest.mark.thorough

VOCABULARY, CONTEXT, ROWS, WIDTH, LAYERS = 300, 32, 97, 24, 2
DOWN = 3
"""A neuron whose gate is open and whose `up` is below zero on every token."""


def make_llama(folder, seed: int) -> str:
    """A random Llama whose neuron `DOWN` of layer 0 is never above zero, and far below."""
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=32,
            intermediate_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2,
            num_key_value_heads=2, initializer_range=0.3, bos_token_id=0, eos_token_id=0,
            mlp_bias=True, tie_word_embeddings=False,
        )
    )  # fmt: skip
    with torch.no_grad():
        mlp = model.model.layers[0].mlp
        for part, bias in ((mlp.gate_proj, 4.0), (mlp.up_proj, -5.0)):
            part.weight[DOWN] = 0.01 * part.weight[DOWN]
            part.bias[DOWN] = bias
    return str(save_model(model, folder))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gated")
    models = [make_llama(folder / name, seed) for seed, name in enumerate("ab")]
    study = make_study(folder / "run", models, make_tokens(folder / "tokens"))
    study.taxonomy.topics, study.taxonomy.syntax = 1, None
    make(study)
    return study, make(study, PROFILE), profile_of(study)


@pytest.fixture(scope="module")
def truth(found):
    """Tokens [B, P]; what enters the gate and what enters W_out, [T, N], float64."""
    study, *_ = found
    model: Any = LlamaForCausalLM.from_pretrained(study.models.reference).double().eval()
    tokens_BP = open_corpus(study.corpus.path).read(0, ROWS)
    pre, post = [], []
    for layer in model.model.layers:
        layer.mlp.gate_proj.register_forward_hook(lambda *given: pre.append(given[2]))
        layer.mlp.down_proj.register_forward_pre_hook(lambda *given: post.append(given[1][0]))
    with torch.inference_mode():
        model(torch.from_numpy(tokens_BP))
    return tokens_BP, *(torch.cat([x.flatten(0, 1) for x in xs], 1).numpy() for xs in (pre, post))


def of_reference(found, table: str) -> list[dict]:
    study, store, _ = found
    rows = store.get_table(f"tables/{table}.parquet")
    return rows.filter(pc.equal(rows["model"], Path(study.models.reference).name)).to_pylist()


def test_both_ends_of_activations_are_told(found, truth):
    tokens_BP, _, post_TN = truth
    study, *_ = found
    texts = read_vocabulary(AutoTokenizer.from_pretrained(study.models.reference), VOCABULARY)
    rows = of_reference(found, "statistics")
    assert len(rows) == LAYERS * WIDTH
    for neuron, row in enumerate(rows):
        x_T = post_TN[:, neuron]
        ends = (("", np.sort(x_T)[::-1]), ("_low", np.sort(x_T)))
        for end, expected_T in ends:
            values = row[f"example{end}_value"]
            assert values == pytest.approx(expected_T[: len(values)], rel=1e-4, abs=1e-6)
            places = zip(row[f"example{end}_row"], row[f"example{end}_position"], strict=True)
            at = [x_T[line * CONTEXT + position] for line, position in places]
            assert at == pytest.approx(values, rel=1e-4, abs=1e-6)
            assert len(row[f"example{end}_text"]) == len(values) == study.taxonomy.examples
        by_token = {int(v): x_T[tokens_BP.ravel() == v].min() for v in np.unique(tokens_BP)}
        assert row["token_min"] == pytest.approx(sorted(by_token.values())[:10], rel=1e-4, abs=1e-6)
        lowest = min(by_token, key=lambda v: by_token[v])
        if lowest:  # the text of the special one is none
            assert row["token_min_token"][0] == texts.shown[lowest]
        means = [x_T[tokens_BP.ravel() == v].mean() for v in by_token]
        common = [m for m, v in zip(means, by_token, strict=True)
                  if (tokens_BP == v).sum() >= 50]  # fmt: skip
        told = [x for x in row["token_mean_low"] if x is not None and np.isfinite(x)]
        assert told == pytest.approx(sorted(common)[:10], rel=1e-4, abs=1e-6)
        assert "lower end" not in dict(row["not_measured"])


def test_statistics_of_pre_activations_are_of_the_gate(found, truth):
    _, pre_TN, post_TN = truth
    for neuron, row in enumerate(of_reference(found, "statistics")):
        assert row["mean"] == pytest.approx(pre_TN[:, neuron].mean(), abs=1e-5)
        assert row["var"] == pytest.approx(pre_TN[:, neuron].var(), rel=1e-4)
        assert row["sparsity"] == pytest.approx((pre_TN[:, neuron] > 0).mean(), abs=1e-3)
        assert row["post_mean"] == pytest.approx(post_TN[:, neuron].mean(), rel=1e-4, abs=1e-6)


def test_a_neuron_that_is_only_ever_below_zero_is_not_dead(found, truth):
    _, store, recipe = found
    model = recipe.models[0]
    assert model.gated and (truth[2][:, DOWN] < -1).all()
    reach_N = torch.cat([recipe.read_layer(store, model, n).reach for n in range(LAYERS)])
    np.testing.assert_allclose(reach_N.numpy(), np.abs(truth[2]).max(0), rtol=1e-4)
    assert of_reference(found, "statistics")[DOWN]["token_max"][0] < 0


def test_the_lower_end_is_in_the_plan(found):
    model = found[2].models[0]
    assert layer_bytes(model, VOCABULARY) == 24 * VOCABULARY * WIDTH
