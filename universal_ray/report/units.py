"""What the units of a run and its baseline are called, where it is told of them: in most runs they
are neurons, and what they are held against is rotated.
"""

import re
from collections.abc import Mapping
from typing import Any

NEURON = "neuron"
_SAID = re.compile(r"(?<![\w./-])([Nn])euron(s?)(?![\w/]|\.\w)")
"""The word in a sentence, not in the name of a file, a column or an option."""


def unit(summary: Mapping[str, Any]) -> str:
    """By its summary; earlier versions, which do not say it, knew neurons alone."""
    return str(summary.get("unit_kind", NEURON))


def chance(summary: Mapping[str, Any]) -> str:
    """What other models are for the baseline; earlier versions, which do not say it, knew rotations
    alone.
    """
    return str(summary.get("chance", "rotated"))


def no_neurons(summary: Mapping[str, Any]) -> str:
    """A sentence for tables, which say "neuron" of every unit; none where they are neurons."""
    called = unit(summary)
    if called == NEURON:
        return ""
    told = f"What tables call a neuron is a {called} here, the unit of the site {summary['site']}."
    places = summary["models"][0].get("places", ()) if summary.get("models") else ()
    other = [f"layer {layer} reads {place}" for layer, place in enumerate(places)
             if not place.endswith(f" {layer}")]  # fmt: skip
    return f"{told} Of these, {', '.join(other)}." if other else told


def other_models(count: int) -> str:
    """So many other models."""
    return f"{count} other model{'s' * (count != 1)}"


def worded(text: str, called: str) -> str:
    """A sentence on neurons, about units that are called otherwise."""
    return _SAID.sub(lambda found: _like(found[1], called) + found[2], text)


def _like(letter: str, word: str) -> str:
    return word.capitalize() if letter.isupper() else word
