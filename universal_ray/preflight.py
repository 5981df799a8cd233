"""Everything that can be wrong, found before any model runs; and the plan that follows from it."""

import logging
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from universal_ray import models
from universal_ray.corpus import (
    TokenCorpus,
    check_fits,
    count_kept,
    excluded_ids,
    open_corpus,
)
from universal_ray.errors import ConfigurationError, CorpusError, MissingError
from universal_ray.plan import (
    Item,
    Layout,
    Model,
    Plan,
    make_items,
    make_units,
    marker,
    unit_rows,
)
from universal_ray.store import Receipt, Store
from universal_ray.study import Device, Study, bits, check, fingerprint, plain
from universal_ray.tokenise import TextSettings, tokenise

log = logging.getLogger(__name__)

STUDY_FILE = "study.yaml"


@dataclass(frozen=True)
class Prepared:
    """A study whose inputs have been found and fit together."""

    study: Study
    plan: Plan
    corpus: TokenCorpus
    sources: dict[str, models.ModelSource]
    excluded: tuple[int, ...]
    calibration_rows: int
    damaged: tuple[str, ...]
    """folders whose files were cut or altered: the driver drops them once it holds the lock"""
    record: dict[str, Any]
    """what `study.yaml` will say"""


def prepare(study: Study, store: Store) -> Prepared:
    """Check a study against its models, its tokens and what its run directory holds already."""
    check(study)
    names = [study.models.reference, *study.models.compared]
    sources = [models.resolve(name) for name in names]
    tokenizer = models.check_tokenizers(sources, study.models.tokenizer)
    identity = models.tokenizer_identity(tokenizer)
    contexts = {source.name: source.context for source in sources}
    _check_context(study, contexts)
    corpus = _open(study, store, tokenizer, identity)
    if study.corpus.context not in (None, corpus.context):
        raise CorpusError(
            f"{corpus.path} has rows of {corpus.context} tokens, not corpus.context="
            f"{study.corpus.context}: leave corpus.context out or tokenise again"
        )
    check_fits(
        corpus,
        vocabulary={source.name: source.vocabulary for source in sources},
        context=contexts,
        tokenizer_identity=identity,
    )
    rows = _rows(study, corpus)
    excluded = excluded_ids(study.corpus.exclude.value, tokenizer)
    batch_rows = study.units.batch // corpus.context
    if batch_rows < 1:
        raise ConfigurationError(
            f"units.batch ({study.units.batch}) is less than one row of {corpus.context} tokens: "
            "raise it"
        )
    calibration_rows = min(batch_rows, rows)
    if count_kept(corpus, excluded, 0, calibration_rows) == 0:
        raise CorpusError(
            f"corpus.exclude={study.corpus.exclude.value} leaves no token of the first "
            f"{calibration_rows} rows of {corpus.path}: exclude fewer tokens"
        )
    fixed = bits(study, corpus.context, excluded)
    ranges = unit_rows(rows, corpus.context, study.units.tokens)
    hashes = [corpus.rows_hash(start, stop) for start, stop in ranges]
    planned = [Model(s.name, s.identity, s.layers, s.width) for s in sources]
    items = make_items(planned, study.models.pairs)
    record = {
        "configuration": plain(study),
        "bits": fixed,
        "models": [vars(source) for source in sources],
        "corpus": {
            "path": corpus.path,
            "tokenizer": identity,
            "rows": rows,
            "context": corpus.context,
            "units": [[*pair, content] for pair, content in zip(ranges, hashes, strict=True)],
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in
               ("universal_ray", "torch", "transformer_lens", "transformers", "ray", "numpy")},
        },
    }
    _compare(store, record)
    units = make_units(
        ranges, hashes, fingerprint(fixed), study.units.tokens // corpus.context
    )
    layout = Layout(units, study.units.fold)
    done, damaged = find_done(store, items, layout)
    plan = Plan(
        models=tuple(planned),
        items=items,
        layout=layout,
        context=corpus.context,
        batch_rows=batch_rows,
        bits=fixed,
        done=done,
    )
    _check_memory(study, plan)
    return Prepared(
        study,
        plan,
        corpus,
        {source.identity: source for source in sources},
        excluded,
        calibration_rows,
        damaged,
        record,
    )


def _check_context(study: Study, contexts: dict[str, int]) -> None:
    wanted = study.corpus.context
    for name, longest in contexts.items():
        if wanted is not None and wanted > longest:
            raise ConfigurationError(
                f"corpus.context ({wanted}) is longer than the context of {name} ({longest}): "
                "lower it"
            )


