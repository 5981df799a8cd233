"""What the profile of a study will take, told before anything is read or run. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from universal_ray.config.study import Device
from universal_ray.planning.capacity import RING_BYTES, Footprint, size
from universal_ray.planning.costs import (
    FORWARD,
    HOST,
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
    layer_groups,
)
from universal_ray.stages.profile.artifacts import Profile


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The recipe of a profile, and what its work fits into."""

    recipe: Profile
    topics: int
    footprint: Footprint
    memory: float
    """bytes a worker may use"""

    @property
    def bytes(self) -> int:
        """Of all sums by token id, on disk."""
        recipe = self.recipe
        return sum(
            recipe.layer_bytes(model) * model.layers
            for model in dict.fromkeys(recipe.models)
        ) * len(recipe.shards)

    @property
    def readings(self) -> int:
        """How often tokens are read for a model at most: as many as its sums have parts.

        Raises ConfigurationError where not even one layer fits a worker.
        """
        return max(len(self.groups(model)) for model in self.recipe.models)

    def groups(self, model: Model) -> tuple[Layers, ...]:
        """Layers whose sums are held together."""
        recipe = self.recipe
        return layer_groups(
            model, recipe.vocabulary, memory=self.memory, footprint=self.footprint,
            more=recipe.histogram_bytes,
        )  # fmt: skip


STATISTICS_BYTES = 400
"""Of a device's memory that pass for one token and neuron."""
LABEL_SECONDS = 3e-5
"""Of one CPU thread for a token's labels and what they are made of, once for all models."""
SCORE_FLOPS = 25e9
"""A second that one CPU thread makes of the scores of a layer, in float64."""
WEIGHT_FLOPS = 50e9
"""The same of the statistics of weights, in float32."""
USUAL_FEATURES = 600
"""Columns of a bank that is not there yet."""
ROW_BYTES = 3500
"""Of a neuron's statistics as they are stored, and in tables, beside what follows."""
SCORE_BYTES, ENTRY_BYTES, EXAMPLE_BYTES = 16, 400, 150
"""Of its score for a feature, of a place in all its lists, of an example."""
LABEL_BYTES = 16
"""Of a token's."""


def cost(
    plan: Plan,
    left: Sequence[tuple[Model, Shard]],
    unscored: Sequence[tuple[Model, int]],
    *,
    done: bool,
) -> Cost:
    """What the profile takes; `left`: shards of models that are not summed, `unscored`: layers
    without scores, `done`: whether its tables stand.
    """
    recipe = plan.recipe
    models = list(dict.fromkeys(recipe.models))
    together = {m: max(group.stop - group.start for group in plan.groups(m)) for m in models}
    layer = max(map(recipe.layer_bytes, models))
    copies = plan.footprint.copies
    held = max(
        beside_layers(m, plan.footprint) + copies * n * recipe.layer_bytes(m)
        for m, n in together.items()
    )
    scoring = (len(recipe.shards) + 4) * layer  # every shard's, their sum, means, what is scored
    device = {"statistics": held}
    if plan.footprint.device is Device.cpu:
        device["scores"] = scoring
    neurons = sum(model.neurons for model in models)
    row = ROW_BYTES + SCORE_BYTES * USUAL_FEATURES + 2 * recipe.histogram_bytes
    row += ENTRY_BYTES * recipe.listed + EXAMPLE_BYTES * recipe.examples
    return Cost(
        work=[] if done else _work(plan, left, unscored),
        kept=plan.bytes + neurons * row + recipe.tokens * LABEL_BYTES,
        device=device,
        host={
            "statistics": RING_BYTES + max(
                n * recipe.layer_bytes(m) for m, n in together.items()
            ),
            "scores": scoring,
        },
    )


def _work(
    plan: Plan, left: Sequence[tuple[Model, Shard]], unscored: Sequence[tuple[Model, int]]
) -> list[Share]:
    recipe = plan.recipe
    forward = values = labels = host = 0.0
    for model, shard in left:
        tokens = (shard.stop - shard.start) * recipe.context
        forward += tokens * len(plan.groups(model)) * forward_flops(model, recipe.context)
        values += tokens * model.neurons
    for shard in dict.fromkeys(shard for _, shard in left):
        labels += LABEL_SECONDS * (shard.stop - shard.start) * recipe.context
    models, vocabulary = list(dict.fromkeys(recipe.models)), recipe.vocabulary
    for m in models if left and recipe.weightless is None else ():
        # What is read and written of the vocabulary, how alike neurons are by what they read, write
        # and both, and the maps of heads.
        products = 2 * m.neurons * m.d_model * (
            3 * vocabulary + 3 * m.neurons + 4 * m.layers * m.d_model
        )
        host += products / WEIGHT_FLOPS
    scored = 4 * USUAL_FEATURES * vocabulary * sum(model.width for model, _ in unscored)
    work = (
        ("statistics", FORWARD, forward, len(left)),
        ("statistics", TRAFFIC, STATISTICS_BYTES * values, len(left)),
        ("features and labels", HOST, labels, len(recipe.shards)),
        ("topics and weights", HOST, host, len(models)),
        ("scores", HOST, scored / SCORE_FLOPS, len(unscored)),
    )
    return [
        *(
            Share(name="profile", batch=batch, kind=kind, amount=amount, steps=steps)
            for batch, kind, amount, steps in work
        ),
        table_share(2 * sum(m.neurons for m in models)),
    ]


def describe(plan: Plan, counts: dict[str, int] | None, unit: str) -> list[tuple[str, str]]:
    """The plan as rows of a table on screen; `counts`: features `ids` and `rows` of a bank that is
    there; `unit`: what its units are called.
    """
    recipe, readings = plan.recipe, plan.readings
    neurons = sum(model.neurons for model in recipe.models)
    return [
        ("profile", f"{len(recipe.models)} models, {neurons:,} {unit}s, {recipe.tokens:,} tokens "
         f"in {len(recipe.shards)} shards"),
        ("features", f"{counts['ids']} of the token id, each on two tokens, and {counts['rows']} "
         "of the row" if counts else _asked(plan)),
        ("sums", f"{size(plan.bytes)} on disk; {readings} reading{'s' if readings > 1 else ''} of "
         "each shard"),
    ]  # fmt: skip


def _asked(plan: Plan) -> str:
    """Features by what is asked for: how many there are, the tokens say."""
    lists = len(plan.recipe.settled["taxonomy.words"])
    syntax = plan.recipe.syntax
    return (
        f"by {lists} word lists, spelling and frequency of the token id, each on two tokens; by "
        f"position, {f'syntax ({syntax}), ' if syntax else ''}"
        f"{f'{plan.topics} topics, ' if plan.topics else ''}and subsets of the row"
    )
