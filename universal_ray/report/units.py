"""What the units of a run and its baseline are called, where it is told of them: in most runs they
are neurons, and what they are held against is rotated.
"""

from collections.abc import Mapping
from typing import Any

NEURON = "neuron"


def unit(summary: Mapping[str, Any]) -> str:
    """By its summary; earlier versions, which do not say it, knew neurons alone."""
    return str(summary.get("unit_kind", NEURON))


def chance(summary: Mapping[str, Any]) -> str:
    """What other models are for the baseline; earlier versions, which do not say it, knew rotations
    alone.
    """
    return str(summary.get("chance", "rotated"))


def no_neurons(summary: Mapping[str, Any]) -> str:
    """A sentence for what says "neuron" of every unit; none where they are neurons."""
    called = unit(summary)
    if called == NEURON:
        return ""
    return f"What is called a neuron here is a {called}, the unit of the site {summary['site']}."
