"""What every stage of a study needs, checked before any work.

In two steps. An *outline* is known in seconds: models by their headers, the tokenizer, the shape of
the corpus, how the study is cut into units; stages tell their plans from it. *Inputs* are the
outline with its tokens read and held against what the run directory was made with.
"""

import logging
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from universal_ray.config.hashing import fingerprint
from universal_ray.config.site import content_of
from universal_ray.config.study import Policy, Study, keys, plain, value_of
from universal_ray.corpus.rows import (
    TokenCorpus,
    check_fits,
    count_kept,
    excluded_ids,
    glance,
    kept_mask,
    open_corpus,
)
from universal_ray.corpus.tokenise import tokenise
from universal_ray.errors import ConfigurationError, CorpusError
from universal_ray.models import source
from universal_ray.models.site import Site, site_of
from universal_ray.planning.capacity import POLICY, Footprint, choose
from universal_ray.planning.items import (
    Item,
    Layout,
    Model,
    make_items,
    make_units,
    unit_rows,
)
from universal_ray.planning.names import short_names
from universal_ray.stages.models import Models, find_models
from universal_ray.stages.recorded import check_same_run
from universal_ray.stages.segments import Segments, make_segments, spelling
from universal_ray.stages.sums import bits, bits_fingerprint
from universal_ray.stages.text import beside_tokens, text_of
from universal_ray.storage.record import read_record
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)

PACKAGES = "universal_ray", "torch", "transformer_lens", "transformers", "ray", "numpy"
"""Whose versions a run remembers."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A study whose models, tokenizer and corpus have been found and fit together by their shapes.
    """

    study: Study
    """with what it leaves open chosen: units, precision"""
    groups: tuple[tuple[source.ModelSource, ...], ...]
    """by revision, the reference first"""
    tokenizer: Any
    """the reference's"""
    tokenizer_identity: str
    vocabulary: int
    """ids of the tokenizer"""
    apart: tuple[str, ...]
    """names of models that have another tokenizer"""
    rows: int
    """rows of tokens that the study is of"""
    context: int
    """tokens of a row"""
    excluded: tuple[int, ...]
    """ids that do not count, sorted"""
    models: tuple[tuple[Model, ...], ...]
    """as `groups`"""
    layout: Layout
    """units named by the tokens that the run directory says they have; in `Inputs` by those read"""

    @property
    def everyone(self) -> tuple[Model, ...]:
        """All models, the first reference first."""
        return tuple(model for group in self.models for model in group)

    @property
    def references(self) -> tuple[Model, ...]:
        """Models whose neurons are asked about; with revisions, each revision's."""
        if self.study.models.pairs.value == "all":
            return self.everyone
        return tuple(group[0] for group in self.models)

    @property
    def items(self) -> tuple[Item, ...]:
        return make_items(self.models, self.study.models.pairs, self.study.baseline.shifts)

    @property
    def sources(self) -> dict[str, source.ModelSource]:
        """By identity."""
        return {each.identity: each for group in self.groups for each in group}

    @property
    def site(self) -> Site:
        """What a unit is: where in a model its values are read."""
        return site_of(self.study.models.site)

    @property
    def footprint(self) -> Footprint:
        """Of a batch, by device and policy."""
        study = self.study
        assert study.units.batch and study.precision.moments
        return Footprint(study.units.batch, study.cluster.device, study.precision.moments)

    @property
    def batch_rows(self) -> int:
        """Rows of one forward pass."""
        assert self.study.units.batch
        return self.study.units.batch // self.context

    @property
    def calibration_rows(self) -> int:
        return min(self.batch_rows, self.rows)

    @property
    def settled(self) -> dict[str, Any]:
        """The plain value of every key of the study, as chosen; what is known by content as such.
        """
        return settled(self.study, self.context, self.excluded)

    def check_one_tokenizer(self, stage: str) -> None:
        """Raises ConfigurationError where a stage that reads tokens of one has models of others."""
        if self.apart:
            raise ConfigurationError(
                f"the stage {stage} is not defined for models of different tokenizers, and "
                f"{self.apart[0]} has another than {self.study.models.reference}: ask for "
                "stages=[correlations], or compare models that share one"
            )

    @property
    def bits(self) -> dict[str, Any]:
        """All but models and tokens that decides the bits of a unit's sums."""
        return bits(self.settled)


