"""Streaming statistics of activations: sums over tokens that add, and what follows from them.

One object holds the neurons of one layer; so memory is bounded by the layer, and the bits do not
depend on how many layers are held together. All sums are float64, counts among them (exact to
2^53).

Shapes: B rows, P positions, T tokens that count, D neurons of a layer, V vocabulary, S subsets,
G groups of tokens, H = 257 bins.
"""

import warnings
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from universal_ray.errors import NumericalError
from universal_ray.maths.moments.row_summary import distribution_moments
from universal_ray.maths.statistics.examples import Examples, merge_examples

EDGES = (torch.arange(256, dtype=torch.float64) * 25 - 2550) / 255
"""linspace(-10, 15, 256) with an exact zero; bin h holds edges[h-1] < x <= edges[h]."""
BINS = len(EDGES) + 1
ZERO_BIN = 102
"""The one that ends at zero."""
TOKENS_AT_ONCE = {"cpu": 512, "cuda": 16_384}
"""Tokens of one step: on a CPU few enough that float64 copies of a layer stay in its cache."""
NO_GROUP = -1
DEAD = 1e-12
"""Share of Σd² below which Σ(d − mean)² is rounding."""

GROUPS = ("current", "previous", "position", "subset")
ENDS = ("examples", "lowest")


@dataclass(frozen=True)
class Places:
    """Which tokens of a batch count, and what groups they belong to; the same for every model."""

    place_T: Tensor
    """place in the batch, row by row"""
    token_T: Tensor
    """index in the corpus, row · context + position"""
    groups: dict[str, Tensor]
    """group of each token by `GROUPS`; -1 for none"""


def places(
    tokens_BP: Int[Tensor, "B P"],
    kept_T: Bool[Tensor, "B*P"],
    *,
    first_row: int,
    subset_B: Int[Tensor, "B"] | None = None,
) -> Places:
    """Describe rows `first_row` and after; the first token of a row has no previous one."""
    rows, context = tokens_BP.shape
    place_T = torch.nonzero(kept_T).flatten()
    before_BP = tokens_BP.roll(1, dims=1)
    before_BP[:, 0] = NO_GROUP
    if subset_B is None:
        subset_B = torch.full((rows,), NO_GROUP)
    every = {
        "current": tokens_BP.flatten(),
        "previous": before_BP.flatten(),
        "position": torch.arange(context).repeat(rows),
        "subset": subset_B.repeat_interleave(context),
    }
    return Places(
        place_T,
        place_T + first_row * context,
        {name: group_T.to(place_T.device)[place_T] for name, group_T in every.items()},
    )


def bins_from_zero(x_X: Float[Tensor, "*x"], out: Tensor | None = None) -> Float[Tensor, "*x"]:
    """How many bins above `ZERO_BIN` each finite number is in, float64; much faster than a search.

    Edges are 10.2 to one. Rounded up before anything is added, so that not even the smallest number
    above zero falls in the bin that ends there.
    """
    scaled_X = torch.mul(x_X.double(), 10.2, out=out)
    return scaled_X.ceil_().clamp_(-ZERO_BIN, BINS - 1 - ZERO_BIN)


def rows_at(x_TX: Tensor, place_U: Int[Tensor, "U"]) -> Tensor:
    """The rows at ascending places; a view where no row between them is left out."""
    first, last = int(place_U[0]), int(place_U[-1])
    together = last - first + 1 == len(place_U)
    return x_TX[first : last + 1] if together else x_TX[place_U]


