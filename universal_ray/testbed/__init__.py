"""Five tiny GPT-2 seeds and held-out text, embedded so that a study runs with no hub and no GPU."""

from pathlib import Path

MODEL_NAMES = ("a", "b", "c", "d", "e")

_DATA = Path(__file__).parent / "data"


def model_path(name: str) -> Path:
    """The Hugging Face directory of the embedded model `name`, one of MODEL_NAMES."""
    if name not in MODEL_NAMES:
        raise KeyError(f"There is no embedded model {name!r}; choose one of {MODEL_NAMES}.")
    return _DATA / name


def tokens_path() -> Path:
    """The `datasets` directory of held-out rows: columns `tokens` (uint16) and `subset`."""
    return _DATA / "tokens"


def resolve(name: str) -> str:
    """What `${testbed:name}` stands for: the path of a model, or of the held-out `tokens`."""
    return str(tokens_path() if name == "tokens" else model_path(name))
