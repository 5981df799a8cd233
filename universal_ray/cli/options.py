"""From the command line to a typed job: Hydra's configuration, and what is refused at the door.

A job's configuration is `conf/<name>.yaml` over a schema, a dataclass. Groups are the folders of
`conf/`, choices the files in them. Every entry point goes through `entry`.
"""

import dataclasses
import difflib
import functools
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from universal_ray import testbed
from universal_ray.errors import ConfigurationError
from universal_ray.runtime.ending import guarded, lasting_output, stoppable

Job = TypeVar("Job")

FOLDER = Path(__file__).resolve().parents[1] / "conf"
"""The configuration: in a checkout a link to its `conf/`, in a wheel the files of that."""


def entry(name: str, schema: type[Job]) -> Callable[[Callable[[Job], None]], Callable[[], None]]:
    """Make a function of a typed job the entry point that `conf/<name>.yaml` configures."""

    def decorate(body: Callable[[Job], None]) -> Callable[[], None]:
        @functools.wraps(body)
        def task(config: DictConfig) -> None:
            with guarded():
                body(parse(config, schema))

        def main() -> None:
            with lasting_output(), stoppable(), guarded():
                check_arguments(sys.argv[1:], name, schema)
                hydra.main(version_base="1.3", config_path=str(FOLDER), config_name=name)(task)()

        return main

    return decorate


def check_arguments(
    arguments: list[str], name: str, schema: type, folder: Path = FOLDER
) -> None:
    """Raise ConfigurationError, one sentence, for options that Hydra refuses in several lines or
    takes in silence: keys beyond the schema, choices that are not there, values of a wrong kind.
    """
    flags = get_args_parser().parse_args(arguments)
    if flags.config_path or flags.config_name:
        raise ConfigurationError(
            "--config-path and --config-name leave out what checks the options: put choices of "
            "your own below a folder, and give that by --config-dir"
        )
    if len(flags.overrides) == len(arguments):
        composed(flags.overrides, name, schema, folder)
    else:  # Hydra's own flags (--help, --multirun) are its own affair
        more = [Path(flags.config_dir)] if flags.config_dir else []
        check_options(flags.overrides, name, schema, [folder, *more])
    register(name, schema)


