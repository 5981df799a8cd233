"""What the weights alone say about neurons: norms, vocabulary, resemblance, attention heads.

Definitions as in arXiv 2401.12181. Nothing here changes a weight in place.

Shapes: N neurons of a model, layer by layer, C channels of the residual stream, V vocabulary,
H heads of all layers, layer by layer, K channels of a head, R rows of a block, T a top list.
"""

from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from universal_ray.maths.moments.row_summary import largest

CONVENTIONS = ("folded", "raw")
"""`folded`: LayerNorm absorbed into what reads it, weights centred, as in the paper. `raw`: as
trained."""

MOMENTS = ("mean", "var", "skew", "kurt")
"""Of cosines over the vocabulary."""
NEEDS = {
    "input_bias": ("bias",),
    "up_norm": ("up",),
    "up_bias": ("up_bias",),
    "up_out_sim": ("up",),
    "gate_up_sim": ("up",),
    "q_composition": ("query", "key"),
    "k_composition": ("query", "key"),
    "v_composition": ("value", "output"),
    "o_composition": ("value", "output"),
    **{f"in_embed_{name}": ("embed",) for name in MOMENTS},
}
"""Of each statistic the weights that it is made of and that an architecture may lack."""


@dataclass(frozen=True)
class ModelWeights:
    """The weights of one model that its neurons meet; None where `missing` says why."""

    convention: str
    layers: int
    parallel: bool
    """whether MLP and attention of a layer read the same stream, so that neither meets the other"""
    w_in_NC: Tensor
    """what a neuron reads: columns of W_in, of a gated MLP those of its gate, whose pre-activation
    is the neuron's"""
    w_out_NC: Tensor
    """what a neuron writes to the residual stream: rows of W_out, times the gain of a norm after
    the MLP where there is one (its scale, one number for all neurons of a layer at a token, is
    left out, as that of the final norm is)"""
    bias_N: Tensor | None
    up_NC: Tensor | None
    """what else a gated neuron reads: the factor that its gate lets through"""
    up_bias_N: Tensor | None
    unembed_CV: Tensor
    embed_CV: Tensor | None
    """what each id is embedded as"""
    query_HCK: Tensor | None
    key_HCK: Tensor | None
    """of the key that each query head meets, where several share one"""
    value_HCK: Tensor | None
    output_HKC: Tensor | None
    missing: dict[str, str]
    """reasons, by `bias`, `up`, `up_bias`, `embed`, `query`, `key`, `value`, `output`"""


def vector_statistics(weights: ModelWeights) -> dict[str, Float[Tensor, "N"]]:
    """w_in_norm, w_out_norm, input_bias, in_out_sim and l2_penalty, float64; of a gated MLP, whose
    `w_in` is its gate's, up_norm, up_bias, up_out_sim and gate_up_sim as well. Without those whose
    weights the model lacks.
    """
    in_NC, out_NC = weights.w_in_NC.double(), weights.w_out_NC.double()
    in_N, out_N = in_NC.norm(dim=1), out_NC.norm(dim=1)
    found = {
        "w_in_norm": in_N,
        "w_out_norm": out_N,
        "in_out_sim": (in_NC * out_NC).sum(1) / (in_N * out_N),
        "l2_penalty": in_N**2 + out_N**2,
    }
    if weights.bias_N is not None:
        found["input_bias"] = weights.bias_N.double()
    if weights.up_NC is not None:
        up_NC = weights.up_NC.double()
        up_N = up_NC.norm(dim=1)
        found["up_norm"] = up_N
        found["up_out_sim"] = (up_NC * out_NC).sum(1) / (up_N * out_N)
        found["gate_up_sim"] = (in_NC * up_NC).sum(1) / (in_N * up_N)
        found["l2_penalty"] += up_N**2
    if weights.up_bias_N is not None:
        found["up_bias"] = weights.up_bias_N.double()
    return found


@dataclass(frozen=True)
class Vocabulary:
    """What R neurons write, as cosines with the columns of the unembedding; float64."""

    moments: dict[str, Tensor]
    """`vocab_mean`, `vocab_var`, `vocab_skew`, `vocab_kurt`, population moments over the
    vocabulary (Gaussian: kurt = 3); NaN for a neuron that writes nothing"""
    top_RT: Tensor
    """largest cosines, descending, ties to the lowest id"""
    top_id_RT: Tensor
    bottom_RT: Tensor
    """smallest cosines, ascending"""
    bottom_id_RT: Tensor


