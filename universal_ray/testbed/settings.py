"""What decides how the embedded models are trained, but for their seeds."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything but the seed that decides a model."""

    layers: int = 3
    width: int = 192
    """d_model; an MLP has four times as many neurons"""
    heads: int = 4
    context: int = 128
    vocabulary: int = 1024
    batch: int = 32
    """rows of one step"""
    steps: int = 4200
    warmup: int = 200
    learning_rate: float = 3e-3
    """at its peak, after the warm-up; a cosine takes it to zero"""
    weight_decay: float = 0.1
    checkpoint_every: int = 200
    """steps between resumable checkpoints"""
    keep: list[int] = field(default_factory=list)
    """steps whose models are kept as directories of their own, to follow a seed through training"""
    compiled: bool = True
    """torch.compile: half as much time again on a CPU, needs a C++ compiler"""
