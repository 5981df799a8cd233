"""Path ablation against plain Hugging Face passes in which hooks replace one head's query.

Shapes: B rows, P positions, C channels, K channels of a head, Q quantities.
"""

from pathlib import Path as File
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from helpers_models import save_model
from helpers_roles import HEADS, LAYERS, MODELS, WIDTH, blocks, down, gpt2, load, rows
from torch import Tensor

from universal_ray.errors import ConfigurationError
from universal_ray.maths.roles.attention import (
    path_correlation,
    path_means,
    path_rank_correlation,
)
from universal_ray.maths.roles.path_sums import QUANTITIES, Path, PathSums, merge_paths
from universal_ray.models.decoder import load_decoder
from universal_ray.models.paths import ablate_paths
from universal_ray.models.source import resolve
from universal_ray.stages.roles.schemas import CORRELATED

PATHS = (
    Path(neuron=5, layer=1, head=0),
    Path(neuron=17, layer=2, head=3),
    Path(neuron=WIDTH + 2, layer=2, head=1),
)


def attend(model: Any, tokens_BP: Tensor, path: Path, taken_BPC: Tensor | None) -> dict:
    """One eager pass; `taken_BPC` is taken out of what the head's query is made from."""
    block, neuron = blocks(model)[path.layer], path.neuron % WIDTH
    is_gpt2 = hasattr(block, "attn")
    joined = block.attn.c_attn if is_gpt2 else block.attention.query_key_value
    norm = block.ln_1 if is_gpt2 else block.input_layernorm
    output = block.attn.c_proj if is_gpt2 else block.attention.dense
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: Any) -> Any:
        return module.register_forward_pre_hook(lambda _, x: seen.__setitem__(name, x[0].clone()))

    def less(module: Any, _: Any, own: Tensor) -> Tensor:
        shape = (3, HEADS, -1) if is_gpt2 else (HEADS, 3, -1)
        place = (0, path.head) if is_gpt2 else (path.head, 0)
        if taken_BPC is not None:
            other = module.forward(norm.forward(seen["x"] - taken_BPC)).unflatten(2, shape)
            own = own.clone().unflatten(2, shape)
            own[:, :, *place] = other[:, :, *place]
            own = own.flatten(2)
        return own

    handles = [
        keep("a", down(model, path.neuron // WIDTH)), keep("x", block), keep("z", output),
        joined.register_forward_hook(less),
    ]  # fmt: skip
    with torch.no_grad():
        bos_BP = model(tokens_BP, output_attentions=True).attentions[path.layer][:, path.head, :, 0]
    for handle in handles:
        handle.remove()
    weight = output.weight if is_gpt2 else output.weight.T
    z_BPK, w_KC = (
        seen["z"].unflatten(2, (HEADS, -1))[:, :, path.head],
        weight.detach().unflatten(0, (HEADS, -1))[path.head],
    )
    constant = joined.forward(norm.bias).unflatten(0, (3, HEADS, -1) if is_gpt2 else (HEADS, 3, -1))
    z_BPK = z_BPK - (constant[2, path.head] if is_gpt2 else constant[path.head, 2]).detach()
    w_KC = w_KC - w_KC.mean(1, keepdim=True)
    return {"a": seen["a"][:, :, neuron], "bos": bos_BP, "norm": (z_BPK @ w_KC).norm(dim=2)}


@pytest.mark.parametrize("kind", ["gpt2", "pythia", "sequential"])
def test_ablated_paths_are_those_of_a_plain_pass_with_hooks(kind, tmp_path: File):
    source = resolve(str(MODELS[kind](tmp_path)))
    model = load(tmp_path, attn_implementation="eager")
    tokens_BP = rows((4, 16))
    keep_BP = torch.rand(tokens_BP.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    decoder = load_decoder(source, dtype=torch.float64)
    halves = [
        ablate_paths(decoder, PATHS, tokens_BP[rows_], keep_BP[rows_])
        for rows_ in (slice(0, 1), slice(1, 4))
    ]
    sums = merge_paths(halves)
    assert sums.count == int(keep_BP.sum())
    for index, path in enumerate(PATHS):
        before = attend(model, tokens_BP, path, None)
        w_out = down(model, path.neuron // WIDTH).weight.detach()
        w_out_DC = w_out if hasattr(blocks(model)[0], "attn") else w_out.T
        taken_BPC = before["a"][:, :, None] * w_out_DC[path.neuron % WIDTH]
        after = attend(model, tokens_BP, path, taken_BPC)
        found = {
            "activation": before["a"],
            "bos": before["bos"],
            "bos_change": after["bos"] - before["bos"],
            "norm": before["norm"],
            "norm_change": 100 * (after["norm"] - before["norm"]) / before["norm"],
        }
        by_hand = np.stack([found[name][keep_BP].numpy() for name in QUANTITIES])
        assert np.abs(by_hand[2]).max() > 1e-3
        means = path_means(sums)
        np.testing.assert_allclose(
            [float(means[name][index]) for name in QUANTITIES], by_hand.mean(1), rtol=1e-5,
            atol=1e-5,
        )  # fmt: skip
        points_XQ = sums.points_IXQ[index].double().numpy()
        for first, second in CORRELATED.values():
            columns = [points_XQ[:, list(QUANTITIES).index(name)] for name in (first, second)]
            assert float(path_rank_correlation(sums, first, second)[index]) == pytest.approx(
                scipy.stats.spearmanr(*columns).statistic, abs=1e-12
            )
        r = np.corrcoef(by_hand)
        for i, first in enumerate(QUANTITIES):
            for j, second in enumerate(QUANTITIES):
                assert float(path_correlation(sums, first, second)[index]) == pytest.approx(
                    r[i, j], abs=1e-5
                )


@torch.no_grad()
def reparametrise(model: Any) -> None:
    """The same function by other weights: LayerNorms of attention absorbed into what reads them,
    biases of values moved behind the output, which is shifted along what no LayerNorm sees."""
    for block in blocks(model):
        is_gpt2 = hasattr(block, "attn")
        norm = block.ln_1 if is_gpt2 else block.input_layernorm
        joined = block.attn.c_attn if is_gpt2 else block.attention.query_key_value
        output = block.attn.c_proj if is_gpt2 else block.attention.dense
        read_CX = joined.weight if is_gpt2 else joined.weight.T
        write_XC = output.weight if is_gpt2 else output.weight.T
        joined.bias += norm.bias @ read_CX
        read_CX *= norm.weight[:, None]
        norm.weight.fill_(1)
        norm.bias.zero_()
        bias_X = joined.bias.view(3, -1)[2] if is_gpt2 else joined.bias.view(HEADS, 3, -1)[:, 2]
        output.bias += bias_X.flatten() @ write_XC
        bias_X.zero_()
        write_XC += torch.linspace(-1, 1, len(write_XC), dtype=write_XC.dtype)[:, None]


@pytest.mark.parametrize("kind", ["gpt2", "pythia"])
def test_two_parametrisations_of_one_model_have_the_same_sums(kind, tmp_path: File):
    MODELS[kind](tmp_path / "one")
    model, tokens_BP = load(tmp_path / "one"), rows((4, 16))
    with torch.no_grad():
        logits_BPV = model(tokens_BP).logits
        reparametrise(model)
        torch.testing.assert_close(model(tokens_BP).logits, logits_BPV, rtol=0, atol=1e-9)
    save_model(model, tmp_path / "other")
    one, other = (
        ablate_paths(
            load_decoder(resolve(str(tmp_path / name)), dtype=torch.float64), PATHS, tokens_BP,
            tokens_BP > 0,
        )
        for name in ("one", "other")
    )  # fmt: skip
    for name in ("totals_IQ", "products_IQQ", "points_IXQ"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-8, atol=1e-8)
    for first, second in (("bos_change", "norm_change"), ("activation", "norm_change")):
        torch.testing.assert_close(
            path_correlation(one, first, second), path_correlation(other, first, second)
        )


def test_a_constant_quantity_has_no_correlation(tmp_path: File):
    decoder = load_decoder(resolve(str(gpt2(tmp_path))), dtype=torch.float64)
    with torch.no_grad():
        decoder.blocks[0].mlp.c_fc.weight.zero_()  # every activation is that of the bias
    sums = ablate_paths(decoder, PATHS[:1], rows(), rows() > 0)
    assert bool(path_correlation(sums, "activation", "bos").isnan().all())
    assert bool(path_rank_correlation(sums, "activation", "bos").isnan().all())


def test_ranks_of_equal_values_share_a_place_and_what_is_no_number_has_none():
    points_IXQ = torch.tensor([[[2.0, 5.0], [2.0, 7.0], [9.0, 7.0]], [[1, 2], [2, 3], [3, 1]]])
    points_IXQ = torch.nn.functional.pad(points_IXQ, (0, len(QUANTITIES) - 2))
    first, second, third = list(QUANTITIES)[:3]
    points_IXQ[1, 0, 2] = torch.nan
    nothing = torch.zeros(2, len(QUANTITIES))
    sums = PathSums(
        paths=PATHS[:2], count=3.0, totals_IQ=nothing, points_IXQ=points_IXQ,
        products_IQQ=nothing[:, :, None].expand(-1, -1, len(QUANTITIES)),
    )  # fmt: skip
    found_I = path_rank_correlation(sums, first, second)
    assert found_I.tolist() == [pytest.approx(0.5), pytest.approx(-0.5)]  # (1.5 1.5 3), (1 2.5 2.5)
    assert bool(path_rank_correlation(sums, first, third)[1].isnan())


@pytest.mark.parametrize("path", [Path(5, 0, 0), Path(WIDTH, 1, 0), Path(0, LAYERS, 0)])
def test_a_head_that_is_not_later_is_refused(path, tmp_path: File):
    decoder = load_decoder(resolve(str(gpt2(tmp_path))))
    with pytest.raises(ConfigurationError, match="does not come before"):
        ablate_paths(decoder, [path], rows(), rows() > 0)


def test_sums_of_other_paths_do_not_merge(tmp_path: File):
    decoder = load_decoder(resolve(str(gpt2(tmp_path))))
    parts = [ablate_paths(decoder, [path], rows(), rows() > 0) for path in PATHS[:2]]
    with pytest.raises(ConfigurationError, match="do not merge"):
        merge_paths(parts)