def vocabulary(
    w_out_RC: Float[Tensor, "R C"],
    unembed_CV: Float[Tensor, "C V"],
    count: int,
    *,
    block: int = 256,
) -> Vocabulary:
    """Moments and ends of cos(w_out, W_U[:, v]) over the vocabulary, `block` neurons at a time.

    Columns of zero have no direction and are left out.
    """
    unembed_CV = unembed_CV.double()
    norm_V = unembed_CV.norm(dim=0)
    id_V = torch.nonzero(norm_V).flatten()
    unit_CV = unembed_CV[:, id_V] / norm_V[id_V]
    parts = [
        _vocabulary_block(_unit(rows_RC.double()), unit_CV, id_V, count)
        for rows_RC in w_out_RC.split(block)
    ]
    return Vocabulary(
        moments={name: torch.cat([p.moments[name] for p in parts]) for name in parts[0].moments},
        top_RT=torch.cat([part.top_RT for part in parts]),
        top_id_RT=torch.cat([part.top_id_RT for part in parts]),
        bottom_RT=torch.cat([part.bottom_RT for part in parts]),
        bottom_id_RT=torch.cat([part.bottom_id_RT for part in parts]),
    )


def _unit(vectors_RC: Tensor) -> Tensor:
    """Rows of length one; NaN for a row of zeros."""
    length_R1: Tensor = vectors_RC.norm(dim=1, keepdim=True)
    return vectors_RC / length_R1


def _vocabulary_block(unit_RC: Tensor, unit_CV: Tensor, id_V: Tensor, count: int) -> Vocabulary:
    cosine_RV = unit_RC @ unit_CV
    top_RT, top_RT_place = largest(cosine_RV, None, count)
    bottom_RT, bottom_RT_place = largest(-cosine_RV, None, count)
    mean_R = cosine_RV.mean(1)
    cosine_RV -= mean_R[:, None]
    square_RV = cosine_RV**2
    variance_R = square_RV.mean(1)
    return Vocabulary(
        moments={
            "vocab_mean": mean_R,
            "vocab_var": variance_R,
            "vocab_skew": (square_RV * cosine_RV).mean(1) / variance_R**1.5,
            "vocab_kurt": (square_RV**2).mean(1) / variance_R**2,
        },
        top_RT=top_RT,
        top_id_RT=id_V[top_RT_place],
        bottom_RT=-bottom_RT,
        bottom_id_RT=id_V[bottom_RT_place],
    )


@dataclass(frozen=True, kw_only=True)
class Resemblance:
    """The most and the least similar other neuron of the whole model, by cosine.

    NaN and -1 for a neuron that reads or writes nothing.
    """

    max_N: Tensor
    max_index_N: Tensor
    """flat index, ties to the lowest"""
    min_N: Tensor
    min_index_N: Tensor


