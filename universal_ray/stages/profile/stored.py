"""What lies in the files of the profile, typed: features, labels, sums, statistics, scores.

Shapes: V ids of the vocabulary, T tokens, L layers, D neurons of a layer, N of a model, K entries
of a list, F features of the id, E of the row, C columns of the scores: F on the current token, F on
the one before, E, and the position.
"""

import json
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from universal_ray.features.bank import Column
from universal_ray.features.features import CURRENT, PREVIOUS
from universal_ray.features.semantics import Topics
from universal_ray.features.sums import FeatureSums
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.maths.statistics.activations import LayerSums
from universal_ray.maths.statistics.weights import NEEDS, Resemblance
from universal_ray.stages.profile.schemas import BY_SUBSET, LOWER_END
from universal_ray.storage.artifacts import lacking

SEEN = 50
"""Occurrences of a token id whose mean activation is listed, as in the paper's Figure 4."""


@dataclass(frozen=True)
class StoredTopics:
    """Topics as weights over words: see `Topics`."""

    group_V: Tensor
    words: str
    """a JSON list"""
    rarity_G: Tensor
    weights_KG: Tensor

    @classmethod
    def of(cls, topics: Topics) -> "StoredTopics":
        group_V, rarity_G, weights_KG = (
            torch.from_numpy(np.ascontiguousarray(each))
            for each in (topics.group_V, topics.rarity_G, topics.weights_KG)
        )
        return cls(group_V, json.dumps(topics.words), rarity_G, weights_KG)

    def topics(self) -> Topics:
        return Topics(
            group_V=self.group_V.numpy(),
            words=tuple(json.loads(self.words)),
            rarity_G=self.rarity_G.numpy(),
            weights_KG=self.weights_KG.numpy(),
        )


@dataclass(frozen=True)
class StoredBank:
    """A bank as it is stored: see `Bank`."""

    told: str
    """JSON: the columns of the scores, what is left out, and special ids by name"""
    membership_VF: Tensor
    counts_V: Tensor
    pieces: Tensor
    """bytes of all ids, one after the other"""
    piece_lengths_V: Tensor


@dataclass(frozen=True, kw_only=True)
class Bank:
    """The features of a study, those of the id with their members."""

    vocabulary: Vocabulary
    counts_V: Tensor
    """how often the corpus has each id where it can be predicted: in no row's first place"""
    membership_VF: Tensor
    """bool; a feature of no member or equal to an earlier one is left out"""
    columns: tuple[Column, ...]
    """what each row of the scores is about"""
    left_out: dict[str, str | None]
    """features of the id without a column: the feature with the same tokens, None for no token"""

    def id_columns(self, looks_at: str) -> tuple[Column, ...]:
        """What the columns of `membership_VF` are about, on the current or previous token's id."""
        count = self.membership_VF.shape[1]
        start = {CURRENT: 0, PREVIOUS: count}[looks_at]
        return self.columns[start : start + count]

    def row_columns(self) -> tuple[Column, ...]:
        """What the labels of a token in its row are about."""
        return self.columns[2 * self.membership_VF.shape[1] : -1]

    def stored(self) -> StoredBank:
        pieces = self.vocabulary.pieces
        every = np.frombuffer(b"".join(pieces), dtype=np.uint8).copy()
        told = {
            "columns": [asdict(column) for column in self.columns],
            "left_out": self.left_out,
            "special": [*self.vocabulary.special.items()],
        }
        return StoredBank(
            told=json.dumps(told),
            membership_VF=self.membership_VF,
            counts_V=self.counts_V,
            pieces=torch.from_numpy(every),
            piece_lengths_V=torch.tensor([len(piece) for piece in pieces]),
        )

    @classmethod
    def of(cls, stored: StoredBank) -> "Bank":
        told, every = json.loads(stored.told), stored.pieces.numpy().tobytes()
        lengths_V = stored.piece_lengths_V.numpy()
        ends_V = lengths_V.cumsum()
        spans = zip((ends_V - lengths_V).tolist(), ends_V.tolist(), strict=True)
        return cls(
            vocabulary=Vocabulary(
                tuple(every[start:stop] for start, stop in spans),
                dict(told["special"]),
            ),
            counts_V=stored.counts_V,
            membership_VF=stored.membership_VF,
            columns=tuple(Column(**each) for each in told["columns"]),
            left_out=told["left_out"],
        )


@dataclass(frozen=True)
class StoredLabels:
    """Labels of the tokens of a shard by the features of the row."""

    bits: Tensor
    """[T, E / 8], eight to a byte"""
    features: int

    def labels(self) -> Tensor:
        """Bool [T, E]."""
        label_TE = np.unpackbits(self.bits.numpy(), axis=1, count=self.features)
        return torch.from_numpy(label_TE.astype(bool))


