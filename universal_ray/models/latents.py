"""The sparse autoencoders or transcoders of a study, found for each model and held against it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from universal_ray.config.hashing import fingerprint
from universal_ray.errors import HubError, MissingError, ModelError
from universal_ray.models import places, sae
from universal_ray.models.coder import Coder, Coders, load, shape_of
from universal_ray.models.hub import directory_at, made_first
from universal_ray.models.source import ModelSource, names_of
from universal_ray.storage import hub
from universal_ray.storage.hub import sha256_of

log = logging.getLogger(__name__)

HERE, LABEL = "{model}", "{label}"
"""Stand for the last part of a model's name, without its revision, and for what is after `#`."""
ON_HUB = re.compile(
    r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[^@\s/]+))?(/(?P<folder>.+))?"
)


def labelled(name: str, where: str) -> tuple[str, str]:
    """The name of a model and the label after it, by which one model with several sets of coders is
    named several times: `owner/name#seed1`; none where `where` has no place for it.

    Raises ModelError where that has one, and a name no label.
    """
    if LABEL not in where:
        return name, ""
    plain, _, label = name.rpartition("#")
    if not plain or not label:
        raise ModelError(
            f"Model {name!r} has no label where models.site has {LABEL}: write it after the name, "
            "as in owner/name#seed1."
        )
    return plain, label


def with_coders(where: str, source: ModelSource, label: str = "") -> ModelSource:
    """A model with the coders that are in a folder or on the hub, as one: it has another identity
    with others. `where`: that, and after a colon what they read, which not all files say.

    Raises MissingError where there are none, and ModelError where they are of another model, read
    another width or places that are not alike, or have no latent that can fire.
    """
    short = source.name.split("@")[0].rstrip("/").split("/")[-1]
    given, hook = _parted(where.replace(HERE, short).replace(LABEL, label))
    location, commit, folder, directory = _located(given)
    each = sae.found_in(directory, hook)
    _check_layers(given, source, each)
    shapes = {coder: shape_of(directory, coder) for coder in each}
    channels = places.width(source, each[0].place)
    for coder, (reads, _) in shapes.items():
        if reads != channels:
            raise ModelError(
                f"The sparse autoencoder in {directory / coder.weights} reads {reads} channels "
                f"where {coder.place} of model {source.name!r} has {channels}: give those of this "
                "model."
            )
    widths = sorted({latents for _, latents in shapes.values()})
    if len(widths) > 1:
        raise ModelError(
            f"{given} holds sparse autoencoders of {' and '.join(map(str, widths))} latents: give "
            "a folder with those of one width."
        )
    names = {name: None for coder in each for name in (coder.configuration, coder.weights)}
    files = tuple((name, sha256_of(directory / name)) for name in names)
    found = Coders(
        location=location, commit=commit, folder=folder, files=files, each=tuple(each),
        channels=channels, width=widths[0],
    )  # fmt: skip
    _check_silent(given, source, found, directory)
    content = [source.identity, [[coder.layer, coder.place, dict(files)[coder.weights],
                                  dict(files)[coder.configuration]] for coder in each]]  # fmt: skip
    return replace(source, coders=found, identity=fingerprint(content))


def check_alike(where: str, sources: Sequence[ModelSource]) -> None:
    """Raises ModelError where coders of the models of a study read unlike places or layers, or two
    models would have the same by the last part of their names; `where`: `models.site`.
    """
    read: dict[str, str] = {}
    having: dict[tuple[str, str], str] = {}
    for source in sources:
        if (coders := source.coders) is None:
            continue
        what = ", ".join(coders.places)
        read.setdefault(what, source.name)
        plain = labelled(source.name, where)[0].split("@")[0].rstrip("/")
        first = having.setdefault((coders.location, coders.folder), plain)
        if HERE in where and first != plain:
            raise ModelError(
                f"{HERE} in models.site is the last part of both {first!r} and {plain!r}, so that "
                f"they would have the same sparse autoencoders: write {LABEL} there, and labels "
                "after their names."
            )
    if len(read) > 1:
        (first, one), (other, two) = list(read.items())[:2]
        raise ModelError(
            f"The sparse autoencoders of {one!r} read {first}, those of {two!r} {other}: give "
            "those of the same places."
        )


