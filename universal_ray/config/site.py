"""Names of sites, and the words by which two of them were asked for before they had names. Pure."""

from collections.abc import Mapping
from typing import Any

from universal_ray.config.choice import choose
from universal_ray.errors import ConfigurationError

KEY = "models.site"
SITES = (
    "mlp_post", "mlp_pre", "mlp_gate", "mlp_up", "mlp_sign", "attention_z", "attention_norm",
    "residual",
)  # fmt: skip
"""What a unit may be, beside latents: see `models.site`."""
LATENTS = "sae"
"""What a site of latents is called wherever it is known by its content: before `:` is said where
they are.
"""
FORMER_KEY, FORMER = "models.activation", {"mlp_post": "post", "mlp_pre": "pre"}
"""The key before it, and its values by the sites that they meant."""


def content_of(name: str) -> str:
    """A site without where its latents are: these are known by the identity of each model."""
    return LATENTS if name.partition(":")[0] == LATENTS else name


def check_site(name: str) -> None:
    """Raises ConfigurationError for a name that is of no site."""
    if content_of(name) == LATENTS:
        if not name.partition(":")[2]:
            raise ConfigurationError(
                f"{KEY}={name} names no sparse autoencoders: write sae: and a folder with them, or "
                "owner/name[@revision][/folder] of the hub"
            )
    elif name not in SITES:
        raise ConfigurationError(
            f"{KEY}={name} is no site: {choose(name, (*SITES, f'{LATENTS}:WHERE'))}"
        )


def as_fingerprinted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key in the words that fingerprints have them in: those of the key before, where it
    had any, so that what was made of it stands.
    """
    told = dict(values)
    if told.get(KEY) in FORMER:
        told[FORMER_KEY] = FORMER[told.pop(KEY)]
    return told


def as_recorded(section: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Values that a run has recorded, in the words of now; `before`: the start of their keys that
    is left out.
    """
    told, former = dict(section), FORMER_KEY.removeprefix(before)
    if former in told:
        named = {value: site for site, value in FORMER.items()}
        value = told.pop(former)
        told[KEY.removeprefix(before)] = named.get(value, value)
    return told
