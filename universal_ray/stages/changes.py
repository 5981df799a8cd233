"""What a change of each key makes anew in a run that exists: told from what its artifacts declare.

The table of the README is written from here.
"""

from collections.abc import Sequence

from universal_ray.config.study import keys
from universal_ray.stages.sums import SUMS
from universal_ray.storage.artifacts import Artifact

BY_CONTENT = (
    "models.tokenizer", "corpus.path", "corpus.text", "corpus.seed", "corpus.align", "corpus.pool",
)  # fmt: skip
"""Keys that lead to something known by its content: tokens, tokenizers, segments."""
PLACES = ("cluster.address", "cluster.workers", "cluster.memory", "cluster.tflops")
"""Keys that say where and how fast work is done, and change nothing that is made."""
SHOWN = ("report.megabytes", "report.detail", "report.figures")
"""Keys that say how much of the tables the site tells."""

REFUSED = "refused: the sums could not be added up, choose another `run.dir`"
SAME = "nothing while it leads to the same tokens, tokenizers and segments, else refused"
NOTHING = "nothing"


def effect(key: str, artifacts: Sequence[Artifact]) -> str:
    """What a change of a key does to a run that exists, in words."""
    if key in SUMS.keys:
        return REFUSED
    if key in BY_CONTENT:
        return SAME
    if key in PLACES:
        return NOTHING
    if key in SHOWN:
        return "the site"
    if key in SUMS.grows_with:
        return f"{SUMS.name} of what is new, and all that is made of them"
    touched = [each for each in artifacts if each.touched_by(key)]
    decided = [each.name for each in touched if each.decided_by(key)]
    chosen = [each.name for each in touched if each.name not in decided]
    perhaps = f"; where it leads to other choices, {', '.join(chosen)}" if chosen else ""
    return ", ".join(decided) + perhaps


def table(artifacts: Sequence[Artifact]) -> str:
    """Markdown: keys that do the same together, in the order of the configuration."""
    together: dict[str, list[str]] = {}
    for key in keys():
        together.setdefault(effect(key, artifacts), []).append(f"`{key}`")
    rows = [f"| {', '.join(named)} | {what} |" for what, named in together.items()]
    return "\n".join(["| a change of | makes anew |", "|---|---|", *rows])