def _parted(where: str) -> tuple[str, str]:
    """A location, and after its last colon what is read, where it is not a folder as it stands and
    no path goes on there.
    """
    given, _, hook = where.rpartition(":")
    if not given or {"/", "\\"} & set(hook) or directory_at(where):
        return where, ""
    return given, hook


def _located(given: str) -> tuple[str, str | None, str, Path]:
    """A location, its commit where it is on the hub, a folder in it, and that on this machine."""
    if directory := directory_at(given):
        return str(directory), None, "", directory
    match = ON_HUB.fullmatch(given)
    if match is None:
        raise MissingError(
            f"There is no folder {given!r} of sparse autoencoders: it is neither a directory nor a "
            f"hub id of the form owner/name[@revision][/folder]{made_first(given)}."
        )
    folder = (match["folder"] or "").strip("/")
    before = f"{folder}/" if folder else ""
    patterns = [f"{before}{deep}{name}" for deep in ("", "*/")
                for name in (*sae.FORMATS, *sae.CONFIGURATIONS, "layer_*.safetensors")]  # fmt: skip
    repository = hub.Repository(hub.MODEL, match["id"])
    try:
        snapshot = hub.snapshot(repository, match["revision"] or "main", patterns)
    except (MissingError, HubError) as error:
        why = str(error)
        raise type(error)(f"There is no directory {given!r}, and t{why[1:]}") from error
    return match["id"], snapshot.name, folder, snapshot / folder


def _check_layers(given: str, source: ModelSource, each: Sequence[Coder]) -> None:
    known = names_of(source.name)
    for coder in each:
        of_another = (
            coder.identity != source.identity if coder.identity is not None
            else coder.model is not None and not known & names_of(coder.model)
        )  # fmt: skip
        if of_another:
            named = "another model" if coder.model is None else f"model {coder.model!r}"
            if coder.model is not None and known & names_of(coder.model):
                named += " with other weights"
            raise ModelError(
                f"The sparse autoencoder {coder.configuration} in {given} is of {named}, not of "
                f"{source.name!r}: give those of this model, with {HERE} in models.site where its "
                "name is."
            )
        if coder.layer >= source.layers:
            raise ModelError(
                f"The sparse autoencoder {coder.configuration} in {given} reads layer "
                f"{coder.layer} where {source.name!r} has {source.layers}: give those of this "
                "model."
            )
    read = [coder.place for coder in each]
    if len(set(read)) > 1:
        raise ModelError(
            f"{given} holds sparse autoencoders that read {' and '.join(sorted(set(read)))}: give "
            "a folder with those of one place."
        )
    layers = [coder.layer for coder in each]
    for layer in layers:
        if layers.count(layer) > 1:
            raise ModelError(
                f"{given} holds {layers.count(layer)} sparse autoencoders of layer {layer}: give a "
                "folder with one of each layer."
            )


def _check_silent(given: str, source: ModelSource, found: Coders, directory: Path) -> None:
    """Say which latents never fire by their weights; raise where all of a layer's are such."""
    silent = {}
    for coder in found.each:
        encoder = load(directory, coder, dict(found.files)[coder.weights])
        if encoder.silent == found.width:
            raise ModelError(
                f"The sparse autoencoder {coder.weights} in {given} has no latent that can fire: "
                "it reads nothing, so give one that is trained."
            )
        if encoder.silent:
            silent[coder.layer] = encoder.silent
    if silent:
        log.warning(
            "%s latents of %s in %s can never fire, as they read nothing: they have no correlation",
            f"{sum(silent.values()):,}", source.name, given,
        )