def resemblance(
    w_in_NC: Float[Tensor, "N C"],
    w_out_NC: Float[Tensor, "N C"],
    up_NC: Float[Tensor, "N C"] | None = None,
    *,
    block: int = 2048,
) -> dict[str, Resemblance]:
    """Extremes over all other neurons of the cosines `in` (of w_in), `out` (of w_out), and `both`.

    `both` is the smaller of the two, or of the three where a gated neuron reads by `up` as well: a
    neuron with `both` near 1 to another duplicates it. Exact in the dtype given, `block`² cosines
    at a time; of the symmetric matrix one half is multiplied.
    """
    given = {"in": w_in_NC, "out": w_out_NC} | ({} if up_NC is None else {"up": up_NC})
    live_N = torch.stack([w_NC.norm(dim=1) > 0 for w_NC in given.values()]).all(0)
    index_N = torch.nonzero(live_N).flatten()
    units = {name: _unit(w_NC[index_N]) for name, w_NC in given.items()}
    extremes = {name: _Extremes(len(index_N), w_out_NC) for name in ("in", "out", "both")}
    starts = range(0, len(index_N), block)
    for i in starts:
        for j in starts[i // block :]:
            cosines = {n: u_NC[i : i + block] @ u_NC[j : j + block].T for n, u_NC in units.items()}
            cosines["both"] = reduce(torch.minimum, cosines.values())
            for name, found in extremes.items():
                found.update(cosines[name], i, j)
    return {name: found.spread(index_N, len(w_out_NC)) for name, found in extremes.items()}


class _Extremes:
    """Running extremes; a neuron meets the others in ascending order: the first of ties stays."""

    def __init__(self, neurons: int, like: Tensor):
        self.values = {sign: like.new_full((neurons,), -torch.inf) for sign in (1, -1)}
        self.index = {sign: torch.full((neurons,), -1, device=like.device) for sign in (1, -1)}

    def update(self, cosine_RR: Tensor, i: int, j: int) -> None:
        for sign in (1, -1):
            signed_RR = cosine_RR * sign
            if i == j:
                signed_RR.fill_diagonal_(-torch.inf)
            self._keep(sign, i, j, signed_RR.max(1))
            if i != j:
                self._keep(sign, j, i, signed_RR.max(0))

    def _keep(self, sign: int, row: int, column: int, found: tuple[Tensor, Tensor]) -> None:
        value_R, index_R = found
        rows = slice(row, row + len(value_R))
        better_R = value_R > self.values[sign][rows]
        self.values[sign][rows] = torch.where(better_R, value_R, self.values[sign][rows])
        self.index[sign][rows] = torch.where(better_R, index_R + column, self.index[sign][rows])

    def spread(self, index_N: Tensor, neurons: int) -> Resemblance:
        """By the indices of the whole model."""
        found: dict[str, Tensor] = {}
        for sign, end in ((1, "max"), (-1, "min")):
            some_R = self.index[sign] >= 0
            place_R = index_N[some_R]
            value_N = self.values[sign].new_full((neurons,), torch.nan)
            value_N[place_R] = sign * self.values[sign][some_R]
            other_N = torch.full((neurons,), -1, device=index_N.device)
            other_N[place_R] = index_N[self.index[sign][some_R]]
            found |= {f"{end}_N": value_N, f"{end}_index_N": other_N}
        return Resemblance(**found)


def head_maps(weights: ModelWeights) -> dict[str, Float[Tensor, "H C K"]]:
    """A map per head, such that |ŵ · map| is the composition of a unit vector with the head.

    `q`, `k`: w_out read by the head's query and key, |w W_Q W_Kᵀ| and |w W_K W_Qᵀ| over the norm
    of w and the Frobenius norm of W_Q W_Kᵀ; `v`: by its value, |w W_V W_O|; `o`: what the head
    writes read by w_in, |W_V W_O w|. The outer factor's QR decomposition keeps lengths, so K
    channels do for C. Rotary positions: a query and a key at the same place. (The authors' code
    has the names of q and k the other way round.)
    """
    found: dict[str, Tensor] = {}
    query, key, value, output = (
        weights.query_HCK, weights.key_HCK, weights.value_HCK, weights.output_HKC,
    )  # fmt: skip
    if query is not None and key is not None:
        found |= {"q": _head_map(query, key), "k": _head_map(key, query)}
    if value is not None and output is not None:
        output_HCK = output.transpose(1, 2)
        found |= {"v": _head_map(value, output_HCK), "o": _head_map(output_HCK, value)}
    return found


def _head_map(inner_HCK: Tensor, outer_HCK: Tensor) -> Tensor:
    map_HCK: Tensor = inner_HCK @ torch.linalg.qr(outer_HCK).R.transpose(1, 2)
    length_H11: Tensor = map_HCK.norm(dim=(1, 2), keepdim=True)
    return map_HCK / length_H11


def composition(
    w_RC: Float[Tensor, "R C"], map_HCK: Float[Tensor, "H C K"]
) -> Float[Tensor, "R H"]:
    """Composition of R neurons with every head: w_out for `k`, `q`, `v`, w_in for `o`."""
    unit_RC = _unit(w_RC)
    return torch.stack([(unit_RC @ map_CK).norm(dim=1) for map_CK in map_HCK], dim=1)


def meets(
    kind: str, *, layers: int, heads: int, neurons: int, parallel: bool
) -> Bool[Tensor, "N H"]:
    """Whether a neuron and a head can meet, the one before the other, of so many heads and neurons.

    A head of a later layer reads what a neuron writes (`k`, `q`, `v`); a neuron reads what a head
    of an earlier layer writes (`o`), and of its own where the MLP comes after attention.
    """
    layer_N1, layer_H = (
        torch.arange(layers).repeat_interleave(count // layers) for count in (neurons, heads)
    )
    layer_N1 = layer_N1[:, None]
    if kind != "o":
        return layer_N1 < layer_H
    return layer_N1 > layer_H if parallel else layer_N1 >= layer_H


def extreme_heads(
    sign: int, value_NH: Float[Tensor, "N H"], meets_NH: Bool[Tensor, "N H"], count: int
) -> tuple[Float[Tensor, "N K"], Int[Tensor, "N K"]]:
    """The largest compositions of each neuron, or by a `sign` of -1 the smallest, and their heads,
    ties to the first head, of those that it can meet; NaN and -1 where there are fewer."""
    # NaN of a neuron that writes or reads nothing.
    some_NH = (sign * value_NH).masked_fill(~meets_NH | value_NH.isnan(), -torch.inf)
    value_NK, head_NK = largest(some_NH, None, count)
    none_NK = ~value_NK.isfinite()
    return sign * value_NK.masked_fill(none_NK, torch.nan), head_NK.masked_fill(none_NK, -1)
