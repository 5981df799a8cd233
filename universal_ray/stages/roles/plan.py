"""What roles are told from: scores, responses and interventions, and where they lie. Pure."""

from dataclasses import dataclass

import numpy as np

from universal_ray.config.hashing import fingerprint
from universal_ray.config.study import RolesConfig, plain
from universal_ray.planning.items import Model
from universal_ray.planning.shards import Shard
from universal_ray.stages.profile.reduce import WEIGHTS_FOLDER, ProfileOrder

SHARD_TOKENS = 4096
"""Of interventions: short, since each token is read out once for every intervention."""
FOLDER = "roles"
MEANING = 3
"""Raised when what is stored comes to mean something else: what was stored before is then made
again."""


def role_shards(rows: int, context: int) -> tuple[Shard, ...]:
    """Shards of whole rows for the interventions."""
    step = max(1, SHARD_TOKENS // context)
    return tuple(
        Shard(index, start, min(start + step, rows))
        for index, start in enumerate(range(0, rows, step))
    )


@dataclass(frozen=True)
class RolesOrder:
    """What every task about roles is told."""

    profile: ProfileOrder
    references: tuple[Model, ...]
    untouched: dict[str, str]
    """by identity of a model that is not intervened on, nor its attention read: why"""
    shards: tuple[Shard, ...]
    counts_V: np.ndarray
    """how often the corpus has each id where it can be predicted: in no row's first place"""
    bos: int | None
    """the id that begins a text"""
    no_bos: str | None
    """why nothing is measured at the first token of a row; None where rows begin with that id"""
    excluded: tuple[int, ...]
    """ids on which nothing is measured: special ones, and what the profile leaves out"""
    options: RolesConfig
    device: str

    @property
    def models(self) -> tuple[Model, ...]:
        return self.profile.plan.models

    @property
    def store_url(self) -> str:
        return self.profile.store_url

    def _key(self) -> str:
        """Of all that scores come from but the model."""
        decided = [
            self.profile.bank.identity, self.counts_V.tolist(), self.profile.convention,
            plain(self.options), self.bos, self.no_bos, self.untouched, self.device, MEANING,
            WEIGHTS_FOLDER,
        ]  # fmt: skip
        return fingerprint(decided)[:12]

    def scores_path(self, model: Model) -> str:
        return f"{FOLDER}/scores-{self._key()}/{model.short}.safetensors"

    def responses_path(self, model: Model, layer: int) -> str:
        decided = [self._key(), self.profile.plan.sums_key, list(self.excluded)]
        key = fingerprint(decided)[:12]
        return f"{FOLDER}/responses-{key}/{model.short}/layer-{layer:02d}.safetensors"
