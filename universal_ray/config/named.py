"""Neurons, heads and paths that a study names: `23.945`, `>5.0`, `4.3594>5.0`, each with the model
before it where it is of one alone, `a:23.945`.
"""

import re
from dataclasses import dataclass
from typing import Any

from universal_ray.errors import ConfigurationError

MODEL = r"(?:(?P<model>.+):)?"
NEURON = re.compile(MODEL + r"(?P<layer>\d+)\.(?P<neuron>\d+)")
PATH = re.compile(MODEL + r"(?:(?P<layer>\d+)\.(?P<neuron>\d+))?>(?P<above>\d+)\.(?P<head>\d+)")
STRONGEST = 8
"""Paths that are ablated where a study says nothing of how many."""


@dataclass(frozen=True)
class NamedNeuron:
    """A neuron of one reference model, or of each."""

    text: str
    """as it was named"""
    model: str | None
    layer: int
    neuron: int


@dataclass(frozen=True)
class NamedPath:
    """A path into the queries of a head, from a neuron or, without one, from that which moves the
    head most.
    """

    text: str
    model: str | None
    neuron: NamedNeuron | None
    layer: int
    """of the head"""
    head: int


def named_neurons(given: Any) -> tuple[NamedNeuron, ...]:
    """Those of `roles.neurons`. Raises ConfigurationError for what names none."""
    found = []
    for text in _texts("roles.neurons", given):
        told = NEURON.fullmatch(text)
        if told is None:
            raise ConfigurationError(
                f"roles.neurons has {text}, which names no neuron: write layer.neuron, as 23.945, "
                "or model:layer.neuron"
            )
        found.append(_neuron(text, told))
    return tuple(found)


def named_paths(given: Any) -> tuple[int, tuple[NamedPath, ...]]:
    """How many of the strongest paths `roles.paths` asks for, and those that it names.

    Raises ConfigurationError for what is neither.
    """
    if isinstance(given, int) and not isinstance(given, bool):
        return _count(given), ()
    count, found = STRONGEST, []
    for text in _texts("roles.paths", given):
        told = PATH.fullmatch(text)
        if text.isdecimal():
            count = _count(int(text))
        elif told is None:
            raise ConfigurationError(
                f"roles.paths has {text}, which names no path: write layer.neuron>layer.head, as "
                "4.3594>5.0, >layer.head for the neuron that moves a head most, or how many of the "
                "strongest"
            )
        else:
            neuron = _neuron(text, told) if told["layer"] else None
            found.append(
                NamedPath(text, told["model"], neuron, int(told["above"]), int(told["head"]))
            )
    return count, tuple(found)


def _neuron(text: str, told: re.Match[str]) -> NamedNeuron:
    return NamedNeuron(text, told["model"], int(told["layer"]), int(told["neuron"]))


def _count(given: int) -> int:
    if given < 1:
        raise ConfigurationError(f"roles.paths is {given}: give a number of at least 1")
    return given


def _texts(key: str, given: Any) -> list[str]:
    """Entries of a list, each once. Raises ConfigurationError for numbers with a point: 23.10 is
    another neuron than 23.1, and the same number.
    """
    if not isinstance(given, list | tuple):
        raise ConfigurationError(f"{key} is {given!r}: give a list, as {key}=[4.1]")
    for each in given:
        if isinstance(each, float):
            raise ConfigurationError(
                f"{key} has the number {each}, which may be short for another neuron: put its name "
                "in quotes"
            )
    texts = [str(each) for each in given]
    for each in texts:
        if texts.count(each) > 1:
            raise ConfigurationError(f"{key} names {each} twice: name it once")
    return texts
