"""What decides how the embedded models, and sparse autoencoders of models, are trained, but for
their seeds and models.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Text(StrEnum):
    """What a seed is trained on."""

    python = "python"
    """what every CPython carries"""
    packages = "packages"
    """that, and what some of the pinned packages carry: eight times as much"""


class Products(StrEnum):
    """The type of matrix products in training."""

    bfloat16 = "bfloat16"
    """for GPUs: on a CPU without AVX-512 BF16 it takes eight times as long as `float32`"""
    float32 = "float32"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything but the seed that decides a model."""

    text: Text = Text.packages
    layers: int = 2
    width: int = 256
    """d_model; an MLP has four times as many neurons"""
    heads: int = 4
    context: int = 128
    vocabulary: int = 512
    batch: int = 8
    """rows of one step"""
    steps: int = 3906
    warmup: int = 200
    learning_rate: float = 2e-3
    """at its peak, after the warm-up; a cosine takes it to zero"""
    weight_decay: float = 1.0
    checkpoint_every: int = 200
    """steps between resumable checkpoints"""
    keep: list[int] = field(default_factory=list)
    """steps whose models are kept as directories of their own, to follow a seed through training"""
    dropout: float = 0.0
    """of embeddings, attention and what each layer adds to the residual stream"""
    products: Products = Products.float32
    compiled: bool = False
    """torch.compile: half as much time again on a CPU, needs a C++ compiler"""


@dataclass(frozen=True, kw_only=True)
class CoderSettings:
    """Everything but the model and the tokens that decides its sparse autoencoders."""

    hook: str = "hook_mlp_out"
    """where in a block they read, as transformer_lens calls it"""
    latents: int = 1024
    """of one layer"""
    k: int = 16
    """latents of a token that are not zero"""
    steps: int = 600
    rows: int = 32
    """of tokens, of one step"""
    first: int = 1024
    """rows that are left out at the start: the default study reads some of them"""
    learning_rate: float = 1e-3
    seed: int = 0
    """of the first weights and of the order of the rows"""
