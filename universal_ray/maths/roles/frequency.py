"""Token-frequency neurons: what neurons write along the direction of the unigram distribution.

After Stolfo et al., arXiv 2406.16254: such a neuron moves the prediction towards, or away from,
what is frequent anyway.

Shapes: N neurons, C channels of the residual stream, V vocabulary.
"""

from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor

from universal_ray.errors import ConfigurationError


@dataclass(frozen=True)
class Unigram:
    """How often ids occur, each counted once more than it is; float64."""

    probability_V: Tensor
    direction_V: Tensor
    """log probability, mean over the vocabulary taken out, of length one"""


def unigram(counts_V: Shaped[Tensor, "V"]) -> Unigram:
    """The distribution of a corpus that has each id so often.

    Raises ConfigurationError where all counts are equal, which gives no direction.
    """
    probability_V = (counts_V.double() + 1) / (counts_V.double() + 1).sum()
    log_V = probability_V.log()
    centred_V = log_V - log_V.mean()
    if not bool((counts_V != counts_V[0]).any()):
        raise ConfigurationError(
            "every id of the vocabulary is equally frequent in the corpus, so that frequency has "
            "no direction: give the counts of a corpus"
        )
    return Unigram(probability_V, centred_V / centred_V.norm())


@dataclass(frozen=True)
class Frequency:
    """What neurons write along the unigram direction; float64."""

    component_N: Tensor
    """w_out W_U · u: logits along u that one unit of activation adds"""
    cosine_N: Tensor
    """the same over the length of the centred logit effect; NaN for a neuron that writes nothing"""


def frequency_scores(
    w_out_NC: Float[Tensor, "N C"], unembed_CV: Float[Tensor, "C V"], found: Unigram
) -> Frequency:
    """How far each neuron's logit effect lies along the unigram direction.

    Adding one number to all logits changes no prediction, so the mean over the vocabulary is out
    of both. Lengths come from the C × C Gram of the unembedding: no neuron meets the vocabulary.
    """
    unembed_CV = unembed_CV.double()
    centred_CV = unembed_CV - unembed_CV.mean(1, keepdim=True)
    along_C = centred_CV @ found.direction_V.to(centred_CV.device)
    gram_CC = centred_CV @ centred_CV.T
    w_out_NC = w_out_NC.double()
    component_N = w_out_NC @ along_C
    square_N = ((w_out_NC @ gram_CC) * w_out_NC).sum(1).clamp_min(0)
    return Frequency(component_N, component_N / square_N.sqrt())
