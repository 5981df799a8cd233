"""Descriptions of what a neuron fires on, as sets of tokens: fitted on some, scored on others.

A description is up to `TERMS` candidates: features of tokens that all neurons share, and two sets
of ids that are each neuron's own (the token's, and the token's before). The first is the best
alone; each further one is taken that adds most as a union, an intersection or an exception. Best is
the correlation of being in the set with the activation, in float64.

Shapes: T tokens, D neurons of a layer, F features, K terms, J ids of a set, V ids.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TERMS = 3
SET_IDS = 32
"""Ids of a neuron's own set, at most."""
SEEN = 2
"""Tokens of an id, at least, that is in a set."""
SUPPORT = 5
"""Tokens in a set, and outside, at least."""
GAIN = 0.02
"""Of the correlation, by a further term."""
FLAT = 1e-12
"""Share of Σx² below which Σ(x − mean)² is rounding."""
NONE = -1
ONLY, OR, AND, NOT = range(4)
"""How a term joins those before it."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The descriptions of a layer's neurons."""

    term_DK: Tensor
    """a feature, F for the neuron's own set of ids, F + 1 for that of ids before; -1 for none"""
    join_DK: Tensor
    ids_D2J: Tensor
    """its sets of ids, of the token and of the token before; -1 for none"""
    correlation_D: Tensor
    """on the tokens that it was fitted on; NaN where there is no description"""
    threshold_D: Tensor
    """activation above which a neuron fires, by the best F1 there"""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How far neurons do what their descriptions say, on some tokens; NaN where that is undefined.
    """

    pearson_D: Tensor
    auprc_D: Tensor
    """average precision of the activation, as it tells what the description says"""
    f1_D: Tensor
    """of firing, beside what the description says"""
    inside_D: Tensor
    """tokens that it says the neuron fires on"""


def nothing(width: int) -> Fitted:
    """No description of any neuron."""
    nan_D = torch.full((width,), torch.nan, dtype=torch.float64)
    return Fitted(
        term_DK=torch.full((width, TERMS), NONE),
        join_DK=torch.full((width, TERMS), ONLY),
        ids_D2J=torch.full((width, 2, SET_IDS), NONE),
        correlation_D=nan_D,
        threshold_D=nan_D.clone(),
    )


def correlation(
    n_X: Float[Tensor, "*x"], sum_X: Float[Tensor, "*x"], tokens: int, squares_D: Float[Tensor, "D"]
) -> Float[Tensor, "*x"]:
    """Pearson's r of a set of n tokens and a centred activation, whose sum over the set and Σx² are
    given; -inf where the set or its rest is too small, or nothing varies.
    """
    spread_X = (n_X * (1 - n_X / tokens)).clamp_min(0) * squares_D
    r_X = sum_X / spread_X.sqrt()
    few_X = (n_X < SUPPORT) | (n_X > tokens - SUPPORT) | (spread_X <= 0)
    return r_X.masked_fill(few_X, -torch.inf)


def _centred(x_TD: Float[Tensor, "T D"]) -> tuple[Tensor, Tensor]:
    """Activations less their means, and sums of their squares, zero where they do not vary."""
    centred_TD = x_TD - x_TD.mean(0)
    squares_D = centred_TD.square().sum(0)
    return centred_TD, squares_D.masked_fill(squares_D <= FLAT * x_TD.square().sum(0), 0)


def _pearson(centred_TD: Tensor, squares_D: Tensor, in_TD: Tensor) -> Tensor:
    """Of being in a set with an activation; NaN where one does not vary."""
    n_D = in_TD.sum(0).double()
    spread_D = n_D * (1 - n_D / len(in_TD)) * squares_D
    r_D = (in_TD * centred_TD).sum(0) / spread_D.clamp_min(0).sqrt()
    return r_D.masked_fill(~(spread_D > 0), torch.nan)


def own_sets(
    x_TD: Float[Tensor, "T D"], id_T: Int[Tensor, "T"], vocabulary: int, squares_D: Tensor
) -> Int[Tensor, "D J"]:
    """The set of ids that goes best with each neuron's centred activation: those of the largest
    means, as many as are best; -1 beyond.
    """
    some_T = id_T != NONE
    count_V = torch.bincount(id_T[some_T], minlength=vocabulary).double()
    seen_U = torch.nonzero(count_V >= SEEN).flatten()
    sum_VD = torch.zeros(vocabulary, x_TD.shape[1], dtype=torch.float64)
    sum_VD.index_add_(0, id_T[some_T], x_TD[some_T])
    sum_UD, count_U = sum_VD[seen_U], count_V[seen_U]
    most = min(SET_IDS, len(seen_U))
    mean_DU = (sum_UD / count_U[:, None]).T.contiguous()
    order_JD = torch.sort(mean_DU, dim=1, descending=True, stable=True).indices[:, :most].T
    n_JD, total_JD = count_U[order_JD].cumsum(0), sum_UD.gather(0, order_JD).cumsum(0)
    r_JD = correlation(n_JD, total_JD, len(id_T), squares_D)
    ids_DJ = torch.full((x_TD.shape[1], SET_IDS), NONE)
    if not most:
        return ids_DJ
    best_D = r_JD.argmax(0)
    inside_JD = (torch.arange(most)[:, None] <= best_D) & (r_JD.amax(0) > -torch.inf)
    ids_DJ[:, :most] = torch.where(inside_JD, seen_U[order_JD], NONE).T
    return ids_DJ


def in_sets(ids_DJ: Int[Tensor, "D J"], id_T: Int[Tensor, "T"], vocabulary: int) -> Tensor:
    """Bool [T, D]: which tokens have an id of each set."""
    member_VD = torch.zeros(vocabulary + 1, len(ids_DJ), dtype=torch.bool)
    member_VD.scatter_(0, torch.where(ids_DJ == NONE, vocabulary, ids_DJ).T, True)
    member_VD[vocabulary] = False
    return member_VD[torch.where(id_T == NONE, vocabulary, id_T)]


def fit(
    x_TD: Float[Tensor, "T D"],
    label_TF: Bool[Tensor, "T F"],
    ids_T2: Int[Tensor, "T 2"],
    vocabulary: int,
) -> Fitted:
    """Describe neurons by some tokens; `ids_T2`: of the token and the token before, -1 for none."""
    tokens, width = x_TD.shape
    value_TD = x_TD.double()
    centred_TD, squares_D = _centred(value_TD)
    ids_D2J = torch.stack(
        [own_sets(centred_TD, id_T, vocabulary, squares_D) for id_T in ids_T2.T], dim=1
    )
    own_2TD = torch.stack(
        [in_sets(ids_D2J[:, n], id_T, vocabulary) for n, id_T in enumerate(ids_T2.T)]
    )
    # Float32 tells candidates apart; what is told of the chosen is float64.
    label_FT, search_TD = label_TF.float().T, centred_TD.float()
    n_CD, sum_CD = _sums(label_FT, own_2TD, search_TD, None)
    term_DK = torch.full((width, TERMS), NONE)
    join_DK = torch.full((width, TERMS), ONLY)
    r_D, first_D = correlation(n_CD, sum_CD, tokens, squares_D).max(0)
    some_D = r_D > -torch.inf
    term_DK[:, 0] = torch.where(some_D, first_D, NONE)
    in_TD = _inside(first_D, label_TF, own_2TD) & some_D
    for term in range(1, TERMS):
        both_CD, both_sum_CD = _sums(label_FT, own_2TD, search_TD, in_TD)
        n_D, sum_D = in_TD.double().sum(0), (in_TD * search_TD).double().sum(0)
        joined_3CD = torch.stack([
            correlation(n_D + n_CD - both_CD, sum_D + sum_CD - both_sum_CD, tokens, squares_D),
            correlation(both_CD, both_sum_CD, tokens, squares_D),
            correlation(n_D - both_CD, sum_D - both_sum_CD, tokens, squares_D),
        ])  # fmt: skip
        better_D, place_D = joined_3CD.flatten(0, 1).max(0)
        taken_D = (better_D > r_D + GAIN) & (term_DK[:, term - 1] != NONE)
        join_D, next_D = place_D // len(n_CD) + OR, place_D % len(n_CD)
        term_DK[:, term] = torch.where(taken_D, next_D, NONE)
        join_DK[:, term] = torch.where(taken_D, join_D, ONLY)
        r_D = torch.where(taken_D, better_D, r_D)
        with_TD = _inside(next_D, label_TF, own_2TD)
        in_TD = torch.where(taken_D, _joined(in_TD, with_TD, join_D), in_TD)
    return Fitted(
        term_DK=term_DK,
        join_DK=join_DK,
        ids_D2J=ids_D2J,
        correlation_D=_pearson(centred_TD, squares_D, in_TD),
        threshold_D=_threshold(x_TD, in_TD).double(),
    )


def _sums(
    label_FT: Tensor, own_2TD: Tensor, x_TD: Tensor, in_TD: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Tokens, and sums over them, of all candidates [C, D], within a set if one is given."""
    if in_TD is None:
        n_F1 = label_FT.sum(1, keepdim=True).expand(-1, x_TD.shape[1])
        n_CD = torch.cat([n_F1, own_2TD.sum(1)])
        return n_CD.double(), torch.cat([label_FT @ x_TD, (own_2TD * x_TD).sum(1)]).double()
    within_TD = in_TD * x_TD
    n_CD = torch.cat([label_FT @ in_TD.float(), (own_2TD & in_TD).sum(1)])
    return n_CD.double(), torch.cat([label_FT @ within_TD, (own_2TD * within_TD).sum(1)]).double()


