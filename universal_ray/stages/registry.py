"""The stages of a run in their order: a new one is a folder, and a line for its tables.

A stage is made from `Inputs` and a store, and tells its plan from an `Outline`; its `artifacts`
name the kinds of files that it stores.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from universal_ray.storage.finished import ROLES, TABLES

if TYPE_CHECKING:
    from universal_ray.planning.costs import Cost
    from universal_ray.runtime.task import Stage
    from universal_ray.stages.inputs import Inputs, Outline
    from universal_ray.storage.artifacts import Artifact
    from universal_ray.storage.store import Store

STAGES = tuple(TABLES)
"""In their order: each builds on the one before. The name of each is that of its folder."""


def why_not(stage: str, site: str) -> str | None:
    """Why a stage cannot be made of the units of a site; None where it can."""
    if stage != ROLES:
        return None
    from universal_ray.config.site import LATENTS, SITES, content_of
    from universal_ray.models.site import Ask, site_of

    if content_of(site) not in (*SITES, LATENTS):
        return None
    units = site_of(site)
    return units.why_not(Ask.roles) if Ask.roles in units.lacks else None


def possible(site: str) -> tuple[str, ...]:
    """Stages that can be made of the units of a site."""
    return tuple(each for each in STAGES if why_not(each, site) is None)


@runtime_checkable
class Kind(Protocol):
    """What a stage's class is."""

    def __call__(self, inputs: "Inputs", store: "Store") -> "Stage": ...

    def describe(self, found: "Outline", store: "Store") -> list[tuple[str, str]]:
        """The plan as rows of a table on screen."""

    def cost(self, found: "Outline", store: "Store") -> "Cost":
        """What is left of it takes in time, and all of it in disk and memory."""


def stage(name: str) -> Kind:
    """The class of a stage, from its room `stage`; its modules are imported no sooner."""
    return getattr(room(name, "stage"), f"{name.capitalize()}Stage")


def artifacts() -> "tuple[Artifact, ...]":
    """Of all stages, each after what it is made of."""
    every = [each for name in STAGES for each in room(name, "artifacts").ARTIFACTS]
    return tuple(dict.fromkeys(every))


def room(stage: str, name: str) -> Any:
    """A module of a stage."""
    return import_module(f"universal_ray.stages.{stage}.{name}")
