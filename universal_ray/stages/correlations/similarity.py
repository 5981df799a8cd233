"""How alike whole layers are: from sums to measures, what chance gives, and their errors.

`similar_rows` and `match` are each one task of the cluster over the store. Sums are read twice,
group by group, so that beside those of all tokens one group's are held.
Shapes as in `reduce`: D neurons of a layer of a pair's first model, M of all layers of its second,
of which there are L; K draws, G groups; X measures in 2 directions.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from universal_ray.maths.moments import rotation
from universal_ray.maths.moments.accumulate import LayerSums, merge
from universal_ray.maths.moments.correlation import centred_cross, correlation
from universal_ray.maths.moments.jackknife import error_of
from universal_ray.maths.similarity.measures import (
    OF_NEURONS,
    OF_SUBSPACES,
    Beside,
    by_chance,
    matchings,
    measured,
    worth_of,
)
from universal_ray.planning.items import Item, Model
from universal_ray.stages.correlations.artifacts import (
    ReducedModel,
    Reduction,
    Similarities,
    Terms,
)
from universal_ray.stages.correlations.folding import groups
from universal_ray.stages.correlations.partners import matched
from universal_ray.stages.correlations.reduce import read_pair, rotations
from universal_ray.storage import artifacts
from universal_ray.storage.store import Store

Read = Callable[[], Iterable[LayerSums]]
"""Sums of one layer, group by group."""


def match(recipe: Reduction, pair: Item) -> None:
    """The one-to-one matching of all neurons of two models."""
    store = Store(recipe.store_url)
    artifacts.put(store, recipe.matched_file(pair), matched(*read_pair(store, recipe, pair)))


def similar_rows(recipe: Reduction, pair: Item, layer: int) -> None:
    """Every measure of one layer of a pair's first model beside all layers of the second."""
    store = Store(recipe.store_url)
    first, second = pair.models
    read = partial(groups, store, recipe.layout)
    shifted = [partial(read, item, layer) for item in recipe.shifted(pair)]
    left, *right = (
        Layer(recipe.read_model(store, model), model, place,
              partial(read, Item((model,)), place), device=recipe.device)
        for model, place in [(first, layer), *((second, each) for each in range(second.layers))]
    )  # fmt: skip
    artifacts.put(
        store, recipe.similar_file(pair, layer),
        similarities(recipe, recipe.measures, left, right, partial(read, pair, layer), *shifted),
    )  # fmt: skip


