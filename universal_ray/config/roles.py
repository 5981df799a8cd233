"""How roles of neurons are told: the options under `roles`."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from universal_ray.config.named import STRONGEST


class Bound(Enum):
    """What a neuron writes when what it reads passes a ReLU, or is no higher than 0."""

    relu = "relu"
    threshold = "threshold"


@dataclass(kw_only=True)
class RolesConfig:
    tokens: int = 16_384
    """Raw tokens, from the first row on, that models are intervened on."""
    sweep: list[float] = field(default_factory=lambda: [-0.17, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    """Activations that candidates and controls are held at; the paper's."""
    sweep_pre: list[float] = field(default_factory=list)
    """Pre-activations that they are held at."""
    bounds: list[Bound] = field(default_factory=list)
    """What else is done to them: relu, threshold."""
    candidates: int = 6
    """Entropy neurons, and token-frequency neurons, of each reference model at most."""
    controls: int = 20
    """Random neurons of the same layers."""
    sets: int = 5
    """Random sets that each set of universal neurons is ablated beside."""
    neurons: list[Any] = field(default_factory=list)
    """Neurons to intervene on beside these, as [23.945], or [a:23.945] for one model's."""
    paths: Any = STRONGEST
    """How many pairs of a neuron and a head have their path ablated, the strongest; or which beside
    these, as ["4.3594>5.0"], [">5.0"] for the neuron that moves a head most."""
    kurtosis: float = 10.0
    """Prediction and suppression neurons have a vocab_kurt above this,"""
    partition: float = 5.12
    """partition neurons a vocab_var above this many times a random direction's, 1 / channels (the
    paper's 0.005 in GPT2-medium, which has 1,024),"""
    null_share: float = 0.5
    """entropy neurons this share of w_out in the bottom singular directions of W_U (of neither
    paper: half of the length, where a random direction has an eighth),"""
    frequency: float = 0.5
    """token-frequency neurons this cosine with the unigram direction, in absolute value."""
    seed: int = 0
    """Of controls, random sets and random directions."""
