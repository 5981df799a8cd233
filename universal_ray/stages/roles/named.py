"""Neurons and paths that a study names, as those of its models. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from universal_ray.config.named import NamedNeuron, NamedPath, named_neurons, named_paths
from universal_ray.config.study import RolesConfig
from universal_ray.errors import ConfigurationError
from universal_ray.planning.items import Model
from universal_ray.stages.inputs import Outline

STRONGEST = -1
"""In the place of a neuron: that which moves the head most."""


@dataclass(frozen=True)
class Named:
    """What is named of one reference model."""

    neurons: tuple[int, ...] = ()
    """flat indices, sorted"""
    paths: tuple[tuple[int, int], ...] = ()
    """flat indices of neuron and head, in the order named"""


def find_named(found: Outline, untouched: Mapping[str, str]) -> dict[str, Named]:
    """By identity of every reference model: what is named of one is of all with its weights.
    `untouched`: by identity of a model that is not intervened on, why.

    Raises ConfigurationError for what a model does not have, or nothing can be done to.
    """
    options = found.study.roles
    neurons, (_, paths) = named_neurons(options.neurons), named_paths(options.paths)
    _check_models(found, options)
    named: dict[str, Named] = {}
    for model in found.references:
        heads = found.sources[model.identity].heads
        mine = [each for each in neurons if _is_of(each, model)]
        cut = [each for each in paths if _is_of(each, model)]
        if (mine or cut) and model.identity in untouched:
            key, text = ("roles.neurons", mine[0].text) if mine else ("roles.paths", cut[0].text)
            raise ConfigurationError(
                f"{key} names {text}, of {model.name} too, and {untouched[model.identity]}: leave "
                "it out, or put before it the model that it is of"
            )
        before = named.get(model.identity, Named())
        flat = {_neuron("roles.neurons", each, model) for each in mine}
        path = dict.fromkeys(_path(each, model, heads) for each in cut)
        named[model.identity] = Named(
            tuple(sorted(flat.union(before.neurons))), tuple(dict.fromkeys((*before.paths, *path)))
        )
    return named


def _is_of(each: NamedNeuron | NamedPath, model: Model) -> bool:
    return each.model in (None, model.name, model.given)


def _check_models(found: Outline, options: RolesConfig) -> None:
    for key, named in (
        ("roles.neurons", named_neurons(options.neurons)),
        ("roles.paths", named_paths(options.paths)[1]),
    ):
        for each in named:
            if not any(_is_of(each, model) for model in found.references):
                names = ", ".join(dict.fromkeys(model.name for model in found.references))
                raise ConfigurationError(
                    f"{key} names {each.text}, and no reference model is called {each.model}: "
                    f"choose from {names}"
                )


def _neuron(key: str, each: NamedNeuron, model: Model) -> int:
    if each.layer >= model.layers or each.neuron >= model.width:
        raise ConfigurationError(
            f"{key} names {each.text}, and {model.name} has {model.layers} layers of {model.width} "
            "neurons, both counted from 0: name one of these"
        )
    return each.layer * model.width + each.neuron


def _path(each: NamedPath, model: Model, heads: int) -> tuple[int, int]:
    if each.layer >= model.layers or each.head >= heads:
        raise ConfigurationError(
            f"roles.paths names {each.text}, and {model.name} has {model.layers} layers of {heads} "
            "heads, both counted from 0: name one of these"
        )
    if each.layer <= (each.neuron.layer if each.neuron else 0):
        raise ConfigurationError(
            f"roles.paths names {each.text}, and neurons reach heads of later layers alone: name a "
            "head of one"
        )
    neuron = STRONGEST if each.neuron is None else _neuron("roles.paths", each.neuron, model)
    return neuron, each.layer * heads + each.head