class Layer:
    """One layer of a model: its sums over all tokens, from which those of a group are taken."""

    def __init__(
        self, stored: ReducedModel, model: Model, index: int, read: Read, *, device: str
    ):
        self.stored, self.model, self.index, self.read = stored, model, index, read
        self.device = device
        self.span = slice(index * model.width, (index + 1) * model.width)
        self.live_D = torch.nonzero(stored.moments.null_N[self.span] == 0).flatten()
        """neurons that have correlations: the others are left out"""
        self.scale_D = stored.scale_N[self.span][self.live_D]
        self.n, self.sum_D = stored.n_G.sum(), stored.sum_GN[:, self.span].sum(0)
        self.raw_D = stored.raw_GN[:, self.span].sum(0)
        self.gram_DD: Tensor | None = None

    def merge_gram(self) -> None:
        """Read what measures of subspaces take."""
        self.gram_DD = merge(self.read())["gram"]

    def sums(self, group: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, Σu and Σu²: of all, or of all but a group."""
        if group is None:
            return self.n, self.sum_D, self.raw_D
        stored, span = self.stored, self.span
        return (
            self.n - stored.n_G[group],
            self.sum_D - stored.sum_GN[group, span],
            self.raw_D - stored.raw_GN[group, span],
        )

    def squares(self, group: int | None) -> Tensor:
        """Σ(x - mean)² of the raw activations x."""
        n, sum_D, raw_D = self.sums(group)
        centred_D: Tensor = (raw_D - sum_D * sum_D / n)[self.live_D] * self.scale_D**2
        return centred_D.to(self.device)

    def gram(self, group: int | None, part: LayerSums | None) -> Tensor | None:
        """Σ(x - mean)(x - mean)ᵀ."""
        if self.gram_DD is None:
            return None
        n, sum_D, _ = self.sums(group)
        gram_DD = self.gram_DD if part is None else self.gram_DD - part["gram"]
        centred_DD = (gram_DD - torch.outer(sum_D, sum_D) / n)[self.live_D][:, self.live_D]
        return (centred_DD * self.scale_D[:, None] * self.scale_D).to(self.device)


def similarities(
    terms: Terms,
    measures: Sequence[str],
    left: Layer,
    right: Sequence[Layer],
    read: Read,
    *shifted: Read,
) -> Similarities:
    """Of the cross sums of one layer with all of the second model, which are read twice; and of
    those of each shift, where the baseline is made of these.
    """
    layers = [left, *right]
    if any(name in OF_SUBSPACES for name in measures):
        for layer in layers:
            layer.merge_gram()
    cross_DM = merge(read())["cross"]
    moments = left.stored.moments, right[0].stored.moments
    centred_DM = centred_cross(cross_DM, *moments, first=left.span.start)
    of_neurons = any(name in OF_NEURONS for name in measures)
    chance = [
        correlation(
            centred_cross(merge(drawn())["cross"], *moments, first=left.span.start), *moments,
            first=left.span.start, policy=terms.policy,
        )
        for drawn in (shifted if of_neurons else ())
    ]
    values, draws, fixed = [], [], []
    for other in right:
        beside = _beside(left, other, cross_DM)
        if not of_neurons or beside.empty:
            rotated: tuple[list[Tensor], list[Tensor]] = ([], [])
        elif chance:
            rotated = _shifted(chance, left, other)
        else:
            rotated = _rotated(terms, left, other, centred_DM[:, other.span])
        worth = worth_of(rotated)
        pairs = matchings(measures, beside.r_DE, worth) if not beside.empty else {}
        fixed.append((pairs, worth))
        values.append(measured(measures, beside, pairs, worth))
        seed = f"{terms.seed}|{left.model.identity}|{left.index}|{other.model.identity}"
        draws.append(
            by_chance(measures, beside, rotated, worth=worth, draws=terms.rotations,
                      seed=f"{seed}|{other.index}")
        )  # fmt: skip
    del centred_DM
    n_G = left.stored.n_G
    left_out_G = [
        torch.stack([
            measured(measures, _beside(left, other, cross_DM, group, (part, own, theirs)), *held)
            for other, theirs, held in zip(right, parts, fixed, strict=True)
        ], -1)
        for group, (part, own, *parts) in enumerate(zip(read(), *_grams(layers, n_G), strict=True))
        if 0 < n_G[group] < n_G.sum()
    ]  # fmt: skip
    value_2XL = torch.stack(values, -1)
    return Similarities(
        value_2XL=value_2XL,
        error_2XL=_errors(n_G[n_G > 0], value_2XL, left_out_G),
        draws_2XLK=torch.stack(draws, 2),
    )


def _grams(layers: Sequence[Layer], n_G: Tensor) -> list[Iterable[LayerSums | None]]:
    """Of every layer by group; None of each where no measure takes them."""
    return [[None] * len(n_G) if each.gram_DD is None else each.read() for each in layers]


def _errors(n_G: Tensor, value_2XL: Tensor, left_out_G: Sequence[Tensor]) -> Tensor:
    """Jackknife errors; NaN for one group."""
    if len(n_G) < 2:
        return torch.full_like(value_2XL, torch.nan)
    left_out_GR = torch.stack(list(left_out_G)).flatten(1)
    return error_of(n_G, value_2XL.flatten(), left_out_GR).view_as(value_2XL)


def _beside(
    left: Layer,
    right: Layer,
    cross_DM: Tensor,
    group: int | None = None,
    parts: tuple[LayerSums, LayerSums | None, LayerSums | None] | None = None,
) -> Beside:
    """Two layers over all tokens, or all but a group whose sums are `parts`: cross, left, right."""
    cross_DE = cross_DM[:, right.span]
    part, own, theirs = parts or (None, None, None)
    if part is not None:
        cross_DE = cross_DE - part["cross"][:, right.span]
    n, sum_D, _ = left.sums(group)
    _, sum_E, _ = right.sums(group)
    centred_DE = (cross_DE - torch.outer(sum_D, sum_E) / n)[left.live_D][:, right.live_D]
    return Beside(
        n=float(n),
        cross_DE=(centred_DE * left.scale_D[:, None] * right.scale_D).to(left.device),
        squares_D=left.squares(group),
        squares_E=right.squares(group),
        left_DD=left.gram(group, own),
        right_EE=right.gram(group, theirs),
    )


def _rotated(
    terms: Terms, left: Layer, right: Layer, centred_DE: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """By direction, correlations of a layer's neurons with every draw of the other rotated."""
    found = []
    for mine, other, centred in ((left, right, centred_DE), (right, left, centred_DE.T)):
        squares_R = mine.stored.moments.squares_N[mine.span][mine.live_D].to(terms.device)
        drawn = rotations(terms, other.model, other.index, other.stored.scale_N)
        found.append([
            rotation.correlated_rotated(
                centred[mine.live_D].to(terms.device), weights_DD.to(terms.device),
                rotated_squares_D=other.stored.rotated_KN[draw, other.span].to(terms.device),
                squares_R=squares_R,
            ).cpu()
            for draw, weights_DD in enumerate(drawn)
        ])  # fmt: skip
    return found[0], found[1]


def _shifted(
    chance: Sequence[Tensor], left: Layer, right: Layer
) -> tuple[list[Tensor], list[Tensor]]:
    """By direction, correlations of a layer's neurons with the other's at every draw's tokens."""
    drawn = [r_DM[left.live_D][:, right.live_D + right.span.start] for r_DM in chance]
    return drawn, [r_DE.T for r_DE in drawn]
