"""What of a study is intervened on, and in which shards: known before tokens are read. Pure."""

from dataclasses import dataclass

from universal_ray.config.study import RolesConfig
from universal_ray.errors import ConfigurationError
from universal_ray.models.decoder import ARCHITECTURES
from universal_ray.models.site import Ask
from universal_ray.planning.items import Model
from universal_ray.planning.shards import Shard
from universal_ray.stages.inputs import Outline

SHARD_TOKENS = 4096
"""Of interventions: short, since each token is read out once for every intervention."""


@dataclass(frozen=True, kw_only=True)
class RolesPlan:
    """Whose roles are told, and what is intervened on."""

    models: tuple[Model, ...]
    references: tuple[Model, ...]
    untouched: dict[str, str]
    """by identity of a model that is not intervened on, nor its attention read: why"""
    shards: tuple[Shard, ...]
    """rows that models are intervened on"""
    context: int

    @property
    def rows(self) -> int:
        return self.shards[-1].stop

    @property
    def tokens(self) -> int:
        """That models are intervened on."""
        return self.rows * self.context

    @property
    def intervened(self) -> tuple[Model, ...]:
        """Models that are intervened on, those of two revisions as often as they are named."""
        return tuple(each for each in self.references if each.identity not in self.untouched)


def role_shards(rows: int, context: int) -> tuple[Shard, ...]:
    """Shards of whole rows for the interventions."""
    step = max(1, SHARD_TOKENS // context)
    return tuple(
        Shard(index, start, min(start + step, rows))
        for index, start in enumerate(range(0, rows, step))
    )


def make_plan(found: Outline) -> RolesPlan:
    """Raises ConfigurationError for options that do not fit the corpus, ModelError for units that
    have no roles.
    """
    found.site.check_has(Ask.roles)
    wanted, context = found.study.roles.tokens, found.context
    rows = min(-(-wanted // context), found.rows)
    if rows < 2:
        raise ConfigurationError(
            f"roles.tokens ({wanted}) is less than two rows of {context} tokens, and one "
            "row has no spread: raise it"
        )
    return RolesPlan(
        models=found.everyone,
        references=found.references,
        untouched={
            source.identity: (
                f"models of type {source.kind} are not intervened on, nor their attention read: "
                f"interventions know {' and '.join(ARCHITECTURES)}"
            )
            for source in found.sources.values()
            if source.kind not in ARCHITECTURES
        },
        shards=role_shards(rows, context),
        context=context,
    )


def describe(plan: RolesPlan, options: RolesConfig, tokens: int) -> list[tuple[str, str]]:
    """The plan as rows of a table on screen; `tokens`: those that responses are read on."""
    intervened, shards = len(plan.intervened), len(plan.shards)
    most = 1 + (2 * options.candidates + options.controls) * (len(options.sweep) + 3)
    return [
        ("roles", f"of {sum(m.neurons for m in plan.models):,} neurons, from weights and "
         f"{tokens:,} tokens"),
        ("interventions", f"on {intervened} model{'s' if intervened != 1 else ''}: up to "
         f"{most:,} on single neurons, the universal ones ablated beside {options.sets} random "
         f"sets, {options.paths} paths; {plan.tokens:,} tokens in {shards} shards"),
    ]  # fmt: skip
