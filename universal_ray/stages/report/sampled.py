"""What is made of the tokens of the sample: candidates for windows, descriptions with their scores,
and how these hold for other neurons.

Shapes: T tokens of the sample, D neurons of a layer, N of a model, F features, C candidates of a
neuron, W tokens of a window, R some neurons.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from universal_ray.config.hashing import fingerprint
from universal_ray.corpus.rows import TokenCorpus, kept_mask
from universal_ray.corpus.scattered import read_rows
from universal_ray.maths.statistics import descriptions
from universal_ray.maths.statistics.descriptions import SUPPORT, Fitted, Scores
from universal_ray.maths.statistics.windows import NONE, at_quantiles, drawn, starts, windows
from universal_ray.planning.items import Model
from universal_ray.stages.report.artifacts import LayerDescriptions, LayerSample, Report
from universal_ray.storage.store import Store

NEURONS_AT_ONCE = 128
"""Looked at together: what is made of them stays in a CPU's cache."""
DRAWS = 4
"""Candidates for each window at random: of those with the same tokens one stays."""


def generator(*of: Any) -> torch.Generator:
    """Of random numbers that follow from this, whoever draws them."""
    return torch.Generator().manual_seed(int(fingerprint(list(of))[:15], 16))


def candidates(
    recipe: Report,
    model: Model,
    layer: int,
    post_TD: Float[Tensor, "T D"],
    fires_TD: Bool[Tensor, "T D"],
    kept_T: Bool[Tensor, "T"],
) -> LayerSample:
    """For windows of a layer's neurons; tokens that are kept may be their focus."""
    options, plan = recipe.options, recipe.plan
    context, width = plan.context, post_TD.shape[1]
    draws = generator(options.seed, model.identity, layer)
    may_TD = kept_T[:, None].expand(post_TD.shape)
    token_DC = torch.cat([
        at_quantiles(post_TD, kept_T, options.quantiles),
        drawn(may_TD, DRAWS * options.random, draws),
        drawn(may_TD & ~fires_TD, DRAWS * options.silent, draws),
    ], dim=1)  # fmt: skip
    none_DC = token_DC == NONE
    place_DC, focus_DC = token_DC.clamp_min(0) // context, token_DC.clamp_min(0) % context
    neuron_DC = torch.arange(width, device=token_DC.device)[:, None].expand(token_DC.shape)
    window_CW = windows(
        post_TD.view(-1, context, width),
        place_DC.flatten(),
        starts(focus_DC, plan.window, context).flatten(),
        neuron_DC.flatten(),
        plan.window,
    )
    row_DC = torch.tensor(plan.sample, device=token_DC.device)[place_DC]
    return LayerSample(
        row_DC=row_DC.masked_fill(none_DC, NONE),
        focus_DC=focus_DC.masked_fill(none_DC, NONE),
        window_DCW=window_CW.view(*token_DC.shape, plan.window),
    )


@dataclass(frozen=True)
class SampleLabels:
    """What descriptions are made of, for every token of the sample."""

    label_TF: Bool[Tensor, "T F"]
    """by the columns of the bank, but the last, which is no label"""
    ids_T2: Int[Tensor, "T 2"]
    """of the token and of the token before, -1 for none"""
    half_2T: Bool[Tensor, "2 T"]
    """tokens that count of the half that describes, and of the one that scores"""
    vocabulary: int

    @classmethod
    def read(cls, store: Store, recipe: Report, corpus: TokenCorpus) -> "SampleLabels":
        rows, profile, context = recipe.plan.sample, recipe.profile, recipe.plan.context
        bank = profile.read_bank(store)
        tokens_BP = torch.from_numpy(read_rows(corpus, rows))
        before_BP = tokens_BP.roll(1, dims=1)
        before_BP[:, 0] = NONE
        ids_T2 = torch.stack([tokens_BP.flatten(), before_BP.flatten()], dim=1)
        member_VF = bank.membership_VF
        none_1F = torch.zeros(1, member_VF.shape[1], dtype=torch.bool)
        # The last row of members is that of no token.
        of_ids = [torch.cat([member_VF, none_1F])[id_T] for id_T in ids_T2.T]
        of_rows = []
        for shard in profile.shards:
            inside = [row - shard.start for row in rows if shard.start <= row < shard.stop]
            if inside:
                label_TE = profile.read_labels(store, shard)
                of_rows.append(label_TE.view(-1, context, label_TE.shape[1])[inside])
        half_B = recipe.plan.half(torch.tensor(rows))
        kept_T = kept_mask(tokens_BP, recipe.excluded)
        half_T = half_B.repeat_interleave(context)
        return cls(
            torch.cat([*of_ids, torch.cat(of_rows).flatten(0, 1)], dim=1),
            ids_T2,
            torch.stack([kept_T & (half_T == half) for half in (0, 1)]),
            len(bank.vocabulary),
        )

    def says(self, fitted: Fitted, tokens_T: Bool[Tensor, "T"]) -> Bool[Tensor, "X D"]:
        """What descriptions say of some tokens."""
        return descriptions.says(
            fitted, self.label_TF[tokens_T], self.ids_T2[tokens_T], self.vocabulary
        )