def _inside(term_D: Tensor, label_TF: Tensor, own_2TD: Tensor) -> Tensor:
    """Bool [T, D]: the tokens of one candidate of every neuron."""
    features = label_TF.shape[1]
    in_TD = label_TF[:, term_D.clamp(0, features - 1)] if features else own_2TD[0]
    in_TD = torch.where(term_D == features, own_2TD[0], in_TD)
    return torch.where(term_D == features + 1, own_2TD[1], in_TD) & (term_D != NONE)


def _joined(in_TD: Tensor, with_TD: Tensor, join_D: Tensor) -> Tensor:
    found_TD = torch.where(join_D == OR, in_TD | with_TD, in_TD & with_TD)
    return torch.where(join_D == NOT, in_TD & ~with_TD, found_TD)


def says(
    fitted: Fitted, label_TF: Bool[Tensor, "T F"], ids_T2: Int[Tensor, "T 2"], vocabulary: int
) -> Bool[Tensor, "T D"]:
    """The tokens that descriptions say neurons fire on."""
    own_2TD = torch.stack([
        in_sets(fitted.ids_D2J[:, n], id_T, vocabulary) for n, id_T in enumerate(ids_T2.T)
    ])  # fmt: skip
    in_TD = _inside(fitted.term_DK[:, 0], label_TF, own_2TD)
    for term_D, join_D in zip(fitted.term_DK.T[1:], fitted.join_DK.T[1:], strict=True):
        with_TD = _inside(term_D, label_TF, own_2TD)
        in_TD = torch.where(term_D == NONE, in_TD, _joined(in_TD, with_TD, join_D))
    return in_TD


