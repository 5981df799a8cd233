"""A small study of all stages, and what can be done to it and to its run directory."""

import os
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from helpers_models import make_gpt2
from helpers_stages import Sending, Wrapped
from helpers_study import ALL, CONTEXT, VOCABULARY, make, make_tokens

from universal_ray.config.report import ReportConfig
from universal_ray.config.similarity import Measure, SimilarityConfig
from universal_ray.config.study import (
    BaselineConfig,
    ClusterConfig,
    CorpusConfig,
    ModelsConfig,
    RolesConfig,
    RunConfig,
    Study,
    TaxonomyConfig,
    UnitsConfig,
    UniversalConfig,
)
from universal_ray.runtime.journal import Journal
from universal_ray.runtime.task import Batch

ROWS = 12


def make_inputs(folder: Path) -> tuple[list[str], str]:
    """Two models of 2 x 32 neurons, and rows of tokens."""
    models = [
        str(make_gpt2(folder / name, seed, width=8, vocabulary=VOCABULARY, context=CONTEXT))
        for seed, name in enumerate("ab")
    ]
    return models, make_tokens(folder / "tokens", ROWS)


def whole_study(folder: Path, models: list[str], tokens: str, **changes: Any) -> Study:
    """Two units that fold into a block, one short unit after them; a shard of the profile.

    Any key may be another, with `__` for its dot: `whole_study(..., roles__sets=2)`.
    """
    study = Study(
        run=RunConfig(dir=str(folder)),
        models=ModelsConfig(reference=models[0], compared=models[1:]),
        corpus=CorpusConfig(path=tokens),
        units=UnitsConfig(tokens=5 * CONTEXT, batch=5 * CONTEXT, fold=2),
        cluster=ClusterConfig(workers=1),
        baseline=BaselineConfig(rotations=2),
        universal=UniversalConfig(threshold=0.02),
        similarity=SimilarityConfig(measures=list(Measure)),
        taxonomy=TaxonomyConfig(
            topics=2, unigram_ids=0, unigram_occurrences=1, minimum_support=5, syntax=None
        ),
        roles=RolesConfig(
            tokens=4 * CONTEXT, sweep=[0.0], candidates=1, controls=1, sets=1, paths=["0.3>1.0"]
        ),
        report=ReportConfig(
            window=8, top=2, quantiles=2, random=1, silent=1, sample=6 * CONTEXT,
            tokens=8 * CONTEXT, figures=False,
        ),
    )  # fmt: skip
    return changed(study, **changes)


def changed(study: Study, **changes: Any) -> Study:
    """Another study, which differs in some keys, written as above."""
    other = deepcopy(study)
    for key, value in changes.items():
        section, name = key.split("__")
        assert hasattr(getattr(other, section), name), key
        setattr(getattr(other, section), name, value)
    return other


def copied(source: Path, target: Path) -> Path:
    """A run directory as it is now, without its lock: the store never writes into a file."""
    shutil.copytree(source, target, copy_function=os.link, ignore=shutil.ignore_patterns("lock"))
    return target


class Photographed(Wrapped):
    """A stage whose run directory is copied after every batch of tasks."""

    def __init__(self, stage: Any, folder: Path, moments: list[Path]):
        super().__init__(stage)
        self.folder, self.moments = folder, moments

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        for batch in self.stage.batches(memory):
            yield batch
            name = f"{len(self.moments):02d}-{batch.name.replace(' ', '-')}"
            self.moments.append(copied(self.folder, self.folder.parent / name))


class Photographer(Sending):
    """Keeps copies of a run directory as it was at every moment."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self.moments: list[Path] = []

    def run(self, stage: Any, assignment: Any, journal: Journal) -> None:
        super().run(Photographed(stage, self.folder, self.moments), assignment, journal)


def whole_run(once: Callable[[str, Callable[[Path], Any]], Path]) -> tuple[Study, list[Path]]:
    """A finished study, made once for all tests, and copies of its run directory after every batch
    of tasks that it had: to be copied, not to be changed.
    """

    def made(folder: Path) -> Study:
        return whole_study(folder / "run", [str(folder / name) for name in "ab"],
                           str(folder / "tokens"))  # fmt: skip

    def make_run(folder: Path) -> None:
        make_inputs(folder)
        make(made(folder), *ALL, executor=Photographer(folder / "run"))

    folder = once("whole-run", make_run)
    return made(folder), sorted(folder.glob("[0-9][0-9]-*"))


def _flipped(data: bytes) -> bytes:
    place = len(data) * 2 // 3
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "bit": _flipped,
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "gone": None,
}


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    path.unlink()
    change = DAMAGES[kind]
    if change is not None:
        path.write_bytes(change(data))
