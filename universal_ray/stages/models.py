"""The models of a study and their tokenizers, found and fitting together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from universal_ray.config.study import Align, Study, check, model_groups
from universal_ray.errors import ConfigurationError
from universal_ray.models import source, tokenizer
from universal_ray.models.latents import check_alike
from universal_ray.models.site import Site, site_of
from universal_ray.planning.items import same_weights
from universal_ray.storage.lock import check_ours
from universal_ray.storage.store import Store

STRETCH = 2
"""How many tokens another tokenizer may have for each of the reference's, at most: what is longer
is cut, as it is at the end of a model's context."""


@dataclass(frozen=True)
class OtherTokenizer:
    """A tokenizer that is not the reference's, and the models that have it."""

    tokenizer: Any
    models: tuple[source.ModelSource, ...]

    def longest(self, context: int) -> int:
        """Tokens that its models read of a row of the reference's `context`, at most."""
        return min(STRETCH * context, *(each.context for each in self.models))


@dataclass(frozen=True)
class Models:
    """The models of a study and their tokenizers, before its tokens."""

    study: Study
    groups: tuple[tuple[source.ModelSource, ...], ...]
    tokenizer: Any
    """the reference's"""
    tokenizer_identity: str
    vocabulary: int
    others: dict[str, OtherTokenizer] = field(default_factory=dict)
    """by identity, of models that do not have the reference's"""

    @property
    def sources(self) -> list[source.ModelSource]:
        return [each for group in self.groups for each in group]

    @property
    def alike(self) -> list[source.ModelSource]:
        """Models of the reference's tokenizer."""
        apart = {each.identity for other in self.others.values() for each in other.models}
        return [each for each in self.sources if each.identity not in apart]

    def longest(self, model: source.ModelSource, context: int) -> int:
        """Tokens that a model reads of a row of the reference's `context`, at most."""
        for other in self.others.values():
            if model in other.models:
                return other.longest(context)
        return context


def find_models(study: Study, store: Store) -> Models:
    """Raises what is wrong with a study, and with its models and their tokenizers by themselves."""
    check(study)
    check_ours(store)
    site = site_of(study.models.site)
    groups = tuple(
        tuple(site.find(name) for name in names)
        for names in model_groups(study.models)
    )
    sources = [each for group in groups for each in group]
    check_alike(study.models.site, sources)
    _check_apart(groups)
    _check_revisions(groups, site)
    if study.corpus.align is Align.tokens:
        tokenizer.check_tokenizers(sources, study.models.tokenizer)
    first, *_ = found = tokenizer.find_tokenizers(sources, study.models.tokenizer)
    others: dict[str, OtherTokenizer] = {}
    for mine, each in zip(found, sources, strict=True):
        if mine is not first:
            before = others.get(key := tokenizer.tokenizer_identity(mine))
            others[key] = OtherTokenizer(mine, (*(before.models if before else ()), each))
    identity = tokenizer.tokenizer_identity(first)
    models = Models(study, groups, first, identity, tokenizer.ids_of(first), others)
    _check_context(study, models.alike)
    return models


def _check_apart(groups: Sequence[Sequence[source.ModelSource]]) -> None:
    """No two models have the same weights; one may have, at two revisions, in its own place."""
    placed = [(place, each) for group in groups for place, each in enumerate(group)]
    for (place, first), (other, second) in combinations(placed, 2):
        if _weights(first) == _weights(second) and place != other:
            raise same_weights(first.name, second.name)


def _weights(model: source.ModelSource) -> set[str]:
    """Hashes of its own, and of those that its latents are made by."""
    (_, *own) = model.files  # config.json says more than a model
    coders = model.coders
    made_by = {coder.weights for coder in coders.each} if coders else set()
    latents = [(name, sha256) for name, sha256 in (coders.files if coders else ())
               if name in made_by]  # fmt: skip
    return {sha256 for _, sha256 in (*own, *latents)}


def _check_context(study: Study, sources: Sequence[source.ModelSource]) -> None:
    wanted = study.corpus.context
    for each in sources:
        if wanted is not None and wanted > each.context:
            raise ConfigurationError(
                f"corpus.context ({wanted}) is longer than the context of {each.name} "
                f"({each.context}): lower it"
            )


def _check_revisions(groups: Sequence[Sequence[source.ModelSource]], site: Site) -> None:
    """A model followed through training keeps its units; and has such a site at all."""
    for of_one in zip(*groups, strict=True):
        if len({site.shape(each) for each in of_one}) > 1:
            raise ConfigurationError(
                f"models.revisions names models of different shapes for {of_one[0].name}: "
                "follow one model"
            )
