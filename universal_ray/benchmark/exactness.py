"""What rounding costs: every precision policy against float64, and the forward pass in few bits.

The policies are tried on activations made up to be hard, the forward pass on the embedded seeds.
Shapes as in `moments`: T tokens, N neurons of the first model, M of the second, K of both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu, relu

from universal_ray import testbed
from universal_ray.benchmark.loop import Means, measure
from universal_ray.benchmark.sections import Row
from universal_ray.config.study import (
    BaselineConfig,
    ClusterConfig,
    CorpusConfig,
    Device,
    ForwardType,
    ModelsConfig,
    Pairs,
    Policy,
    PrecisionConfig,
    RunConfig,
    Study,
)
from universal_ray.maths.moments.accumulate import POLICIES, LayerSums, merge
from universal_ray.maths.moments.calibration import Calibration, calibrate, normalise
from universal_ray.maths.moments.correlation import (
    NeuronMoments,
    centred_cross,
    correlation,
    neuron_moments,
)
from universal_ray.planning.capacity import ADDITIONS, BATCH, Part
from universal_ray.planning.items import Model, make_items
from universal_ray.runtime.arithmetic import fix_arithmetic
from universal_ray.runtime.local import LocalExecutor
from universal_ray.stages.correlations.folding import groups
from universal_ray.stages.correlations.sums import Sums
from universal_ray.storage.finished import NEURONS_PATH

CHUNKS = (1024, 4096, 16_384, 65_536)
"""Tokens of one product."""
NEAR_ONE = (0.0, 0.5, 0.99, 0.9999)
"""Where bins of |r| begin."""
TENTHS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""The same where real neurons lie."""
PIECE = 65_536
"""Tokens that are held in float64 together."""


@dataclass(frozen=True)
class Extent:
    """How much is tried."""

    layers: int
    width: int
    tokens: int
    """of made-up activations of two models of `layers` of `width` neurons"""
    seeds: int
    """embedded ones, the first beside all others"""
    text: int
    """tokens of the embedded text"""
    rotations: int
    """draws of the baseline"""


def activations(
    tokens: int, layers: int, width: int, device: str, seed: int = 0
) -> tuple[Float[Tensor, "T N"], Float[Tensor, "T N"]]:
    """Two models of GELU-like neurons; partners have r from 0.1 up to 1 - 1e-9, the last two 1, -1.

    Scales are spread over a factor of 100, means over 30 deviations to either side.
    """
    generator = torch.Generator(device).manual_seed(seed)
    neurons = layers * width

    def normal() -> Tensor:
        return torch.randn(tokens, neurons, device=device, generator=generator)

    def uniform() -> Tensor:
        return 2 * torch.rand(neurons, device=device, generator=generator) - 1

    noise_N = 10 ** torch.linspace(1, -4.5, neurons, device=device)
    x_TN = gelu(normal() - 0.5)
    y_TN = x_TN + noise_N * x_TN.std() * normal()
    y_TN[:, -2], y_TN[:, -1] = x_TN[:, -2], -x_TN[:, -1]
    for v_TN in (x_TN, y_TN):
        deviation_N, scale_N = v_TN.std(0), 10 ** uniform()
        v_TN.addcmul_(deviation_N, 30 * uniform()).mul_(scale_N)
    return x_TN, y_TN


def rectified(
    tokens: int, layers: int, width: int, device: str, seed: int = 0
) -> tuple[Float[Tensor, "T N"], Float[Tensor, "T N"]]:
    """The same of ReLUs: zero at 16 to 98 % of the tokens, with partners as those of `activations`.

    Scales are spread over a factor of 100. Where r is near 1, a neuron is zero with its partner.
    """
    generator = torch.Generator(device).manual_seed(seed)
    neurons = layers * width

    def normal() -> Tensor:
        return torch.randn(tokens, neurons, device=device, generator=generator)

    def scale() -> Tensor:
        return 10 ** (2 * torch.rand(neurons, device=device, generator=generator) - 1)

    order = torch.randperm(neurons, device=device, generator=generator)
    threshold_N = torch.linspace(-1, 2, neurons, device=device)[order]
    noise_N = 10 ** torch.linspace(1, -4.5, neurons, device=device)
    x_TN = normal() - threshold_N
    y_TN = relu(x_TN + noise_N * normal())
    x_TN = relu(x_TN)
    y_TN[:, -2], y_TN[:, -1] = x_TN[:, -2], -x_TN[:, -1]
    return x_TN.mul_(scale()), y_TN.mul_(scale())


