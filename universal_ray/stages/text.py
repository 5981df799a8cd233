"""The text that the tokens of a study are made of, and where they lie."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

from universal_ray.config.study import Study
from universal_ray.corpus.documents import TextSettings
from universal_ray.errors import ConfigurationError
from universal_ray.storage.store import Store


@dataclass(frozen=True)
class Text:
    """Text that is tokenised, and where to."""

    settings: TextSettings
    destination: str

    @property
    def context(self) -> int:
        return self.settings.context

    @property
    def begun(self) -> bool:
        """Whether the folder holds something; `tokenise` says whether it is what is wanted."""
        target = Path(self.destination)
        return target.is_dir() and any(target.iterdir())


def text_of(study: Study, store: Store) -> Text | None:
    """The text that a study is to be made of, where its tokens are not given."""
    text = study.corpus.text
    if text is None:
        return None
    if text.prepared is None and "://" in store.url:
        raise ConfigurationError(
            f"run.dir ({store.url}) is not a directory that text can be tokenised into: "
            "set corpus.text.prepared to one that all nodes share"
        )
    # With more tokens another directory, whose first rows are the same: so a run grows.
    beside = Path(store.url) / f"corpus-{study.corpus.tokens or 'all'}"
    destination = str(Path(os.path.expanduser(text.prepared)) if text.prepared else beside)
    given = {each.name: getattr(text, each.name) for each in fields(text)}
    del given["prepared"]
    settings = TextSettings(
        **{**given, "join": text.join.value, "unicode": text.unicode and text.unicode.value},
        context=study.corpus.context or 512,
        tokens=study.corpus.tokens,
        seed=study.corpus.seed,
    )
    return Text(settings, destination)


def beside_tokens(corpus: str, store: Store) -> Path:
    """The folder for what is made of the tokens in `corpus`: the run directory, or, where that is
    no directory, the folder that they lie in.
    """
    return Path(corpus).parent if "://" in store.url else Path(store.url)