@dataclass(frozen=True)
class LayerSums:
    """Sums over the tokens that count, for the neurons of one layer.

    `pre`: what enters the activation function, in a gated MLP the gate's; `post`: what enters
    W_out, act(pre) or, in a gated MLP, act(gate)·up. A neuron fires on a token when `pre` is above
    zero. Both ends of `post` are kept where it is of either sign, as in a gated MLP: the lower end
    of act(pre) alone is the floor of the function, and no response.
    """

    shift_D: Tensor
    """subtracted from pre-activations before powers are taken; the same for all parts of a study"""
    powers_5D: Tensor
    """Σ d⁰ … Σ d⁴ of d = pre - shift"""
    histogram_DH: Tensor
    """of pre"""
    squares_D: Tensor
    """Σ post²"""
    count: dict[str, Tensor] = field(metadata={"names": GROUPS})
    """tokens [G] by kind of group"""
    total: dict[str, Tensor] = field(metadata={"names": GROUPS})
    """Σ post [G, D]"""
    fired_PD: Tensor
    """tokens on which a neuron fires, by position"""
    maximum_VD: Tensor
    """largest post by current token id, float32; -inf for an id not seen"""
    examples: Examples
    minimum_VD: Tensor | None
    """smallest post by current token id, inf for an id not seen; None for one end alone"""
    lowest: Examples | None
    """examples of -post; None for one end alone"""
    histogram_SDH: Tensor | None = None
    """of pre by subset, int32; None where it was not asked for"""

    @classmethod
    def zeros(
        cls,
        shift_D: Float[Tensor, "D"],
        *,
        vocabulary: int,
        context: int,
        subsets: int,
        examples: int,
        both_ends: bool = False,
        by_subset: bool = False,
    ) -> "LayerSums":
        """No tokens yet, on the device of `shift_D` (a mean of some pre-activations).

        `by_subset`: whether there is a histogram of each.
        """
        width, device = len(shift_D), shift_D.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        def by_id(value: float) -> Tensor:
            return torch.full((vocabulary, width), value, device=device)

        sizes = dict(zip(GROUPS, (vocabulary, vocabulary, context, subsets), strict=True))
        return cls(
            shift_D=shift_D.double(),
            powers_5D=zeros(5, width),
            histogram_DH=zeros(width, BINS),
            squares_D=zeros(width),
            count={name: zeros(size) for name, size in sizes.items()},
            total={name: zeros(size, width) for name, size in sizes.items()},
            fired_PD=zeros(context, width),
            maximum_VD=by_id(-torch.inf),
            examples=Examples.none(width, examples, str(device)),
            minimum_VD=by_id(torch.inf) if both_ends else None,
            lowest=Examples.none(width, examples, str(device)) if both_ends else None,
            histogram_SDH=zeros(subsets, width, BINS).int() if by_subset else None,
        )

    def update_(
        self, pre_TD: Float[Tensor, "T D"], post_TD: Float[Tensor, "T D"], where: Places
    ) -> None:
        """Add the tokens of a batch that count, in place; batches come in the order of the corpus.

        Raises NumericalError for an activation that is not finite.
        """
        whole = set()
        for name, group_T in where.groups.items():
            some_U = group_T[group_T != NO_GROUP]
            self.count[name].add_(torch.bincount(some_U, minlength=len(self.count[name])))
            if len(some_U) == len(group_T):
                whole.add(name)
        step = min(TOKENS_AT_ONCE[self.shift_D.device.type], max(len(where.place_T), 1))
        work = _Work.of(step, self.shift_D, len(self.fired_PD))
        for start in range(0, len(where.place_T), step):
            rows = slice(start, start + step)
            place_T = where.place_T[rows]
            groups = {name: group_T[rows] for name, group_T in where.groups.items()}
            pre_PD, post_PD = rows_at(pre_TD, place_T), rows_at(post_TD, place_T)
            self._add_pre(pre_PD, groups["position"], work)
            if self.histogram_SDH is not None:
                self._add_subsets(groups["subset"], self.histogram_SDH, work)
            self._add_post(post_PD, groups, whole, work)
        if len(where.place_T):
            kept_TD = rows_at(post_TD, where.place_T)
            self.examples.update_(kept_TD, where.token_T)
            if self.lowest is not None:
                self.lowest.update_(-kept_TD, where.token_T)
        self.histogram_DH.add_(work.count_DH)
        self.fired_PD.add_(work.fired_PD)

    def _add_pre(self, pre_TD: Tensor, position_T: Tensor, work: "_Work") -> None:
        first_TD, second_TD = work.exact_2TD[:, : len(pre_TD)].unbind()
        first_TD.copy_(pre_TD)
        bin_TD = bins_from_zero(first_TD, out=second_TD)
        index_TD = work.index_TD[: len(pre_TD)].copy_(bin_TD).add_(work.zero_bin_D)
        sum_D = first_TD.sub_(self.shift_D).sum(0)
        if not bool(torch.isfinite(sum_D).all()):
            neuron = int(torch.nonzero(~torch.isfinite(sum_D))[0])
            raise NumericalError(
                f"neuron {neuron} of a layer has an activation that is not finite: check the model"
            )
        torch.mul(first_TD, first_TD, out=second_TD)
        self.powers_5D[0].add_(len(first_TD))
        self.powers_5D[1].add_(sum_D)
        self.powers_5D[2].add_(second_TD.sum(0))
        self.powers_5D[3].add_(first_TD.mul_(second_TD).sum(0))
        self.powers_5D[4].add_(second_TD.mul_(second_TD).sum(0))
        ones = work.count_DH.new_ones(1).expand(index_TD.numel())
        work.count_DH.view(-1).index_add_(0, index_TD.view(-1), ones)
        fires_TD = torch.gt(pre_TD, 0, out=work.fires_TD[: len(pre_TD)])
        _add_groups(work.fired_PD, position_T, fires_TD, whole=True)

    def _add_subsets(self, subset_T: Tensor, total_SDH: Tensor, work: "_Work") -> None:
        """Bins that `_add_pre` has found, by subset."""
        index_TD = work.index_TD[: len(subset_T)]
        for subset in subset_T.unique().tolist():
            if subset != NO_GROUP:
                index_X = index_TD[subset_T == subset].view(-1)
                ones = total_SDH.new_ones(1).expand(len(index_X))
                total_SDH[subset].view(-1).index_add_(0, index_X, ones)

    def _add_post(
        self, post_TD: Tensor, groups: dict[str, Tensor], whole: set[str], work: "_Work"
    ) -> None:
        exact_TD, square_TD = work.exact_2TD[:, : len(post_TD)].unbind()
        exact_TD.copy_(post_TD)
        for name, group_T in groups.items():
            _add_groups(self.total[name], group_T, exact_TD, name in whole)
        self.squares_D.add_(torch.mul(exact_TD, exact_TD, out=square_TD).sum(0))
        with warnings.catch_warnings():  # its interface may change, says torch
            warnings.filterwarnings("ignore", message="index_reduce")
            self.maximum_VD.index_reduce_(0, groups["current"], post_TD.float(), "amax")
            if self.minimum_VD is not None:
                self.minimum_VD.index_reduce_(0, groups["current"], post_TD.float(), "amin")

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name of its own, as they are stored."""
        found: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            if value is None:
                continue
            inner = value if isinstance(value, dict) else {"": value}
            inner = vars(value) if isinstance(value, Examples) else inner
            found |= {f"{name}.{key}".rstrip("."): tensor for key, tensor in inner.items()}
        return found

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "LayerSums":
        """The sums that `tensors` gave."""
        inner: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            name, _, key = path.partition(".")
            inner.setdefault(name, {})[key] = tensor
        ends = {name: Examples(**inner.pop(name)) for name in ENDS if name in inner}
        kinds: dict[str, Any] = {name: found.get("", found) for name, found in inner.items()}
        return cls(**{"minimum_VD": None, "lowest": None, **ends, **kinds})


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Memory that the steps of one batch share: fetched anew, it takes longer than the sums."""

    exact_2TD: Tensor
    """float64"""
    index_TD: Tensor
    """of a bin among those of all neurons, int32"""
    fires_TD: Tensor
    """0 or 1, float32"""
    zero_bin_D: Tensor
    """index of the bin that ends at zero"""
    count_DH: Tensor
    """histogram of the batch, int32: half as wide as float64, more of it stays in the cache"""
    fired_PD: Tensor
    """of the batch, float32 (exact to 2^24 tokens)"""

    @classmethod
    def of(cls, tokens: int, shift_D: Tensor, context: int) -> "_Work":
        device, width = shift_D.device, len(shift_D)
        return cls(
            exact_2TD=torch.empty(2, tokens, width, dtype=torch.float64, device=device),
            index_TD=torch.empty(tokens, width, dtype=torch.int32, device=device),
            fires_TD=torch.empty(tokens, width, device=device),
            zero_bin_D=torch.arange(width, dtype=torch.int32, device=device) * BINS
            + ZERO_BIN,
            count_DH=torch.zeros(width, BINS, dtype=torch.int32, device=device),
            fired_PD=torch.zeros(context, width, device=device),
        )


