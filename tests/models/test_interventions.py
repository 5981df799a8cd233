"""Interventions against plain Hugging Face passes with hooks, in float64.

Shapes: B rows, P positions, T tokens that count, R rows, V vocabulary.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers_roles import (
    CONTEXT,
    LAYERS,
    MODELS,
    VOCABULARY,
    WIDTH,
    gpt2,
    hooked_logits,
    load,
    rows,
)
from helpers_tiers import tiers
from torch import Tensor

from universal_ray.errors import ConfigurationError, CorpusError, ModelError
from universal_ray.maths.roles.readout import MEASURES
from universal_ray.models import interventions
from universal_ray.models.decoder import load_decoder
from universal_ray.models.interventions import (
    Intervener,
    Intervention,
    by_neurons,
    held,
    merge_effects,
)
from universal_ray.models.source import resolve


def counts() -> Tensor:
    return torch.randint(0, 500, (VOCABULARY,), generator=torch.Generator().manual_seed(9))


def keep_all_but_first(tokens_BP: Tensor) -> Tensor:
    return tokens_BP != 0


def flat(layer: int, neuron: int) -> int:
    return layer * WIDTH + neuron


DECLARED = (
    Intervention(),
    held([flat(0, 3)], 1.5),
    held([flat(1, 7)], -0.17),
    held([flat(1, 7)], -0.17, frozen="scale"),
    held([flat(1, 7)], -0.17, frozen="unigram"),
    held([flat(2, 40)], 4.0),
    held([flat(2, 40)], 4.0, frozen="scale"),
    held([flat(2, 40)], 4.0, frozen="unigram"),
    held([flat(0, 5), flat(2, 1), flat(1, 2), flat(0, 9)], 0.0),
    Intervention((flat(2, 11), flat(2, 12)), (2.0, -3.0)),
    Intervention((flat(1, 11), flat(2, 12)), (2.0, -3.0)),
    Intervention((flat(1, 7),), (-0.4,), rule="read"),
    Intervention((flat(2, 7),), (0.7,), frozen="scale", rule="read"),
    Intervention((flat(0, 3), flat(2, 1)), (0.0, 0.0), rule="floor"),
    Intervention((flat(2, 40),), (0.0,), rule="floor"),
    Intervention((flat(1, 40), flat(2, 41)), (0.0, 0.0), rule="ceiling"),
    Intervention((flat(2, 40),), (0.0,), frozen="unigram", rule="ceiling"),
)
PRE = {
    "floor": lambda x_BP, _: x_BP.relu(),
    "ceiling": lambda x_BP, _: x_BP.clamp_max(0),
    "read": torch.full_like,
}
"""What becomes of a pre-activation, as the authors have it, by rule."""


def by_layer(each: Intervention) -> dict[int, dict[int, float]]:
    found: dict[int, dict[int, float]] = {}
    for neuron, value in zip(each.neurons, each.values, strict=True):
        found.setdefault(neuron // WIDTH, {})[neuron % WIDTH] = value
    return found


def expected(model, tokens_BP: Tensor, keep_BP: Tensor, each: Intervention) -> dict[str, Tensor]:
    """Row sums of every measure by their definitions, token by token."""
    clean_BPV, clean_scale_BP = hooked_logits(model, tokens_BP, {})
    frozen_BP = clean_scale_BP if each.frozen == "scale" else None
    given = by_layer(each)
    if each.rule == "held":
        logits_BPV, scale_BP = hooked_logits(model, tokens_BP, given, frozen_BP)
    else:
        become: dict[int, dict[int, Callable[[Tensor], Tensor]]] = {
            layer: {
                neuron: partial(lambda x_BP, at: PRE[each.rule](x_BP, at), at=value)
                for neuron, value in neurons.items()
            }
            for layer, neurons in given.items()
        }
        logits_BPV, scale_BP = hooked_logits(model, tokens_BP, {}, frozen_BP, become)
    probability = (counts().double() + 1) / (counts().double() + 1).sum()
    if each.frozen == "unigram":
        u_V = probability.log() - probability.log().mean()
        u_V /= u_V.norm()
        logits_BPV = logits_BPV + ((clean_BPV - logits_BPV) @ u_V)[..., None] * u_V

    def say(logits_V: Tensor, true: int) -> tuple[float, Tensor, float]:
        p_V = torch.softmax(logits_V, 0)
        return (
            -math.log(p_V[true]), p_V, float((probability * (probability / p_V).log()).sum()),
        )  # fmt: skip

    found = {name: torch.zeros(len(tokens_BP), dtype=torch.float64) for name in MEASURES}
    for row in range(len(tokens_BP)):
        for place in range(tokens_BP.shape[1] - 1):
            if not keep_BP[row, place]:
                continue
            true = int(tokens_BP[row, place + 1])
            loss, p_V, kl_unigram = say(logits_BPV[row, place], true)
            loss0, p0_V, kl_unigram0 = say(clean_BPV[row, place], true)
            order = torch.argsort(p_V, descending=True)
            measures = {
                "loss": loss,
                "entropy": float(torch.special.entr(p_V).sum()),
                "reciprocal_rank": 1 / (1 + int((order == true).nonzero())),
                "scale": float(scale_BP[row, place]),
                "kl": float((p0_V * (p0_V / p_V).log()).sum()),
                "kl_unigram": kl_unigram,
                "top_changed": float(p_V.argmax() != p0_V.argmax()),
                "loss_shift": abs(loss - loss0),
                "kl_unigram_shift": abs(kl_unigram - kl_unigram0),
            }
            for name, value in measures.items():
                found[name][row] += value
    return found


@pytest.mark.parametrize("kind", tiers(MODELS, ["gpt2"]))
def test_effects_are_those_of_a_plain_pass_with_hooks(kind, tmp_path: Path):
    source = resolve(str(MODELS[kind](tmp_path)))
    # Of eager attention a plain GPT-2 has float64 all through, GPT-NeoX a float32 softmax, and
    # what the Stanford models ask for refuses float64.
    model = load(tmp_path, attn_implementation="sdpa" if kind == "stanford" else "eager")
    near = 3e-5 if kind in ("pythia", "sequential") else 1e-9
    tokens_BP = rows()
    keep_BP = keep_all_but_first(tokens_BP)
    keep_BP[1, 4:9] = False
    effects = Intervener(load_decoder(source, dtype=torch.float64), DECLARED, counts())(
        tokens_BP, keep_BP
    )
    assert effects.count_R.tolist() == [14, 9, 14]
    for index, each in enumerate(DECLARED):
        for name, sums_R in expected(model, tokens_BP, keep_BP, each).items():
            error = (effects.sums[name][index] - sums_R).abs()
            assert bool((error <= near * (1 + sums_R.abs())).all()), (name, each, error)
    moved = effects.sums["loss_shift"].sum(1)
    assert bool((moved[1:] > 1e-2).all()) and float(moved[0]) == 0


@pytest.mark.parametrize("kind", ["gpt2", "pythia"])
def test_half_the_precision_is_as_near_as_its_rounding(kind, tmp_path: Path):
    source = resolve(str(MODELS[kind](tmp_path)))
    tokens_BP = rows()
    keep_BP = keep_all_but_first(tokens_BP)
    exact, single = (
        Intervener(load_decoder(source, dtype=dtype), DECLARED, counts())(tokens_BP, keep_BP)
        for dtype in (torch.float64, torch.float32)
    )
    for name in MEASURES:
        torch.testing.assert_close(single.sums[name], exact.sums[name], rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
def test_stacking_and_parts_change_nothing(tmp_path: Path, monkeypatch):
    decoder = load_decoder(resolve(str(gpt2(tmp_path))), dtype=torch.float64)
    run = Intervener(decoder, DECLARED, counts())
    tokens_BP = rows((5, CONTEXT))
    keep_BP = keep_all_but_first(tokens_BP)
    whole = run(tokens_BP, keep_BP)
    monkeypatch.setitem(interventions.TOKENS_AT_ONCE, "cpu", 1)
    monkeypatch.setitem(interventions.READ_AT_ONCE, "cpu", 7)
    parts = [run(tokens_BP[:2], keep_BP[:2]), run(tokens_BP[2:], keep_BP[2:])]
    merged = merge_effects(parts)
    assert torch.equal(merged.count_R, whole.count_R)
    for name in MEASURES:
        torch.testing.assert_close(merged.sums[name], whole.sums[name])


def test_effects_on_some_neurons_have_the_same_bits_whatever_else_is_done(tmp_path: Path):
    """In single precision, where the shape of a product may decide its last bits."""
    decoder = load_decoder(resolve(str(gpt2(tmp_path))))
    sweep = [held([flat(1, 7)], value) for value in (0.5, 1.0, 2.0, 3.0)]
    declared = [*DECLARED, *sweep]
    tokens_BP = rows((5, CONTEXT))
    keep_BP = keep_all_but_first(tokens_BP)
    whole = Intervener(decoder, declared, counts())(tokens_BP, keep_BP)
    groups = by_neurons(declared)
    assert sum(map(len, groups)) == len(declared)
    assert sum(len(group) > 1 for group in groups) == 2
    for group in groups:
        alone = Intervener(decoder, group, counts())(tokens_BP, keep_BP)
        places = [declared.index(each) for each in group]
        for name in MEASURES:
            assert torch.equal(alone.sums[name], whole.sums[name][places]), (name, group)


def test_groups_follow_from_what_is_done_alone():
    sweep = [held([3], value) for value in (2.0, 0.0, 1.0)]
    other = [held([3, 4], 0.0), Intervention()]
    assert by_neurons([*sweep, *other]) == by_neurons([*sweep[::-1], sweep[0], *other])
    assert [each.values for each in by_neurons(sweep)[0]] == [(0.0,), (1.0,), (2.0,)]


def test_rows_without_a_token_that_counts_have_sums_of_zero(tmp_path: Path):
    decoder = load_decoder(resolve(str(gpt2(tmp_path))))
    tokens_BP = rows((2, 8))
    effects = Intervener(decoder, DECLARED, counts())(
        tokens_BP, torch.zeros_like(tokens_BP, dtype=torch.bool)
    )
    assert effects.count_R.tolist() == [0, 0]
    assert all(float(sums.abs().sum()) == 0 for sums in effects.sums.values())


def test_each_neuron_is_held_at_its_own_mean():
    mean_N = torch.arange(LAYERS * WIDTH) / 10
    assert held([3, 50], mean_N) == Intervention((3, 50), tuple(mean_N[[3, 50]].tolist()))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: Intervention((1, 2), (0.0,)), "one value for each"),
        (lambda: Intervention((2, 2), (0.0, 1.0)), "no neuron twice"),
        (lambda: Intervention((1,), (0.0,), frozen="norm"), "'norm'"),
    ],
)
def test_what_cannot_be_declared_is_refused(wrong, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        wrong()


def test_what_a_model_lacks_is_refused(tmp_path: Path):
    decoder = load_decoder(resolve(str(gpt2(tmp_path))))
    with pytest.raises(ConfigurationError, match=f"no neuron {LAYERS * WIDTH}"):
        Intervener(decoder, [held([LAYERS * WIDTH], 0.0)], counts())
    tokens_BP = rows((1, CONTEXT + 1))
    with pytest.raises(CorpusError, match="exceed"):
        Intervener(decoder, DECLARED, counts())(tokens_BP, tokens_BP > 0)
    one, other = (
        Intervener(decoder, [held([neuron], 0.0)], counts())(rows(), rows() > 0)
        for neuron in (1, 2)
    )
    with pytest.raises(ConfigurationError, match="do not merge"):
        merge_effects([one, other])


def test_other_architectures_are_refused(tmp_path: Path):
    from helpers_models import save_model
    from transformers import OPTConfig, OPTForCausalLM

    save_model(
        OPTForCausalLM(
            OPTConfig(
                vocab_size=320,
                hidden_size=16,
                num_hidden_layers=1,
                ffn_dim=32,
                num_attention_heads=2,
                max_position_embeddings=16,
                word_embed_proj_dim=16,
            )
        ),
        tmp_path,
    )
    with pytest.raises(ModelError, match="'opt'"):
        load_decoder(resolve(str(tmp_path)))
