"""Which measures of whole layers are made: the options under `similarity`."""

from dataclasses import dataclass, field
from enum import Enum


class Measure(Enum):
    """How alike one layer is to another."""

    cka = "cka"
    """linear centred kernel alignment"""
    svcca = "svcca"
    """mean canonical correlation of the leading components"""
    pwcca = "pwcca"
    """mean canonical correlation, weighted by what variates have to do with the neurons"""
    procrustes = "procrustes"
    """up to a rotation and a scale"""
    regression = "regression"
    """share of the other layer's variance that a linear map explains"""
    best = "best"
    """mean best correlation"""
    mutual = "mutual"
    """share of neurons with mutual best partners"""
    matching = "matching"
    """mean correlation of the best one-to-one matching"""
    partial = "partial"
    """share of neurons in the best matching that may leave neurons alone"""


@dataclass(kw_only=True)
class SimilarityConfig:
    measures: list[Measure] = field(default_factory=list)
    """Of every layer beside every layer of another model, none unless asked for: `cka`, `svcca`,
    `pwcca`, `procrustes`, `regression` (whatever the basis), `best`, `mutual`, `matching`,
    `partial` (neuron by neuron); all but `cka` take long in wide layers, as the plan says."""