def _add_groups(total_GD: Tensor, group_T: Tensor, x_TD: Tensor, whole: bool) -> None:
    """Add each row of x to the row of its group, in the order of the tokens.

    `whole`: every token has one.
    """
    some_T = None if whole else group_T != NO_GROUP
    if total_GD.is_cuda:  # sorts by group, where index_add_ would add in any order
        if some_T is not None:
            group_T, x_TD = group_T[some_T], x_TD[some_T]
        total_GD.index_put_((group_T,), x_TD, accumulate=True)
        return
    none = [] if some_T is None else torch.nonzero(~some_T).flatten().tolist()
    for before, after in pairwise([-1, *none, len(group_T)]):  # stretches need no copy
        if after - before > 1:
            some = slice(before + 1, after)
            total_GD.index_add_(0, group_T[some], x_TD[some])


def merge_layers(parts: list[LayerSums]) -> LayerSums:
    """Sums of disjoint tokens together, added in the order given; the parts stay as they are."""
    first = parts[0]
    for part in parts[1:]:
        if not torch.equal(part.shift_D, first.shift_D):
            raise NumericalError(
                "parts of a layer's sums have different shifts, so that their powers do not add: "
                "sum them all with the shift of one study"
            )

    def add(values: list[Tensor]) -> Tensor:
        total = values[0].clone()
        for value in values[1:]:
            total += value
        return total

    def add_kinds(kinds: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: add([kind[name] for kind in kinds]) for name in kinds[0]}

    lowest = [part.lowest for part in parts if part.lowest is not None]
    minima = [part.minimum_VD for part in parts if part.minimum_VD is not None]
    if len(lowest) not in (0, len(parts)):
        raise NumericalError(
            "some parts of a layer's sums have both ends of its activations and some have one: sum "
            "them all of one model"
        )
    return LayerSums(
        shift_D=first.shift_D,
        powers_5D=add([part.powers_5D for part in parts]),
        histogram_DH=add([part.histogram_DH for part in parts]),
        squares_D=add([part.squares_D for part in parts]),
        count=add_kinds([part.count for part in parts]),
        total=add_kinds([part.total for part in parts]),
        fired_PD=add([part.fired_PD for part in parts]),
        maximum_VD=torch.stack([part.maximum_VD for part in parts]).amax(0),
        examples=merge_examples([part.examples for part in parts]),
        minimum_VD=torch.stack(minima).amin(0) if minima else None,
        lowest=merge_examples(lowest) if lowest else None,
        histogram_SDH=None if first.histogram_SDH is None else add(
            [part.histogram_SDH for part in parts if part.histogram_SDH is not None]
        ),
    )


def neuron_statistics(sums: LayerSums) -> dict[str, Float[Tensor, "D"]]:
    """Population moments of pre and post over all tokens, float64.

    mean, var, skew, kurt (Gaussian: 3; both NaN where pre does not vary) and sparsity, the share of
    tokens on which a neuron fires, of pre-activations (in a gated MLP the gate's); post_mean and
    post_var.
    """
    n = sums.powers_5D[0, 0]
    found = distribution_moments(sums.powers_5D.T)
    dead_D = found["var"] <= DEAD * sums.powers_5D[2] / n
    for name in ("skew", "kurt"):
        found[name] = found[name].masked_fill(dead_D, torch.nan)
    found["mean"] = found["mean"] + sums.shift_D
    found["sparsity"] = sums.fired_PD.sum(0) / n
    found["post_mean"] = sums.total["position"].sum(0) / n
    found["post_var"] = (sums.squares_D / n - found["post_mean"] ** 2).clamp_min(0)
    return found


def group_means(sums: LayerSums, kind: str) -> Float[Tensor, "G D"]:
    """Mean post-activation by group; NaN for a group without tokens."""
    return sums.total[kind] / sums.count[kind][:, None]