def exact_correlations(
    x_TN: Float[Tensor, "T N"], y_TM: Float[Tensor, "T M"]
) -> Float[Tensor, "N M"]:
    """Pearson's r in float64 the plain way: deviations from the mean, multiplied and added."""
    both = (x_TN, y_TM)
    mean_K = torch.cat([v.mean(0, dtype=torch.float64) for v in both])
    products_KK = torch.zeros(len(mean_K), len(mean_K), dtype=torch.float64, device=mean_K.device)
    for parts in zip(*(v.split(PIECE) for v in both), strict=True):
        centred_TK = torch.cat(parts, 1) - mean_K
        products_KK += centred_TK.T @ centred_TK
    deviation_K = products_KK.diagonal().sqrt()
    neurons = x_TN.shape[1]
    return (products_KK / torch.outer(deviation_K, deviation_K))[:neurons, neurons:]


def correlations(
    x_TN: Float[Tensor, "T N"], y_TM: Float[Tensor, "T M"], layers: int, policy: str, chunk: int
) -> Float[Tensor, "N M"]:
    """r as workers and the fold make it: `chunk` tokens to a product, units as long as allowed."""
    width = x_TN.shape[1] // layers
    pair = [  # made up, without a model
        Model(
            name=name, given=name, identity=name, layers=layers, width=width, d_model=0, d_mlp=0
        )
        for name in "ab"
    ]
    held = tuple(Part(item, 0, layers) for item in make_items([pair], Pairs.reference))
    kept_T = torch.ones(chunk, dtype=torch.bool)
    fits = [calibrate(v[:chunk], kept_T[: len(v)], layers) for v in (x_TN, y_TM)]
    units = [
        _unit(held, parts, fits, policy, chunk)
        for parts in zip(*(v.split(ADDITIONS * chunk) for v in (x_TN, y_TM)), strict=True)
    ]
    rows, columns, cross = (
        [merge(unit.of(part, layer) for unit in units) for layer in range(layers)]
        for part in held
    )
    return _every_correlation(
        neuron_moments(rows, policy), neuron_moments(columns, policy), cross, policy
    )


def _every_correlation(
    rows: NeuronMoments, columns: NeuronMoments, cross: list[LayerSums], policy: str
) -> Float[Tensor, "N M"]:
    """Of a pair, from the merged sums of all layers."""
    cross_NM = torch.cat([part["cross"] for part in cross])
    return correlation(
        centred_cross(cross_NM, rows, columns, first=0), rows, columns, first=0, policy=policy
    )


def _unit(
    held: tuple[Part, ...], parts: tuple[Tensor, ...], fits: list[Calibration], policy: str,
    chunk: int,
) -> Sums:
    """The sums of one unit of both models' activations."""
    sums = Sums(held, parts[0].device.type)
    models = held[-1].item.models
    for batches in zip(*(part.split(chunk) for part in parts), strict=True):
        kept_T = torch.ones(len(batches[0]), dtype=torch.bool)
        sums.add_products({
            model.identity: sums.add_model(model, normalise(batch, fit), kept_T, policy)
            for model, batch, fit in zip(models, batches, fits, strict=True)
        })
    return sums