def _ranked(x_TD: Tensor, in_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[D, T]: float32 activations, descending; how many tokens of a set are among the first; the
    last of every run of equal activations, where alone that number means something.
    """
    # In float64 such an activation ends in zeros. The last of them says whether its token is in the
    # set, so that numbers are sorted, which is ten times as fast as sorting places.
    key_DT = x_TD.T.contiguous().double().neg_()
    bits_DT = key_DT.view(torch.int64).bitwise_or_(in_TD.T.contiguous())
    key_DT.numpy().sort(axis=1)
    hits_DT = (bits_DT & 1).double().cumsum_(1)
    sorted_DT = bits_DT.bitwise_and_(-2).view(torch.float64).neg_().float()
    end_DT = torch.ones_like(sorted_DT, dtype=torch.bool)
    end_DT[:, :-1] = sorted_DT[:, 1:] != sorted_DT[:, :-1]
    return sorted_DT, hits_DT, end_DT


def _threshold(x_TD: Tensor, in_TD: Tensor) -> Tensor:
    """The activation above which tokens are most like those in a set, by F1: halfway between the
    last of these and the next below.
    """
    sorted_DT, hits_DT, end_DT = _ranked(x_TD, in_TD)
    fired_T = torch.arange(1, len(x_TD) + 1, dtype=torch.float64)
    f1_DT = 2 * hits_DT / (fired_T + hits_DT[:, -1:])
    best_D1 = f1_DT.masked_fill(~end_DT, -1).argmax(1, keepdim=True)
    below_D1 = (best_D1 + 1).clamp_max(len(x_TD) - 1)
    return (sorted_DT.gather(1, best_D1) + sorted_DT.gather(1, below_D1))[:, 0] / 2


def score(
    x_TD: Float[Tensor, "T D"], in_TD: Bool[Tensor, "T D"], threshold_D: Float[Tensor, "D"]
) -> Scores:
    """Score what descriptions say against activations on the same tokens."""
    centred_TD, squares_D = _centred(x_TD.double())
    n_D = in_TD.sum(0).double()
    _, hits_DT, end_DT = _ranked(x_TD, in_TD)
    until_DT = torch.where(end_DT, hits_DT, 0).cummax(1).values
    before_DT = torch.cat([torch.zeros_like(until_DT[:, :1]), until_DT[:, :-1]], dim=1)
    fired_T = torch.arange(1, len(x_TD) + 1, dtype=torch.float64)
    precise_DT = torch.where(end_DT, (hits_DT - before_DT) * hits_DT / fired_T, 0)
    fires_TD = x_TD >= threshold_D
    both_D = (fires_TD & in_TD).sum(0)
    return Scores(
        pearson_D=_pearson(centred_TD, squares_D, in_TD),
        auprc_D=precise_DT.sum(1) / n_D,
        f1_D=2 * both_D / (fires_TD.sum(0) + n_D),
        inside_D=n_D,
    )


def correlated(sums_5R: Float[Tensor, "5 R"]) -> Float[Tensor, "R"]:
    """Pearson's r from sums over tokens (their number, Σp, Σx, Σx², Σpx) of being in a set and of
    an activation; NaN where one does not vary.
    """
    n_R, p_R, x_R, xx_R, px_R = sums_5R.unbind()
    varies_R = xx_R - x_R**2 / n_R
    varies_R = varies_R.masked_fill(varies_R <= FLAT * xx_R, 0)
    spread_R = (p_R - p_R**2 / n_R) * varies_R
    r_R = (px_R - p_R * x_R / n_R) / spread_R.clamp_min(0).sqrt()
    return r_R.masked_fill(~(spread_R > 0), torch.nan)
