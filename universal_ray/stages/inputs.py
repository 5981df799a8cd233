"""Everything that can be wrong, found before any model runs; and the plan that follows from it."""

import logging
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import combinations, repeat
from pathlib import Path
from typing import Any

from universal_ray.config.changes import bits
from universal_ray.config.hashing import fingerprint
from universal_ray.config.study import Device, Pairs, Policy, Study, check, model_groups, plain
from universal_ray.corpus.rows import TokenCorpus, check_fits, count_kept, excluded_ids, open_corpus
from universal_ray.corpus.tokenise import TextSettings, tokenise
from universal_ray.errors import ConfigurationError, CorpusError
from universal_ray.models import source as models
from universal_ray.models import tokenizer
from universal_ray.models.site import Site, site_of
from universal_ray.planning.capacity import GIB, GPU_GIB, POLICY, Footprint, choose
from universal_ray.planning.items import (
    Item,
    Layout,
    Model,
    Unit,
    make_items,
    make_units,
    marker,
    same_weights,
    unit_rows,
)
from universal_ray.runtime.measure import machine_bytes
from universal_ray.stages.correlations.folding import calibrations
from universal_ray.stages.correlations.plan import Plan
from universal_ray.storage import checked
from universal_ray.storage.lock import refuse_foreign
from universal_ray.storage.names import STUDY_FILE
from universal_ray.storage.record import read_record
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A study whose inputs have been found and fit together."""

    study: Study
    plan: Plan
    corpus: TokenCorpus
    sources: dict[str, models.ModelSource]
    tokenizer: Any
    excluded: tuple[int, ...]
    calibration_rows: int
    damaged: tuple[str, ...]
    """folders whose files were cut or altered"""
    record: dict[str, Any]
    """what `study.yaml` will say"""


def prepare(study: Study, store: Store) -> Prepared:
    """Check a study against its models, its tokens and what its run directory holds already."""
    check(study)
    refuse_foreign(store)
    groups = [[models.resolve(name) for name in names] for names in model_groups(study.models)]
    sources = [source for group in groups for source in group]
    _check_apart(groups)
    shared = tokenizer.check_tokenizers(sources, study.models.tokenizer)
    identity, ids = tokenizer.tokenizer_identity(shared), tokenizer.ids_of(shared)
    contexts = {source.name: source.context for source in sources}
    _check_context(study, contexts)
    corpus = _open(study, store, shared, identity)
    if study.corpus.context not in (None, corpus.context):
        raise CorpusError(
            f"{corpus.path} has rows of {corpus.context} tokens, not corpus.context="
            f"{study.corpus.context}: leave corpus.context out or tokenise again"
        )
    check_fits(
        corpus,
        vocabulary={source.name: ids for source in sources},
        context=contexts,
        tokenizer_identity=identity,
    )
    rows = _rows(study, corpus)
    excluded = excluded_ids(study.corpus.exclude.value, shared)
    study = _settled(study, store, rows * corpus.context, corpus.context)
    units, policy = study.units, study.precision.moments
    assert units.tokens and units.batch and units.fold and policy
    calibration_rows = min(units.batch // corpus.context, rows)
    if count_kept(corpus, excluded, 0, calibration_rows) == 0:
        raise CorpusError(
            f"corpus.exclude={study.corpus.exclude.value} leaves no token of the first "
            f"{calibration_rows} rows of {corpus.path}: exclude fewer tokens"
        )
    fixed = bits(study, corpus.context, excluded)
    ranges = unit_rows(rows, corpus.context, units.tokens)
    hashes = [corpus.rows_hash(start, stop) for start, stop in ranges]
    made_by = fingerprint(fixed)
    calibrated = fingerprint([made_by, corpus.rows_hash(0, calibration_rows)])
    site = site_of(study.models.activation.value)
    planned = [[_planned(source, site, calibrated) for source in group] for group in groups]
    everyone = tuple(model for group in planned for model in group)
    items = make_items(planned, study.models.pairs)
    _check_revisions(planned)
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
    step = units.tokens // corpus.context
    layout = Layout(make_units(ranges, hashes, made_by, step), units.fold)
    done, damaged = find_done(store, items, layout)
    plan = Plan(
        models=everyone,
        references=(
            everyone
            if study.models.pairs is Pairs.all
            else tuple(group[0] for group in planned)
        ),
        items=items,
        layout=layout,
        context=corpus.context,
        footprint=Footprint(units.batch, study.cluster.device, policy),
        memory=_memory(study),
        bits=fixed,
        done=done,
    )
    _check_memory(study, plan)
    return Prepared(
        study,
        plan,
        corpus,
        {source.identity: source for source in sources},
        shared,
        excluded,
        calibration_rows,
        damaged,
        record,
    )


def _planned(source: models.ModelSource, site: Site, calibrated: str) -> Model:
    """What planning needs of a model whose units at a site are studied."""
    return Model(
        name=source.name,
        identity=source.identity,
        **vars(site.shape(source)),
        d_model=source.d_model,
        d_mlp=source.d_mlp,
        calibrated=calibrated,
    )


def _check_apart(groups: Sequence[Sequence[models.ModelSource]]) -> None:
    """No two models have the same weights; one may have, at two revisions, in its own place."""
    placed = [(place, source) for group in groups for place, source in enumerate(group)]
    for (place, first), (other, second) in combinations(placed, 2):
        (_, *mine), (_, *others) = first.files, second.files  # config.json says more than a model
        if {sha256 for _, sha256 in mine} == {sha256 for _, sha256 in others} and place != other:
            raise same_weights(first.name, second.name)


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
    # With more tokens another directory, whose first rows are the same: so a run grows.
    destination = text.prepared or str(Path(store.url) / f"corpus-{study.corpus.tokens or 'all'}")
    settings = TextSettings(
        source=text.source,
        name=text.name,
        split=text.split,
        column=text.column,
        subset=text.subset,
        minimum_characters=text.minimum_characters,
        join=text.join.value,
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
    old = read_record(store)
    if old is None:
        return
    if old["bits"].get("sums") != record["bits"]["sums"]:
        raise ConfigurationError(
            f"the run in {store.url} was made by another version of universal_ray, whose sums "
            "round otherwise: choose another run.dir"
        )
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
    """(unit index, item key) whose sums are stored at full length, and the folders that are not, or
    are of a calibration that was made anew since and is another.

    Checksums are looked at where the sums are read: a large study has terabytes of them.
    """
    if not store.exists(STUDY_FILE):
        return frozenset(), ()
    stored = store.sizes("moments")
    dropped: list[str] = []

    def whole(folder: str, item: Item, units: Sequence[Unit]) -> bool:
        if marker(folder) not in stored:
            return False
        told, of = checked.told(store, marker(folder)), item.of(units)
        files = {each["path"]: each["bytes"] for each in told.get("files", ())}
        made_with = told.get("calibrations") or {}
        good = (
            bool(files)
            and all(stored.get(path) == length for path, length in files.items())
            and told.get("of") == of
            and all(made_with.get(model, now) == now for model, now in standing.items())
        )
        if not good:
            dropped.append(folder)
        return good

    done = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for item in items:
            standing = calibrations(store, item)
            for block in layout.blocks:
                if whole(item.block_folder(block), item, block.units):
                    done |= {(unit.index, item.key) for unit in block.units}
            left = [unit for unit in layout.units if (unit.index, item.key) not in done]
            folders = [item.unit_folder(unit) for unit in left]
            verdicts = pool.map(whole, folders, repeat(item), [(unit,) for unit in left])
            done |= {(u.index, item.key) for u, good in zip(left, verdicts, strict=True) if good}
    return frozenset(done), tuple(dropped)


def _check_revisions(groups: list[list[Model]]) -> None:
    """A model followed through training keeps its neurons."""
    for models_of_one in zip(*groups, strict=True):
        shapes = {(model.layers, model.width) for model in models_of_one}
        if len(shapes) > 1:
            raise ConfigurationError(
                f"models.revisions names models of different shapes for {models_of_one[0].name}: "
                "follow one model"
            )


def _settled(study: Study, store: Store, total_tokens: int, context: int) -> Study:
    """The study with what it leaves open: as the run has it already, else chosen now."""
    record = read_record(store)
    kept = record["bits"] if record else {}
    given = study.units
    units = replace(
        given,
        tokens=given.tokens or kept.get("units.tokens"),
        batch=given.batch or kept.get("units.batch"),
        fold=given.fold or kept.get("units.fold"),
    )
    device, policy = study.cluster.device, study.precision.moments
    if policy is None:
        policy = Policy(kept.get("precision.moments", POLICY[device]))
    return replace(
        study,
        units=choose(units, total_tokens, context, device, policy),
        precision=replace(study.precision, moments=policy),
    )


def _memory(study: Study) -> float:
    """Bytes of each worker: as configured, or this machine's share, or a usual GPU's.

    Workers that are already there are asked when they start.
    """
    settings = study.cluster
    if settings.memory is not None:
        return settings.memory * GIB
    if settings.device is Device.cuda:
        return GPU_GIB * GIB
    return machine_bytes() / settings.workers


def _check_memory(study: Study, plan: Plan) -> None:
    """Refuse a plan that does not fit, where the memory is known before any worker starts."""
    settings = study.cluster
    if settings.memory or (settings.device is Device.cpu and settings.address is None):
        _ = plan.groups