def describe_layer(
    recipe: Report,
    model: Model,
    layer: int,
    post_TD: Float[Tensor, "T D"],
    labels: SampleLabels,
) -> LayerDescriptions:
    """Fit descriptions on one half of the sample and score them on the other; beside that, scores
    where what they say is shuffled among its tokens.
    """
    fits_T, scores_T = labels.half_2T
    if min(fits_T.sum(), scores_T.sum()) <= 2 * SUPPORT:
        nan_D = torch.full((post_TD.shape[1],), torch.nan, dtype=torch.float64)
        nothing = Scores(pearson_D=nan_D, auprc_D=nan_D, f1_D=nan_D, inside_D=nan_D)
        none = descriptions.nothing(post_TD.shape[1])
        return LayerDescriptions(fitted=none, scores=nothing, shuffled=nothing)
    # The same tokens for all neurons of the layer, in another order.
    order_T = torch.randperm(
        int(scores_T.sum()), generator=generator(
            recipe.options.seed, model.identity, layer, "shuffled"
        )
    )  # fmt: skip
    label_TF, ids_T2 = labels.label_TF[fits_T], labels.ids_T2[fits_T]
    parts = []
    for some_TR in post_TD.split(NEURONS_AT_ONCE, dim=1):
        fitted = descriptions.fit(some_TR[fits_T], label_TF, ids_T2, labels.vocabulary)
        said_TR, x_TR = labels.says(fitted, scores_T), some_TR[scores_T]
        scores, shuffled = (
            descriptions.score(x_TR, each_TR, fitted.threshold_D)
            for each_TR in (said_TR, said_TR[order_T])
        )
        parts.append(LayerDescriptions(fitted=fitted, scores=scores, shuffled=shuffled))
    return joined(parts)


def other_neurons(
    recipe: Report, model: Model, other: Model, partner_N: Int[Tensor, "N"]
) -> Int[Tensor, "N"]:
    """A random neuron of the layer of each neuron's partner, that is not the partner; -1 where it
    has none, or the layer no other.
    """
    if other.width < 2:
        return torch.full_like(partner_N, NONE)
    draws = generator(recipe.options.seed, model.identity, other.identity, "no partner")
    away_N = torch.randint(1, other.width, partner_N.shape, generator=draws)
    found_N = partner_N // other.width * other.width + (partner_N + away_N) % other.width
    return torch.where(partner_N == NONE, NONE, found_N)


class Transfer:
    """Sums over tokens of what one model's descriptions say, beside activations of another's."""

    def __init__(self, said_TN: Bool[Tensor, "T N"], neuron_N: Int[Tensor, "N"], width: int):
        self._said_TN, self._neuron_N, self._width = said_TN, neuron_N, width
        self.sums_5N = torch.zeros(5, len(neuron_N), dtype=torch.float64)

    def add(self, layer: int, post_XD: Float[Tensor, "X D"], tokens: slice) -> None:
        """Activations of a layer on some of the tokens."""
        here_N = (self._neuron_N != NONE) & (self._neuron_N // self._width == layer)
        for mine_R in torch.nonzero(here_N).flatten().split(NEURONS_AT_ONCE):
            said_XR = self._said_TN[tokens][:, mine_R].double()
            x_XR = post_XD[:, self._neuron_N[mine_R] % self._width].double()
            five = (torch.ones_like(x_XR), said_XR, x_XR, x_XR**2, said_XR * x_XR)
            self.sums_5N[:, mine_R] += torch.stack([each.sum(0) for each in five])


def joined(layers: list[LayerDescriptions]) -> LayerDescriptions:
    """Of neurons that follow one another, numbered through."""

    def whole(parts: list[Any]) -> Any:
        first = parts[0]
        if isinstance(first, Tensor):
            return torch.cat(parts)
        return type(first)(**{name: whole([getattr(part, name) for part in parts])
                              for name in vars(first)})  # fmt: skip

    found: LayerDescriptions = whole(layers)
    return found
