"""Every figure, and what each figure of the paper has become. The gallery, `docs/figures.md` and
the tests follow these lists.
"""

from dataclasses import dataclass

from universal_ray.report.figures import (
    correlations,
    effects,
    logits,
    responses,
    similarity,
    statistics,
)
from universal_ray.report.figures.figure import Figure

FIGURES: tuple[Figure, ...] = (
    *correlations.FIGURES, *similarity.FIGURES, *statistics.FIGURES, *responses.FIGURES,
    *logits.FIGURES, *effects.FIGURES,
)  # fmt: skip


@dataclass(frozen=True)
class OfThePaper:
    """A figure of arXiv 2401.12181."""

    number: int
    shows: str
    lacking: str = ""
    """what of it is not drawn, and why, in one sentence"""


PAPER = (
    OfThePaper(1, "a neuron of each kind: letters, the token before, position, context, "
               "suppression, entropy"),
    OfThePaper(2, "the main model: densities, spread over the models, layers of the best matches"),
    OfThePaper(3, "percentiles in their layer of universal neurons, three models",
               "Models of three families are three runs, with a figure each."),
    OfThePaper(4, "duplicates, a neuron of syntax, neurons of places",
               "(c) has the most frequent tokens alone, as the table has no others by subset."),
    OfThePaper(5, "logits of a neuron of prediction, of suppression and of partition"),
    OfThePaper(6, "kurtosis and skewness of logits by layer, five seeds"),
    OfThePaper(7, "an entropy neuron and an anti-entropy neuron beside random ones",
               "(b), its cosine with every other neuron, is not drawn: roles.parquet has the "
               "smallest alone, as antipode_cosine."),
    OfThePaper(8, "scores of neurons on heads, one ablated path"),
    OfThePaper(9, "how often a neuron fires, and the cosine of its input and output"),
    OfThePaper(10, "largest cosines with any other neuron"),
    OfThePaper(11, "densities of three models",
               "Models of three families are three runs, with a figure each."),
    OfThePaper(12, "Figure 2 of GPT-2 small"),
    OfThePaper(13, "Figure 2 of Pythia-160m"),
    OfThePaper(14, "statistics by layer, universal neurons and others"),
    OfThePaper(15, "duplicates by role of the token in its word",
               "Roles are told of all tokens, as the table has none of a feature's tokens alone."),
    OfThePaper(16, "thirty more neurons of tokens"),
    OfThePaper(17, "neurons of letters",
               "Tokens that begin with the letter are no class of their own: the table has with "
               "and without the feature."),
    OfThePaper(18, "neurons of the token before"),
    OfThePaper(19, "neurons of position: mean and deviation before and after the activation "
               "function"),
    OfThePaper(20, "neurons of syntax"),
    OfThePaper(21, "neurons of context by subset of the Pile",
               "Histograms are of the subset with the largest mean and of all others, and take "
               "`taxonomy.subset_histograms=true`."),
    OfThePaper(22, "Figure 6 of five sizes of Pythia",
               "Sizes are runs of their own, with a figure each."),
    OfThePaper(23, "thirty neurons of prediction, suppression and partition"),
    OfThePaper(24, "neurons of five classes: logits, and activations by the true next token",
               "Drawn are the neurons with the largest correlations, and no class is chosen by "
               "hand."),
    OfThePaper(25, "Figure 7 of GPT-2 small", "As there, (b) is not drawn."),
    OfThePaper(26, "five more ablated paths"),
)  # fmt: skip