@dataclass(frozen=True)
class StoredShift:
    """Mean [L, D] of each pre-activation over the first batch, float64."""

    shift: Tensor


@dataclass(frozen=True)
class StoredSums:
    """All sums of one layer over a shard."""

    neuron: LayerSums
    feature: FeatureSums


@dataclass(frozen=True)
class Heads:
    """Compositions of each neuron, and their heads among those of all layers; NaN and -1 where it
    meets fewer.
    """

    value_NK: Tensor
    head_NK: Tensor


@dataclass(frozen=True, kw_only=True)
class Composed:
    """Of one kind: the largest compositions, descending, and the smallest, ascending."""

    top: Heads
    bottom: Heads


@dataclass(frozen=True, kw_only=True)
class Cosines:
    """Of every neuron with a vector for each id: moments [N], ends and their ids [N, K]."""

    mean: Tensor
    var: Tensor
    skew: Tensor
    kurt: Tensor
    top: Tensor
    top_id: Tensor
    bottom: Tensor
    bottom_id: Tensor


@dataclass(frozen=True, kw_only=True)
class WeightStatistics:
    """What the weights of a model say about each of its neurons; float64 [N] but for `_id`, places
    and heads. Ids and values of a list: [N, K].
    """

    w_in_norm: Tensor
    input_bias: Tensor | None = field(default=None, metadata=lacking(*NEEDS["input_bias"]))
    w_out_norm: Tensor
    in_out_sim: Tensor
    l2_penalty: Tensor
    up_norm: Tensor | None = field(default=None, metadata=lacking(*NEEDS["up_norm"]))
    up_bias: Tensor | None = field(default=None, metadata=lacking(*NEEDS["up_bias"]))
    up_out_sim: Tensor | None = field(default=None, metadata=lacking(*NEEDS["up_out_sim"]))
    gate_up_sim: Tensor | None = field(default=None, metadata=lacking(*NEEDS["gate_up_sim"]))
    vocab_mean: Tensor
    vocab_var: Tensor
    vocab_skew: Tensor
    vocab_kurt: Tensor
    vocab_top: Tensor
    vocab_top_id: Tensor
    vocab_bottom: Tensor
    vocab_bottom_id: Tensor
    in_vocab: Cosines
    """of w_in and the unembedding"""
    in_embed: Cosines | None = field(default=None, metadata=lacking("embed"))
    """of w_in and the embedding"""
    in_sim: Resemblance
    out_sim: Resemblance
    both_sim: Resemblance
    q_composition: Composed | None = field(
        default=None, metadata=lacking(*NEEDS["q_composition"])
    )
    k_composition: Composed | None = field(
        default=None, metadata=lacking(*NEEDS["k_composition"])
    )
    v_composition: Composed | None = field(
        default=None, metadata=lacking(*NEEDS["v_composition"])
    )
    o_composition: Composed | None = field(
        default=None, metadata=lacking(*NEEDS["o_composition"])
    )
    heads: int | None = field(default=None, metadata=lacking("query", "key", "value", "output"))
    """of a layer"""
    not_measured: dict[str, str]
    """what the model lacks, and why"""


@dataclass(frozen=True)
class End:
    """Tokens and examples of the largest activations, or of the smallest: [D, K]."""

    mean: Tensor
    """of mean activations by token id, of ids that are seen `SEEN` times or more"""
    mean_id: Tensor
    extreme: Tensor
    """of the largest, or smallest, activation by token id"""
    extreme_id: Tensor
    value: Tensor
    """of single activations, float32"""
    row: Tensor
    """where these are; -1 where there are too few tokens"""
    position: Tensor


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """Statistics of a layer's neurons, and scores of every feature on each; float64."""

    mean: Tensor
    var: Tensor
    skew: Tensor
    kurt: Tensor
    sparsity: Tensor
    post_mean: Tensor
    post_var: Tensor
    position_information: Tensor
    position_variance_explained: Tensor
    reach: Tensor
    """[D], float32: how far activations go from zero, upwards alone where the lower end is a floor
    """
    histogram: Tensor
    """[D, bins]"""
    histogram_by_subset: Tensor | None = field(default=None, metadata=lacking(BY_SUBSET))
    """[D, subsets, bins], int32"""
    mean_by_position: Tensor
    mean_by_subset: Tensor
    highest: End
    lowest: End | None = field(default=None, metadata=lacking(LOWER_END))
    reduction: Tensor
    """[C, D]: variance reduction"""
    difference: Tensor
    """[C, D]: mean with minus mean without the feature"""
    support: Tensor
    """[C]: tokens with the feature; of the position all that count"""
    not_measured: dict[str, str]
    """what the model lacks, and why"""
