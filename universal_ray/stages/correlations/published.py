"""What the paper publishes about its own studies, to stand beside ours.

Source: arXiv 2401.12181, section 4.1, and counts in the authors' released tables of universal
neurons (for GPT2-medium the text says 1253, its table and its percentage say 1211).
"""

from universal_ray.maths.moments.shift import SHIFTED

STUDIES = {
    "stanford-crfm/alias-gpt2-small-x21": {
        "universal": 1533,
        "universal_share": 0.041585,
        "universal_by_layer": [222, 244, 101, 110, 71, 72, 56, 112, 101, 142, 125, 177],
        "spread_universal": 0.1145,
    },
    "stanford-crfm/arwen-gpt2-medium-x21": {
        "universal": 1211,
        "universal_share": 0.012319,
        "universal_by_layer": [
            132, 140, 44, 40, 40, 30, 23, 21, 26, 24, 25, 17,
            36, 36, 57, 52, 53, 56, 49, 55, 46, 52, 61, 96,
        ],
        "spread": 0.0492,
        "spread_universal": 0.1053,
    },
    "EleutherAI/pythia-160m": {
        "universal": 465,
        "universal_share": 0.012614,
        "universal_by_layer": [64, 14, 19, 5, 27, 34, 43, 39, 67, 50, 50, 53],
        "spread_universal": 0.0910,
    },
}
"""By hub id of the reference; `spread` is the mean of max_corr - min_corr over neurons."""


def published(name: str, site: str, chance: str) -> dict | None:
    """The published figures for the units of a site in a reference model, or None: the paper's are
    neurons, by what they write, over rotated models.
    """
    if site != "mlp_post" or chance == SHIFTED:
        return None
    return STUDIES.get(name.split("@")[0])
