"""What roles are told from: scores, responses and interventions, and where they lie. Pure."""

from dataclasses import dataclass

import numpy as np

from universal_ray.items import Model
from universal_ray.profile.plan import Shard
from universal_ray.profile.reduce import ProfileOrder
from universal_ray.study import RolesConfig, fingerprint, plain

SHARD_TOKENS = 4096
"""Of interventions: short, since each token is read out once for every intervention."""
FOLDER = "roles"


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
    intervened: frozenset[str]
    """identities of the models whose architecture interventions know"""
    shards: tuple[Shard, ...]
    counts_V: np.ndarray
    """how often the corpus has each id where it can be predicted: in no row's first place"""
    bos: int | None
    """the id that rows begin with"""
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
            plain(self.options), self.bos, sorted(self.intervened), self.device,
        ]  # fmt: skip
        return fingerprint(decided)[:12]

    def scores_path(self, model: Model) -> str:
        return f"{FOLDER}/scores-{self._key()}/{model.short}.safetensors"

    def responses_path(self, model: Model, layer: int) -> str:
        decided = [self._key(), self.profile.plan.sums_key, list(self.excluded)]
        key = fingerprint(decided)[:12]
        return f"{FOLDER}/responses-{key}/{model.short}/layer-{layer:02d}.safetensors"
