"""What of a study is intervened on, and in which shards: known before tokens are read. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from universal_ray.config.named import named_paths
from universal_ray.config.study import RolesConfig
from universal_ray.errors import ConfigurationError
from universal_ray.models.decoder import ARCHITECTURES
from universal_ray.models.site import Ask
from universal_ray.planning.capacity import weight_bytes
from universal_ray.planning.costs import (
    DOUBLE,
    FORWARD,
    SINGLE,
    TRAFFIC,
    Cost,
    Share,
    forward_flops,
    table_share,
)
from universal_ray.planning.items import Model
from universal_ray.planning.shards import (
    Layers,
    Shard,
    beside_layers,
    layer_bytes,
    layer_groups,
)
from universal_ray.stages.inputs import Outline
from universal_ray.stages.profile.artifacts import Profile
from universal_ray.stages.roles.named import Named, find_named
from universal_ray.storage import finished

SHARD_TOKENS = 2048
"""Of interventions: short, since each token is read out once for every intervention."""


@dataclass(frozen=True, kw_only=True)
class RolesPlan:
    """Whose roles are told, and what is intervened on."""

    models: tuple[Model, ...]
    references: tuple[Model, ...]
    untouched: dict[str, str]
    """by identity of a model that is not intervened on, nor its attention read: why"""
    named: dict[str, Named]
    """by identity of a reference model: what the study names of it"""
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
    found.check_one_tokenizer(finished.ROLES)
    found.site.check_has(Ask.roles)
    wanted, context = found.study.roles.tokens, found.context
    if found.rows < 2:
        raise ConfigurationError(
            f"the corpus has one row of {context} tokens, which has no spread for roles: give more "
            "text or tokens, or leave the roles out, by stages=[correlations,profile]"
        )
    rows = min(-(-wanted // context), found.rows)
    if rows < 2:
        raise ConfigurationError(
            f"roles.tokens ({wanted}) is less than two rows of {context} tokens, and one "
            "row has no spread: raise it"
        )
    untouched = {
        source.identity: (
            f"models of type {source.kind} are not intervened on, nor their attention read: "
            f"interventions know {' and '.join(ARCHITECTURES)}"
        )
        for source in found.sources.values()
        if source.kind not in ARCHITECTURES
    }
    return RolesPlan(
        models=found.everyone,
        references=found.references,
        untouched=untouched,
        named=find_named(found, untouched),
        shards=role_shards(rows, context),
        context=context,
    )


RESPONSE_BYTES = 450
"""Of a device's memory that pass for one token and neuron that responses are read of."""
READ_BYTES = 48
"""The same for one token, id of the vocabulary and intervention that is read out."""
ROW_BYTES = 4000
"""Of a neuron's scores and responses as they are stored, and in tables."""
USUAL_CLASSES = 600
"""Classes of tokens that neurons are held against."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """What of the roles is not there yet."""

    scores: tuple[Model, ...]
    responses: tuple[Model, ...]
    interventions: float
    """share of those that are declared at most, of which some are there"""


def chosen(options: RolesConfig) -> int:
    """Neurons of a model that are intervened on one by one, at most, those that are named aside."""
    return 2 * options.candidates + options.controls


def cut(plan: RolesPlan, options: RolesConfig) -> int:
    """Paths of a model that are ablated, at most."""
    strongest, _ = named_paths(options.paths)
    return strongest + max((len(each.paths) for each in plan.named.values()), default=0)


def settings(options: RolesConfig) -> int:
    """What each is held at or within, its mean aside."""
    return len(options.sweep) + len(options.sweep_pre) + len(options.bounds)


def single(plan: RolesPlan, options: RolesConfig) -> int:
    """Interventions on single neurons, at most."""
    named = max((len(each.neurons) for each in plan.named.values()), default=0)
    return (chosen(options) + named) * (settings(options) + 3)


def cost(
    plan: RolesPlan, found: Outline, recipe: Profile, memory: float, left: Left | None
) -> Cost:
    """What the roles take of workers with so many bytes; `left`: None where their tables stand."""
    models, footprint = list(dict.fromkeys(plan.models)), found.footprint
    groups = {
        m: layer_groups(m, recipe.vocabulary, memory=memory, footprint=footprint) for m in models
    }
    held = max(
        beside_layers(m, footprint)
        + footprint.copies * layer_bytes(m, recipe.vocabulary)
        * max(group.stop - group.start for group in groups[m])
        for m in models
    )
    # Logits of an untouched pass, of one that is measured, and what is made of these.
    tokens = min(SHARD_TOKENS, plan.tokens)
    read = max(weight_bytes(m) + 4 * 10 * tokens * recipe.vocabulary for m in models)
    device = {"responses": held, "interventions": read}
    return Cost(
        work=[] if left is None else _work(plan, found.study.roles, recipe, groups, left),
        kept=sum(m.neurons for m in models) * ROW_BYTES,
        device=device,
        host={"responses": layer_bytes(models[0], recipe.vocabulary)},
    )


def _work(
    plan: RolesPlan,
    options: RolesConfig,
    recipe: Profile,
    groups: Mapping[Model, Sequence[Layers]],
    left: Left,
) -> list[Share]:
    vocabulary, shards = recipe.vocabulary, len(plan.shards)
    written = sum(
        2 * m.neurons * vocabulary * (m.d_model + USUAL_CLASSES) for m in left.scores
    )
    read_for = {m: len(groups[m]) for m in left.responses}
    readings = sum(read_for.values())
    forward = sum(
        times * recipe.tokens * forward_flops(m, recipe.context) for m, times in read_for.items()
    )
    traffic = RESPONSE_BYTES * recipe.tokens * sum(m.neurons for m in read_for)
    work: list[tuple[str, str, int | float, int]] = [
        ("role scores", DOUBLE, written, len(left.scores)),
        ("responses", FORWARD, forward, readings),
        ("responses", TRAFFIC, traffic, readings),
    ]
    for m in plan.intervened:
        # Neurons that are chosen lie in the last layers, those that are named anywhere; sets in
        # all, one layer at a time and all together; a path is a head's attention with its query and
        # with what is left of it.
        layer = forward_flops(m, plan.context) / m.layers
        above = sum(m.layers - each // m.width for each in plan.named[m.identity].neurons)
        neurons, sets = chosen(options) + above, 2 * (1 + options.sets)
        read = single(plan, options) + sets * (1 + m.layers)
        alone = neurons * (settings(options) + 1) + cut(plan, options)
        passed = alone + sets * m.layers * (1 + m.layers / 2)
        flops = passed * layer + read * 2 * m.d_model * vocabulary
        tokens = plan.tokens * left.interventions
        bytes_read = READ_BYTES * vocabulary * read
        work += [
            ("interventions", SINGLE, tokens * flops, shards),
            ("interventions", TRAFFIC, tokens * bytes_read, shards),
        ]
    return [
        *(
            Share(name="roles", batch=batch, kind=kind, amount=amount, steps=steps)
            for batch, kind, amount, steps in work
        ),
        table_share(2 * sum(m.neurons for m in dict.fromkeys(plan.models))),
    ]


def describe(plan: RolesPlan, options: RolesConfig, tokens: int) -> list[tuple[str, str]]:
    """The plan as rows of a table on screen; `tokens`: those that responses are read on."""
    intervened, shards = len(plan.intervened), len(plan.shards)
    most, paths = 1 + single(plan, options), cut(plan, options)
    return [
        ("roles", f"of {sum(m.neurons for m in plan.models):,} neurons, from weights and "
         f"{tokens:,} tokens"),
        ("interventions", f"on {intervened} model{'s' if intervened != 1 else ''}: up to "
         f"{most:,} on single neurons, the universal ones ablated beside {options.sets} random "
         f"sets, {paths} paths; {plan.tokens:,} tokens in {shards} shards"),
    ]  # fmt: skip