@dataclass(frozen=True, kw_only=True)
class Inputs(Outline):
    """And its tokens, read, and of the run directory where there is one."""

    corpus: TokenCorpus
    segments: Segments | None
    """where models have different tokenizers"""

    @property
    def record(self) -> dict[str, Any]:
        """What `study.yaml` says."""
        units = [[unit.start, unit.stop, unit.content] for unit in self.layout.units]
        return {
            "configuration": plain(self.study),
            "bits": self.bits,
            "models": [asdict(each) for group in self.groups for each in group],
            "corpus": {
                "path": self.corpus.path,
                "tokenizer": self.tokenizer_identity,
                "rows": self.rows,
                "context": self.context,
                "units": units,
                **({"segments": self.segments.record} if self.segments else {}),
            },
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in PACKAGES},
            },
        }


def outline(models: Models, store: Store) -> Outline | None:
    """What is known of a study without reading its tokens or running a model.

    None where nobody can say yet how many tokens there are: text that is not tokenised, of which
    `corpus.tokens` asks for all. Raises what is wrong with the files of the corpus.
    """
    study, text = models.study, text_of(models.study, store)
    path = text.destination if text else str(study.corpus.path)
    if text is not None and not text.begun:
        if study.corpus.tokens is None:
            return None
        return _cut(models, store, -(-study.corpus.tokens // text.context), text.context)
    rows, context = glance(path)
    _check_rows(study, path, context)
    return _cut(models, store, _rows(study, path, rows, context), context)


def read(models: Models, store: Store) -> Inputs:
    """A study with its tokens, tokenised first where they are text; all of it checked.

    Raises CorpusError where no token counts or a model does not know all of them, and
    ConfigurationError where the run directory was made of others.
    """
    study, text = models.study, text_of(models.study, store)
    first = spelling(models.tokenizer, models.sources[0].name) if models.others else None
    if text is None:
        corpus = open_corpus(str(study.corpus.path))
    else:
        corpus = tokenise(
            text.settings, models.tokenizer, models.tokenizer_identity, text.destination, first
        )
    _check_rows(study, corpus.path, corpus.context)
    check_fits(
        corpus,
        vocabulary={each.name: models.vocabulary for each in models.alike},
        context={each.name: each.context for each in models.alike},
        tokenizer_identity=models.tokenizer_identity,
    )
    rows = _rows(study, corpus.path, corpus.rows, corpus.context)
    segments = None
    if first is not None:
        segments = make_segments(models, corpus, rows, first, beside_tokens(corpus.path, store))
    found = _cut(models, store, rows, corpus.context, corpus, segments)
    if _counted(corpus, found, segments) == 0:
        raise CorpusError(
            f"corpus.exclude={study.corpus.exclude.value} leaves no "
            f"{'segment' if segments else 'token'} of the first {found.calibration_rows} rows of "
            f"{corpus.path}: exclude fewer tokens"
        )
    parts = {each.name: getattr(found, each.name) for each in fields(found)}
    inputs = Inputs(**parts, corpus=corpus, segments=segments)
    check_same_run(store, inputs.record)
    return inputs


def prepare(study: Study, store: Store) -> Inputs:
    """The inputs of a study, whose plan nobody wants to see first."""
    return read(find_models(study, store), store)


def settled(study: Study, context: int, excluded: Sequence[int]) -> dict[str, Any]:
    """The plain value of every key of a study, those known by content as their content."""
    values = {key: value_of(study, key) for key in keys()}
    return {
        **values,
        "models.site": content_of(study.models.site),
        "corpus.context": context,
        "corpus.exclude": list(excluded),
    }


def _counted(corpus: TokenCorpus, found: Outline, segments: Segments | None) -> int:
    """What counts of the rows that calibrate: tokens, or segments."""
    stop = found.calibration_rows
    if segments is None:
        return count_kept(corpus, found.excluded, start=0, stop=stop)
    tokens_BP = torch.from_numpy(corpus.read(0, stop))
    kept_T = kept_mask(tokens_BP, found.excluded)
    return int(segments.batch(0, tokens_BP, kept_T, "cpu").kept_T.sum())


def _cut(
    models: Models,
    store: Store,
    rows: int,
    context: int,
    corpus: TokenCorpus | None = None,
    segments: Segments | None = None,
) -> Outline:
    """Cut rows into units, whose contents are those of the corpus, else what the run says."""
    study = _settled(models.study, store, rows * context, context)
    assert study.units.tokens and study.units.batch and study.units.fold
    excluded = excluded_ids(study.corpus.exclude.value, models.tokenizer)
    made_by = bits_fingerprint(bits(settled(study, context, excluded)))
    ranges = unit_rows(rows, context, study.units.tokens)
    if corpus is not None:
        content = partial(segments.rows_hash, corpus) if segments else corpus.rows_hash
        contents = [content(start, stop) for start, stop in ranges]
        first = content(0, min(study.units.batch // context, rows))
        calibrated = fingerprint([made_by, first])
    else:
        told = {tuple(each[:2]): each[2] for each in _told_units(store)}
        contents = [told.get(each, "") for each in ranges]
        calibrated = ""
    site = site_of(study.models.site)
    short = short_names([each.name for each in models.sources])
    planned = tuple(
        tuple(
            replace(
                _planned(each, short[each.name], site, calibrated),
                stretch=models.longest(each, context) / context,
            )
            for each in group
        )
        for group in models.groups
    )
    units = make_units(
        ranges, contents, bits_fingerprint=made_by, step=study.units.tokens // context
    )
    return Outline(
        study=study,
        groups=models.groups,
        tokenizer=models.tokenizer,
        tokenizer_identity=models.tokenizer_identity,
        vocabulary=models.vocabulary,
        apart=tuple(each.name for other in models.others.values() for each in other.models),
        rows=rows,
        context=context,
        excluded=excluded,
        models=planned,
        layout=Layout(units, study.units.fold),
    )


def _planned(found: source.ModelSource, name: str, site: Site, calibrated: str) -> Model:
    """What planning needs of a model whose units at a site are studied."""
    return Model(
        name=name,
        given=found.name,
        identity=found.identity,
        **vars(site.shape(found)),
        depth=found.layers,
        reads=site.reads(found),
        places=found.coders.places if found.coders else (),
        d_model=found.d_model,
        d_mlp=found.d_mlp,
        gated=found.gated,
        calibrated=calibrated,
    )


def _check_rows(study: Study, path: str, context: int) -> None:
    if study.corpus.context not in (None, context):
        raise CorpusError(
            f"{path} has rows of {context} tokens, not corpus.context="
            f"{study.corpus.context}: leave corpus.context out or tokenise again"
        )


def _rows(study: Study, path: str, rows: int, context: int) -> int:
    if study.corpus.tokens is None:
        return rows
    wanted = -(-study.corpus.tokens // context)
    if wanted > rows:
        log.warning(
            "corpus.tokens asks for %s tokens, %s holds %s: all of them are used",
            f"{study.corpus.tokens:,}", path, f"{rows * context:,}",
        )
    return min(wanted, rows)


def _told_units(store: Store) -> list[list[Any]]:
    """Units as the record of the run has them: first row, last, content."""
    record = read_record(store)
    return record["corpus"]["units"] if record else []


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
        units=choose(
            units, total_tokens=total_tokens, context=context, device=device, policy=policy
        ),
        precision=replace(study.precision, moments=policy),
    )