def policies(extent: Extent, means: Means) -> list[Row]:
    """Largest error of r by tokens, by chunk and by |r|, a column for each policy."""
    fix_arithmetic(means.threads)
    x_TN, y_TM = activations(extent.tokens, extent.layers, extent.width, means.device.value)
    usual = {
        policy.value: min(tokens, extent.tokens) for policy, tokens in BATCH[means.device].items()
    }

    @cache
    def exact_NM(tokens: int) -> Tensor:
        return exact_correlations(x_TN[:tokens], y_TM[:tokens])

    @cache
    def error_NM(policy: str, tokens: int, chunk: int) -> Tensor:
        found_NM = correlations(x_TN[:tokens], y_TM[:tokens], extent.layers, policy, chunk)
        return (found_NM - exact_NM(tokens)).abs()

    def largest(tokens: int, chunks: dict[str, int]) -> Row:
        return {
            policy: float(error_NM(policy, tokens, chunks[policy]).max()) for policy in POLICIES
        }

    by_tokens = [
        {"table": "largest error of r by tokens, in the planner's chunks", "tokens": tokens,
         **largest(tokens, {policy: min(chunk, tokens) for policy, chunk in usual.items()})}
        for tokens in (extent.tokens // 64, extent.tokens // 8, extent.tokens)
    ]
    of_relu = [_of_relu(extent, means, tokens, usual) for tokens in (extent.tokens // 64,
                                                                     extent.tokens)]
    by_chunk = [
        {"table": f"largest error of r by chunk, {extent.tokens:,} tokens", "chunk": chunk,
         **largest(extent.tokens, dict.fromkeys(POLICIES, chunk))}
        for chunk in CHUNKS if chunk <= extent.tokens
    ]
    by_r = [
        {"table": f"largest error of r by its size, {extent.tokens:,} tokens", **place,
         **{policy: float(error_NM(policy, extent.tokens, usual[policy])[inside_NM].max())
            for policy in POLICIES}}
        for place, inside_NM in _bins(exact_NM(extent.tokens), NEAR_ONE)
    ]
    return by_tokens + of_relu + by_chunk + by_r


def _of_relu(extent: Extent, means: Means, tokens: int, usual: dict[str, int]) -> Row:
    """Largest error of r of ReLU-like neurons."""
    x_TN, y_TM = rectified(tokens, extent.layers, extent.width, means.device.value)
    exact_NM = exact_correlations(x_TN, y_TM)
    row: Row = {"table": "largest error of r of ReLUs by tokens", "tokens": tokens}
    for policy in POLICIES:
        found_NM = correlations(x_TN, y_TM, extent.layers, policy, min(usual[policy], tokens))
        row[policy] = float((found_NM - exact_NM).abs().max())
    return row


def _bins(r_NM: Tensor, begins: tuple[float, ...]) -> Iterator[tuple[Row, Tensor]]:
    """Bins of |r| that hold a pair, and which pairs they hold."""
    bin_NM = torch.bucketize(r_NM.abs(), torch.tensor(begins[1:]).to(r_NM), right=True)
    for index, (low, high) in enumerate(pairwise((*begins, 1.0))):
        inside_NM = (bin_NM == index) & r_NM.isfinite()
        if bool(inside_NM.any()):
            place = {"r in absolute value": f"{low:g} to {high:g}", "pairs": int(inside_NM.sum())}
            yield place, inside_NM


def forward_types(extent: Extent, means: Means) -> list[Row]:
    """What a forward pass in fewer bits changes on the embedded seeds: r of the first pair, and
    what a study says of the first seed's neurons. TF32 is a GPU's alone.
    """
    types = [ForwardType.bfloat16, ForwardType.float16]
    if means.device is Device.cuda:
        types.insert(0, ForwardType.tfloat32)
    r_NM, excess_N, universal_N = _study(extent, means, ForwardType.float32)
    changes: dict[ForwardType, Tensor] = {}
    rows: list[Row] = []
    for kind in types:
        other_NM, other_N, other_universal_N = _study(extent, means, kind)
        changes[kind] = (other_NM - r_NM).abs()
        moved_N = (other_N - excess_N).abs()
        rows.append({
            "table": f"what the forward pass changes of {len(excess_N):,} neurons",
            "forward": kind.value,
            "change of excess: 99.9 %": _quantile(moved_N),
            "largest": float(moved_N.max()),
            "another best partner": int((other_NM.argmax(1) != r_NM.argmax(1)).sum()),
            "universal": int(other_universal_N.sum()),
            "in float32": int(universal_N.sum()),
            "changed sides": int((other_universal_N != universal_N).sum()),
        })
    by_r: list[Row] = []
    for place, inside_NM in _bins(r_NM, TENTHS):
        row: Row = {"table": f"change of r by the forward pass, {extent.text:,} tokens", **place}
        for kind, each_NM in changes.items():
            row[f"{kind.value}: 99.9 %"] = _quantile(each_NM[inside_NM])
            row[f"{kind.value}: largest"] = float(each_NM[inside_NM].max())
        by_r.append(row)
    return by_r + rows


def _quantile(values: Tensor) -> float:
    return float(torch.quantile(values, 0.999))


def _study(extent: Extent, means: Means, kind: ForwardType) -> tuple[Tensor, Tensor, Tensor]:
    """r [N, M] of the first two embedded seeds; of the first excess correlation [N] and which
    neurons are universal [N], as the tables of a study say whose sums are in `fp32`.
    """
    names = [testbed.resolve(name) for name in testbed.MODEL_NAMES[: extent.seeds]]
    with TemporaryDirectory() as folder:
        study = Study(
            run=RunConfig(dir=str(Path(folder) / "run")),
            models=ModelsConfig(reference=names[0], compared=names[1:], dtype=kind),
            corpus=CorpusConfig(path=testbed.resolve("tokens"), tokens=extent.text),
            cluster=ClusterConfig(device=means.device, workers=1, threads=means.threads),
            precision=PrecisionConfig(moments=Policy.fp32),
            baseline=BaselineConfig(rotations=extent.rotations),
        )
        _, stage = measure(study, LocalExecutor())
        store, plan = stage.store, stage.plan
        neurons = store.get_table(NEURONS_PATH)
        excess_N = torch.tensor(neurons["excess_corr"].to_numpy())
        universal_N = torch.tensor(neurons["is_universal"].fill_null(False).to_numpy())
        reference, other = plan.models[:2]
        pair = next(item for item in plan.pairs if set(item.models) == {reference, other})
        rows, columns = (stage.recipe.read_model(store, model).moments for model in pair.models)
        cross = [merge(groups(store, plan.layout, pair, layer)) for layer in range(pair.layers)]
    r_NM = _every_correlation(rows, columns, cross, Policy.fp32.value)
    first = pair.models[0] == reference
    return (r_NM if first else r_NM.T).contiguous(), excess_N, universal_N
