"""The stages of a run in their order: a new one is a folder and a line here.

A stage is made from `Inputs` and a store, and tells its plan from an `Outline`; its `artifacts`
name the kinds of files that it stores.
"""

from importlib import import_module
from typing import Any, Protocol

from universal_ray.runtime.task import Stage
from universal_ray.stages.inputs import Inputs, Outline
from universal_ray.storage.artifacts import Artifact
from universal_ray.storage.store import Store

STAGES = {
    "correlations": "CorrelationStage",
    "profile": "ProfileStage",
    "roles": "RolesStage",
}
"""By name, which is that of its folder, the class in its room `stage`."""


class Kind(Protocol):
    """What a stage's class is."""

    def __call__(self, inputs: Inputs, store: Store) -> Stage: ...

    def describe(self, found: Outline, store: Store) -> list[tuple[str, str]]:
        """The plan as rows of a table on screen."""


def stage(name: str) -> Kind:
    """The class of a stage; its modules are imported no sooner."""
    return getattr(_room(name, "stage"), STAGES[name])


def artifacts() -> tuple[Artifact, ...]:
    """Of all stages, each after what it is made of."""
    every = [each for name in STAGES for each in _room(name, "artifacts").ARTIFACTS]
    return tuple(dict.fromkeys(every))


def _room(name: str, room: str) -> Any:
    return import_module(f"universal_ray.stages.{name}.{room}")
