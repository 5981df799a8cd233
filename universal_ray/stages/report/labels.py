"""What tokens are, for neurons whose activations are told by it: the role in the word, classes of
the next token, each neuron's best feature and class of logits, frequent ids within a subset.

Shapes: B rows, P positions, T = B·P tokens, G shared groups, R neurons, E features of the row,
V ids, F features of the id.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int, Int8, Int64
from torch import Tensor

from universal_ray.features.bank import Column
from universal_ray.features.features import CURRENT, TokenRows
from universal_ray.features.lexical import occurrence_roles
from universal_ray.maths.statistics.conditional import NEITHER
from universal_ray.stages.profile.artifacts import Bank

WORD_ROLES = ("whole", "beginning", "middle", "end", "no word")
CLASSES = "type"
"""Family of the features of the next token's id that everything is told by."""
FREQUENT = 20
"""Ids, the most frequent of the corpus, whose means within a subset are told."""
NONE = -1
LATER, NO_WORD = 2, 3
"""Roles as `occurrence_roles` has them."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Neurons of a model whose activations are told by what their tokens are."""

    neuron_R: tuple[int, ...]
    """flat indices, ascending"""
    feature_R: tuple[int, ...]
    """what explains each best, a column of the bank; -1 for none, or one that is no label"""
    class_R: tuple[int, ...]
    """class of ids that each writes to most, a column of the members; -1 for none"""


@dataclass(frozen=True)
class TokenLabels:
    """Labels of tokens by the features of a study."""

    bank: Bank
    subsets: tuple[str, ...]

    @cached_property
    def classes(self) -> tuple[tuple[int, Column], ...]:
        """Column of the members, and what it is, of every class of the next token."""
        columns = self.bank.id_columns(CURRENT)
        return tuple((n, each) for n, each in enumerate(columns) if each.family == CLASSES)

    @property
    def shared(self) -> int:
        return len(WORD_ROLES) + len(self.classes)

    @cached_property
    def frequent(self) -> Int64[Tensor, "K"]:
        """Ids, the most frequent first, of equal ones the lowest."""
        count_V = self.bank.counts_V.clone()
        count_V[list(self.bank.vocabulary.special)] = 0
        order_V = torch.sort(count_V, descending=True, stable=True).indices
        return order_V[: min(FREQUENT, int((count_V > 0).sum()))]

    @property
    def pairs(self) -> list[tuple[str | None, int]]:
        """Of a subset, None where the corpus has none, and a frequent id."""
        return [(subset, key) for subset in self.subsets or (None,)
                for key in self.frequent.tolist()]  # fmt: skip

    def shared_groups(self, tokens_BP: Int64[np.ndarray, "B P"]) -> Bool[Tensor, "T G"]:
        """Roles in the word, then classes of the next token, of which the last of a row has none.
        """
        rows = TokenRows(tokens_BP, self.bank.vocabulary)
        role_BP = occurrence_roles(rows).reshape(tokens_BP.shape)
        goes_on_BP = np.zeros(role_BP.shape, bool)
        goes_on_BP[:, :-1] = role_BP[:, 1:] == LATER
        role_BP = np.where(role_BP == NO_WORD, len(WORD_ROLES) - 1, role_BP)
        role_BP = np.where((role_BP == LATER) & ~goes_on_BP, LATER + 1, role_BP)
        role_T = torch.from_numpy(role_BP.ravel())
        role_TG = role_T[:, None] == torch.arange(len(WORD_ROLES))
        column_F = torch.tensor([n for n, _ in self.classes], dtype=torch.int64)
        next_BPF = torch.zeros(*tokens_BP.shape, len(column_F), dtype=torch.bool)
        next_BPF[:, :-1] = self.bank.membership_VF[:, column_F][torch.from_numpy(tokens_BP[:, 1:])]
        return torch.cat([role_TG, next_BPF.flatten(0, 1)], dim=1)

    def own_groups(
        self,
        tokens_BP: Int64[np.ndarray, "B P"],
        label_TE: Bool[Tensor, "T E"],
        chosen: Chosen,
        places: range,
    ) -> Int8[Tensor, "T 2 R"]:
        """Of some of the chosen neurons: their best feature, and the next token in their class."""
        own_T2R = torch.full((tokens_BP.size, 2, len(places)), NEITHER, dtype=torch.int8)
        for column, place in enumerate(places):
            if chosen.feature_R[place] != NONE:
                label_T = self.feature(tokens_BP, label_TE, chosen.feature_R[place])
                own_T2R[:, 0, column] = label_T.to(torch.int8)
            if chosen.class_R[place] != NONE:
                member_V = self.bank.membership_VF[:, chosen.class_R[place]]
                next_BP = own_T2R[:, 1, column].view(tokens_BP.shape)
                next_BP[:, :-1] = member_V[torch.from_numpy(tokens_BP[:, 1:])].to(torch.int8)
        return own_T2R

    def feature(
        self, tokens_BP: Int64[np.ndarray, "B P"], label_TE: Bool[Tensor, "T E"], column: int
    ) -> Bool[Tensor, "T"]:
        """The label of tokens by a column of the bank that is no position."""
        features = self.bank.membership_VF.shape[1]
        if column >= 2 * features:
            return label_TE[:, column - 2 * features]
        member_V = self.bank.membership_VF[:, column % features]
        label_BP = member_V[torch.from_numpy(tokens_BP)]
        if column >= features:
            label_BP = label_BP.roll(1, dims=1)
            label_BP[:, 0] = False
        return label_BP.flatten()

    def pair(
        self, tokens_BP: Int64[np.ndarray, "B P"], subsets: list[str] | None
    ) -> Int[Tensor, "T"]:
        """Place among `pairs` of every token, -1 for none."""
        place_V = torch.full((len(self.bank.vocabulary),), NONE)
        place_V[self.frequent] = torch.arange(len(self.frequent))
        place_BP = place_V[torch.from_numpy(tokens_BP)]
        first = {name: n * len(self.frequent) for n, name in enumerate(self.subsets)}
        if subsets and first:
            shift_B = torch.tensor([first[name] for name in subsets])
            place_BP = torch.where(place_BP == NONE, NONE, place_BP + shift_B[:, None])
        return place_BP.flatten()
