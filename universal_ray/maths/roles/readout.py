"""What a model's logits say about the next token, and how far they are from the untouched model's.

Shapes: T tokens, V vocabulary.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from universal_ray.maths.roles.frequency import Unigram

MEASURES = {
    "loss": ("nats", "cross-entropy of the true next token"),
    "entropy": ("nats", "entropy of the prediction"),
    "reciprocal_rank": ("1", "1 / (1 + ids with a logit above the true next token's)"),
    "scale": ("1", "scale of the final LayerNorm, √(mean x² + ε) of the centred residual stream"),
    "kl": (
        "nats", "KL divergence of the prediction from the untouched model's, KL(untouched ‖ held)"
    ),
    "kl_unigram": (
        "nats", "KL divergence of the prediction from unigrams, KL(unigram ‖ held)"
    ),
    "top_changed": ("share", "tokens whose likeliest next token is another one than untouched"),
    "loss_shift": ("nats", "|loss - untouched loss|"),
    "kl_unigram_shift": ("nats", "|kl_unigram - untouched kl_unigram|"),
}
"""Every measure of one token by name, mean over tokens in tables: unit and meaning."""


class Reference:
    """The untouched model's prediction on some tokens, and the measures of others against it."""

    def __init__(
        self,
        logits_TV: Float[Tensor, "T V"],
        scale_T: Float[Tensor, "T"],
        target_T: Int[Tensor, "T"],
        unigram: Unigram,
    ) -> None:
        """`target_T`: the true next tokens."""
        self.scale_T = scale_T
        self._target_T1 = target_T[:, None]
        self._direction_V = unigram.direction_V.to(logits_TV)
        self._unigram_V = unigram.probability_V.to(logits_TV)
        self._unigram_entropy = float(torch.special.entr(unigram.probability_V).sum())
        self._along_T = logits_TV @ self._direction_V
        self._log_TV = logits_TV.log_softmax(1)
        self._probability_TV = self._log_TV.exp()
        self._top_T = self._log_TV.argmax(1)
        self._loss_T = self._loss(self._log_TV)
        self._kl_unigram_T = self._kl_unigram(self._log_TV)

    def hold_unigram_(self, logits_TV: Float[Tensor, "T V"]) -> Float[Tensor, "T V"]:
        """Give logits the untouched model's component along the unigram direction, in place."""
        lost_T = self._along_T - logits_TV @ self._direction_V
        return logits_TV.addr_(lost_T, self._direction_V)

    def measure(
        self, logits_TV: Float[Tensor, "T V"], scale_T: Float[Tensor, "T"]
    ) -> dict[str, Float[Tensor, "T"]]:
        """All of `MEASURES`, by token."""
        log_TV = logits_TV.log_softmax(1)
        loss_T = self._loss(log_TV)
        kl_unigram_T = self._kl_unigram(log_TV)
        above_T = (log_TV > log_TV.gather(1, self._target_T1)).sum(1)
        return {
            "loss": loss_T,
            "entropy": -torch.linalg.vecdot(log_TV.exp(), log_TV),
            "reciprocal_rank": 1 / (1 + above_T.to(log_TV.dtype)),
            "scale": scale_T,
            # Differences first: two sums of nearly equal logarithms would cancel.
            "kl": torch.linalg.vecdot(self._probability_TV, self._log_TV - log_TV),
            "kl_unigram": kl_unigram_T,
            "top_changed": (log_TV.argmax(1) != self._top_T).to(log_TV.dtype),
            "loss_shift": (loss_T - self._loss_T).abs(),
            "kl_unigram_shift": (kl_unigram_T - self._kl_unigram_T).abs(),
        }

    def _loss(self, log_TV: Tensor) -> Tensor:
        return -log_TV.gather(1, self._target_T1)[:, 0]

    def _kl_unigram(self, log_TV: Tensor) -> Tensor:
        return -self._unigram_entropy - log_TV @ self._unigram_V
