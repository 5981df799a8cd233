"""What measures of whole layers take: time and memory. Pure.

A step is one layer of a pair's first model beside all layers of its second.
"""

from collections.abc import Sequence

from universal_ray.planning.costs import DOUBLE, HOST, TRAFFIC, Share
from universal_ray.planning.items import Item

MATCH_SECONDS = 7e-8
"""Of one CPU thread to match all neurons of two models, for each pair of neurons: 24 s of 18,432
neurons each."""
ASSIGN_SECONDS = 3e-7
"""The same of two layers, where every neuron may go with every other: 2.8 s of 3072 each."""
PASSES = 44
"""Times that each number of a sum goes through memory in one reading: made float64, added, centred,
picked and scaled: by 0.77 s of one CPU thread for 6 groups of layers of 1,024 neurons."""
EIGEN = 12
"""FLOP of a decomposition into components, for n³,"""
SINGULAR = {"svcca": 4, "pwcca": 22, "procrustes": 4, "regression": 0}
"""and of what each measure makes of components."""
OF_NEURONS = {"best", "mutual", "matching", "partial"}
ASSIGNING = {"matching", "partial"}
LIST_BYTES = 400
"""Of a neuron's list of the best, its pairs as a graph."""


def similarity_work(
    draws: int,
    measures: Sequence[str],
    groups: int,
    matchings: Sequence[Item],
    similarities: Sequence[tuple[Item, int]],
    *,
    shifted: bool,
) -> list[Share]:
    """Of pairs to match, and of layers of pairs to measure; `groups`: what the jackknife leaves
    out; `draws`: of the baseline, which are rotations, or sums where `shifted`.
    """
    found = []
    if matchings:
        seconds = sum(MATCH_SECONDS * first.neurons * second.neurons
                      for first, second in (pair.models for pair in matchings))  # fmt: skip
        found.append(_share("matchings", HOST, seconds, len(matchings)))
    if not similarities:
        return found
    double = traffic = host = 0.0
    for pair, _ in similarities:
        first, second = pair.models
        left, right, layers = first.width, second.width, second.layers
        product = left * right * (left + right) * layers
        squares = left**2 + layers * right**2
        traffic += PASSES * 8 * 2 * groups * (left * second.neurons + squares)
        if OF_NEURONS & {*measures} and shifted:
            traffic += PASSES * 8 * draws * left * second.neurons
        elif OF_NEURONS & {*measures}:
            double += 2 * draws * product
        host += (
            ASSIGN_SECONDS * left * second.neurons * (1 + 2 * draws) * len(ASSIGNING & {*measures})
        )
        if of_components := SINGULAR.keys() & {*measures}:
            double += (1 + groups) * (EIGEN * (left**3 + layers * right**3) + 2 * product)
            each = sum(SINGULAR[name] for name in of_components)
            double += (1 + groups + draws) * each * layers * min(left, right) ** 2 * max(
                left, right
            )
    steps = len(similarities)
    return found + [
        _share("similarities", kind, amount, steps)
        for kind, amount in ((TRAFFIC, traffic), (DOUBLE, double), (HOST, host)) if amount
    ]  # fmt: skip


def _share(name: str, kind: str, amount: float, steps: int) -> Share:
    return Share(name=name, batch=name, kind=kind, amount=amount, steps=steps)


def matching_bytes(pair: Item) -> int:
    """To match all neurons of two models."""
    return 20 * LIST_BYTES * sum(model.neurons for model in pair.models)


def similarity_bytes(pair: Item, draws: int, measures: Sequence[str], *, shifted: bool) -> int:
    """Float64, of one step: cross sums of all tokens, of a group, as they are added, centred; Grams
    of all tokens, of a group, as they are added; what two layers take; and correlations by chance,
    of two layers or, `shifted`, of one with all.
    """
    first, second = pair.models
    left, right = first.width, second.width
    cross = 4 * left * second.neurons
    grams = 0
    if {*measures} - OF_NEURONS:
        grams = 3 * (left**2 + second.layers * right**2)
    drawn = draws * left * (second.neurons if shifted else 2 * right)
    drawn = drawn if OF_NEURONS & {*measures} else 0
    return 8 * (cross + grams + drawn + 8 * max(left, right) ** 2)