def _open(study: Study, store: Store, tokenizer: Any, identity: str) -> TokenCorpus:
    text = study.corpus.text
    if text is None:
        return open_corpus(str(study.corpus.path))
    if text.prepared is None and "://" in store.url:
        raise ConfigurationError(
            f"run.dir ({store.url}) is not a directory that text can be tokenised into: "
            "set corpus.text.prepared to one that all nodes share"
        )
    destination = text.prepared or str(Path(store.url) / "corpus")
    settings = TextSettings(
        source=text.source,
        name=text.name,
        split=text.split,
        column=text.column,
        subset=text.subset,
        minimum_characters=text.minimum_characters,
        documents=text.documents,
        context=study.corpus.context or 512,
        tokens=study.corpus.tokens,
        seed=study.corpus.seed,
    )
    return tokenise(settings, tokenizer, identity, destination)


def _rows(study: Study, corpus: TokenCorpus) -> int:
    if study.corpus.tokens is None:
        return corpus.rows
    wanted = -(-study.corpus.tokens // corpus.context)
    if wanted > corpus.rows:
        log.warning(
            "corpus.tokens asks for %s tokens, %s holds %s: all of them are used",
            f"{study.corpus.tokens:,}", corpus.path, f"{corpus.rows * corpus.context:,}",
        )
    return min(wanted, corpus.rows)


def _compare(store: Store, record: dict[str, Any]) -> None:
    """Refuse to go on in a run directory whose sums were made otherwise."""
    if not store.exists(STUDY_FILE):
        return
    old = yaml.safe_load(store.get(STUDY_FILE))
    differing = [
        f"{key} (was {old['bits'].get(key)}, now {value})"
        for key, value in record["bits"].items()
        if old["bits"].get(key) != value
    ]
    if differing:
        raise ConfigurationError(
            f"the run in {store.url} was made with other settings: {'; '.join(differing)}; "
            "set them back or choose another run.dir"
        )
    before, now = old["corpus"]["units"], record["corpus"]["units"]
    if old["corpus"]["rows"] > record["corpus"]["rows"]:
        raise ConfigurationError(
            f"the run in {store.url} holds {old['corpus']['rows']} rows and corpus.tokens now "
            f"gives {record['corpus']['rows']}: tokens may only be added; "
            "raise it or choose another run.dir"
        )
    grown = {tuple(unit[:2]): unit[2] for unit in now}
    for start, stop, content in before:
        if grown.get((start, stop), content) != content:
            raise ConfigurationError(
                f"rows {start} to {stop} of {record['corpus']['path']} are not the tokens of the "
                f"run in {store.url}: give the same tokens (more may follow) or choose another "
                "run.dir"
            )


def find_done(
    store: Store, items: tuple[Item, ...], layout: Layout
) -> tuple[frozenset[tuple[int, str]], tuple[str, ...]]:
    """(unit index, item key) whose sums are stored and whole, and the folders that are damaged."""
    if not store.exists(STUDY_FILE):
        return frozenset(), ()
    stored = set(store.list("moments"))
    dropped: list[str] = []

    def whole(folder: str) -> bool:
        if marker(folder) not in stored:
            return False
        try:
            receipts = store.get_json(marker(folder))["files"]
        except MissingError:  # folded by a live driver since the listing
            return False
        damaged = [entry["path"] for entry in receipts if not store.verify(Receipt(**entry))]
        if damaged:
            log.warning("%s was cut or altered: it is computed again", damaged[0])
            dropped.append(folder)
        return not damaged

    done = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for item in items:
            for block in layout.blocks:
                if marker(item.block_folder(block)) in stored and whole(item.block_folder(block)):
                    done |= {(unit.index, item.key) for unit in block.units}
            left = [unit for unit in layout.units if (unit.index, item.key) not in done]
            verdicts = pool.map(whole, [item.unit_folder(unit) for unit in left])
            done |= {(u.index, item.key) for u, good in zip(left, verdicts, strict=True) if good}
    return frozenset(done), tuple(dropped)


def _check_memory(study: Study, plan: Plan) -> None:
    """A local machine must hold the sums of all its workers."""
    if study.cluster.address is not None or study.cluster.device is not Device.cpu:
        return
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    need = plan.worker_bytes * study.cluster.workers
    if need > have:
        raise ConfigurationError(
            f"{study.cluster.workers} workers need {need / 2**30:.1f} GiB for their sums and this "
            f"machine has {have / 2**30:.1f} GiB: lower cluster.workers or compare fewer models"
        )
