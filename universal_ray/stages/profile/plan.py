"""What the profile of a study will take, told before anything is read or run. Pure."""

from dataclasses import dataclass

from universal_ray.planning.capacity import Footprint, size
from universal_ray.planning.shards import layer_bytes, layer_groups
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
            layer_bytes(model, recipe.vocabulary) * model.layers
            for model in dict.fromkeys(recipe.models)
        ) * len(recipe.shards)

    @property
    def readings(self) -> int:
        """How often tokens are read for a model at most: as many as its sums have parts.

        Raises ConfigurationError where not even one layer fits a worker.
        """
        ids = self.recipe.vocabulary
        return max(
            len(layer_groups(model, ids, memory=self.memory, footprint=self.footprint))
            for model in self.recipe.models
        )


def describe(plan: Plan, counts: dict[str, int] | None) -> list[tuple[str, str]]:
    """The plan as rows of a table on screen; `counts`: features `ids` and `rows` of a bank that is
    there.
    """
    recipe, readings = plan.recipe, plan.readings
    neurons = sum(model.neurons for model in recipe.models)
    return [
        ("profile", f"{len(recipe.models)} models, {neurons:,} neurons, {recipe.tokens:,} tokens "
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
        f"position, {f'syntax ({syntax}), ' if syntax else ''}{plan.topics} topics and subsets of "
        "the row"
    )