def composed(options: list[str], name: str, schema: type[Job], folder: Path = FOLDER) -> Job:
    """The typed job that options ask for. Raises ConfigurationError for what cannot be."""
    register(name, schema)
    given = check_options(options, name, schema, [folder])
    for override in given:
        if override.is_sweep_override():
            raise ConfigurationError(
                f"{override.input_line} gives several values: give one, or a list in brackets"
            )
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            _check_sections(name, given, schema, folder)
            config = compose(name, overrides=options)
    except MissingConfigException as error:
        choice = str(error.missing_cfg_file).rsplit("/", 1)[-1]
        raise ConfigurationError(
            f"{str(error).splitlines()[0]}: {_choose(choice, error.options or ())}"
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        first, *more = str(error).splitlines()
        lines = str(error.__cause__).splitlines() if error.__cause__ else more
        raise ConfigurationError(
            f"{first.rstrip('.:')}: {lines[0] if lines else 'it cannot be read'}; README.md lists "
            "the options"
        ) from error
    return parse(config, schema)


def register(name: str, schema: type) -> None:
    """Name the schema and the resolver (`${testbed:a}`) that `conf/` builds on."""
    node = OmegaConf.structured(schema)
    for each in dataclasses.fields(schema):
        if dataclasses.is_dataclass(each.type):
            OmegaConf.set_readonly(node[each.name], False)  # what the code may not change
    ConfigStore.instance().store(name=f"{name}_schema", node=node)
    OmegaConf.register_new_resolver("testbed", testbed.resolve, replace=True)


def parse(config: DictConfig, schema: type[Job]) -> Job:
    """A typed job. Raises ConfigurationError for what the schema does not allow."""
    _check_lists(OmegaConf.to_container(config))
    try:
        job = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigurationError(
            f"{str(error).splitlines()[0]}; README.md lists the options"
        ) from error
    assert isinstance(job, schema)
    return job


def _check_lists(value: Any, key: str = "") -> None:
    """Raise ConfigurationError for lists of more than single values, which OmegaConf lets pass."""
    if isinstance(value, dict):
        for name, each in value.items():
            _check_lists(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(each, list | dict) for each in value):
        raise ConfigurationError(f"{key} is {value}: give a list of single values")


def keys_of(schema: type, above: str = "") -> dict[str, bool]:
    """Dotted names of all that a schema has, and whether each is a section that may be null."""
    found = {}
    for name, kind in get_type_hints(schema).items():
        optional = get_origin(kind) in (Union, UnionType)
        if optional:
            (kind,) = (each for each in get_args(kind) if each is not type(None))
        section = dataclasses.is_dataclass(kind)
        found[above + name] = section and optional
        if section:
            found |= keys_of(kind, f"{above}{name}.")
    return found


def check_options(
    options: list[str], name: str, schema: type, folders: list[Path]
) -> list[Override]:
    """Options as Hydra reads them, each checked. Raises ConfigurationError.

    Groups are those that the job's own defaults choose from; the first folder is the job's.
    """
    defaults = yaml.safe_load((folders[0] / f"{name}.yaml").read_text())["defaults"]
    groups = {group for each in defaults if isinstance(each, dict) for group in each}
    choices = {
        group: sorted(path.stem for folder in folders for path in (folder / group).glob("*.yaml"))
        for group in groups
        if not group.startswith("override ")
    }
    keys = [*keys_of(schema), *choices]
    given = []
    for option in options:
        try:
            (override,) = OverridesParser.create().parse_overrides([option])
        except HydraException as error:
            raise ConfigurationError(
                f"the option {option!r} cannot be read: write key=value, and a value with blanks "
                "or signs in quotes of its own"
            ) from error
        given.append(override)
        group = override.key_or_group
        if any(re.fullmatch("_.*_", part) for part in re.split("[./@:]", _key(override))):
            raise ConfigurationError(
                f"{option} names a key of Hydra's machinery, which is no option: leave it out"
            )
        if group in choices and override.package is None:
            _check_choice(override, choices[group])
        elif not re.match("hydra[./]", group):
            _check_key(override, keys)
        elif override.is_add() or override.is_force_add():  # Hydra itself would take any
            raise ConfigurationError(
                f"{option} adds to Hydra's own keys and would do nothing: name one that it has, "
                "without +"
            )
    return given


def _key(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _check_choice(override: Override, choices: list[str]) -> None:
    """One choice of a group, and one that is there."""
    group, option = override.key_or_group, str(override.input_line)
    if override.is_delete():
        raise ConfigurationError(f"{option} takes a group away: choose from {', '.join(choices)}")
    asked = [override.value()]
    if override.is_sweep_override():
        asked = list(override.sweep_string_iterator())
    for choice in asked:
        if choice not in choices:
            raise ConfigurationError(
                f"{option} is no choice of {group}: {_choose(choice, choices)}"
            )
    if not override.type == OverrideType.CHANGE:
        raise ConfigurationError(f"{option} adds a group: write {option.lstrip('+')}")


def _check_key(override: Override, keys: list[str]) -> None:
    """A key of the schema that is given a value."""
    key, option = _key(override), str(override.input_line)
    if key not in keys:
        ends = {each.rsplit(".", 1)[-1]: each for each in reversed(keys)}
        near = _nearest(key, keys) or ends.get(_nearest(key.rsplit(".", 1)[-1], ends) or "")
        meant = f"did you mean {near}?" if near else "README.md lists the options"
        raise ConfigurationError(f"{option} names no option ({key}): {meant}")
    if override.is_delete():
        raise ConfigurationError(
            f"{option} takes an option away: give {key} a value, or leave it out"
        )
    if override.is_add():
        raise ConfigurationError(f"{option} adds what is there: write {option.lstrip('+')}")


def _check_sections(name: str, given: list[Override], schema: type, folder: Path) -> None:
    """Keys of a section that the chosen groups leave null can be given no value."""
    for section in [key for key, optional in keys_of(schema).items() if optional]:
        inside = [each for each in given if f"{_key(each)}.".startswith(f"{section}.")]
        if not inside:
            continue
        groups = [each for each in given if (folder / each.key_or_group).is_dir()]
        chosen = [str(each.input_line) for each in groups]
        if OmegaConf.select(compose(name, overrides=chosen), section) is None:
            group = section.split(".")[0]
            raise ConfigurationError(
                f"{inside[0].input_line} is an option of {section}, which this {group} has not: "
                f"choose a {group} that has it"
            )


def _choose(given: Any, choices: Iterable[str]) -> str:
    near, every = _nearest(str(given), choices), ", ".join(choices)
    return f"did you mean {near} (of {every})?" if near else f"choose from {every}"


def _nearest(given: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(given, list(names), n=1)), None)
