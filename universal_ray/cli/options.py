"""From the command line to a typed job: Hydra's configuration, and what is refused at the door.

A job's configuration is `conf/<name>.yaml` over a schema, a dataclass. Groups are the folders of
`conf/`, choices the files in them. Every entry point goes through `entry`.
"""

import dataclasses
import functools
import inspect
import re
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

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
from universal_ray.cli.help import help_text, options_of
from universal_ray.config.choice import choose, nearest
from universal_ray.errors import ConfigurationError, MissingError
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

        @functools.wraps(body)
        def main() -> None:
            with lasting_output(), stoppable(), guarded():
                flags = get_args_parser().parse_args(sys.argv[1:])
                if flags.help:
                    print(_help(body, flags, name, schema))
                    return
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
    folders = _folders(flags, folder)
    given = {flag for flag, value in vars(flags).items() if value}
    if given <= {"overrides", "config_dir"}:
        parse(_configuration(flags.overrides, name, schema, folders), schema)
    else:  # Hydra's own flags (--cfg, --multirun) are its own affair
        check_options(flags.overrides, name, schema, folders)
    register(name, schema)


def _help(body: Callable, flags: Namespace, name: str, schema: type) -> str:
    """What `--help` says of an entry point. Raises ConfigurationError for what cannot be."""
    program = Path(sys.argv[0])
    by_command = f"{program.name} {body.__name__}"
    usage = f"python {program}" if program.suffix == ".py" else by_command
    about = inspect.getdoc(body) or sys.modules[body.__module__].__doc__ or ""
    folders = _folders(flags)
    config = _configuration(flags.overrides, name, schema, folders)
    values: Any = OmegaConf.to_container(config, enum_to_str=True)
    return help_text(usage, about, schema, values, _groups(name, folders))


def composed(options: list[str], name: str, schema: type[Job], folder: Path = FOLDER) -> Job:
    """The typed job that options ask for. Raises ConfigurationError for what cannot be."""
    return parse(_configuration(options, name, schema, [folder]), schema)


def _folders(flags: Namespace, folder: Path = FOLDER) -> list[Path]:
    """Where choices are, the entry point's own first. Raises MissingError for none."""
    if not flags.config_dir:
        return [folder]
    if not Path(flags.config_dir).is_dir():
        raise MissingError(f"--config-dir {flags.config_dir} is no folder: name one of choices")
    return [folder, Path(flags.config_dir).absolute()]


def _configuration(
    options: list[str], name: str, schema: type, folders: list[Path]
) -> DictConfig:
    """As Hydra composes it; what has no value yet is in it as such."""
    register(name, schema)
    given = check_options(options, name, schema, folders)
    more = [f"'file://{each}'" for each in folders[1:]]
    further = [f"hydra.searchpath=[{','.join(more)}]"]
    for override in given:
        if override.is_sweep_override():
            raise ConfigurationError(
                f"{override.input_line} gives several values: give one, or a list in brackets"
            )
    try:
        with initialize_config_dir(str(folders[0]), version_base="1.3"):
            _check_sections(name, given, schema, folders, further)
            return compose(name, overrides=[*options, *further])
    except MissingConfigException as error:
        choice = str(error.missing_cfg_file).rsplit("/", 1)[-1]
        raise ConfigurationError(
            f"{str(error).splitlines()[0]}: {choose(choice, error.options or ())}"
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        first, *rest = str(error).splitlines()
        lines = str(error.__cause__).splitlines() if error.__cause__ else rest
        raise ConfigurationError(
            f"{first.rstrip('.:')}: {lines[0] if lines else 'it cannot be read'}; --help tells "
            "the options"
        ) from error


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
            f"{str(error).splitlines()[0]}; --help tells the options"
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


def keys_of(schema: type) -> dict[str, bool]:
    """Dotted names of all that a schema has, and whether each is a section that may be null."""
    return {each.key: each.section and each.optional for each in options_of(schema)}


def check_options(
    options: list[str], name: str, schema: type, folders: list[Path]
) -> list[Override]:
    """Options as Hydra reads them, each checked. Raises ConfigurationError.

    Groups are those that the job's own defaults choose from; the first folder is the job's.
    """
    choices = {
        group: [path.stem for path in paths] for group, paths in _groups(name, folders).items()
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


def _groups(name: str, folders: list[Path]) -> dict[str, list[Path]]:
    """Files of the choices of each group, by their names."""
    defaults = yaml.safe_load((folders[0] / f"{name}.yaml").read_text())["defaults"]
    groups = dict.fromkeys(group for each in defaults if isinstance(each, dict) for group in each)
    return {
        group: sorted(
            (path for folder in folders for path in (folder / group).glob("*.yaml")),
            key=lambda path: path.stem,
        )
        for group in groups
        if not group.startswith("override ")
    }


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
                f"{option} is no choice of {group}: {choose(choice, choices)}"
            )
    if not override.type == OverrideType.CHANGE:
        raise ConfigurationError(f"{option} adds a group: write {option.lstrip('+')}")


def _check_key(override: Override, keys: list[str]) -> None:
    """A key of the schema that is given a value."""
    key, option = _key(override), str(override.input_line)
    if key not in keys:
        ends = {each.rsplit(".", 1)[-1]: each for each in reversed(keys)}
        near = nearest(key, keys) or ends.get(nearest(key.rsplit(".", 1)[-1], ends) or "")
        meant = f"did you mean {near}?" if near else "--help tells the options"
        raise ConfigurationError(f"{option} names no option ({key}): {meant}")
    if override.is_delete():
        raise ConfigurationError(
            f"{option} takes an option away: give {key} a value, or leave it out"
        )
    if override.is_add():
        raise ConfigurationError(f"{option} adds what is there: write {option.lstrip('+')}")


def _check_sections(
    name: str, given: list[Override], schema: type, folders: list[Path], further: list[str]
) -> None:
    """Keys of a section that the chosen groups leave null can be given no value."""
    for section in [key for key, optional in keys_of(schema).items() if optional]:
        inside = [each for each in given if f"{_key(each)}.".startswith(f"{section}.")]
        if not inside:
            continue
        groups = _groups(name, folders)
        chosen = [str(each.input_line) for each in given if each.key_or_group in groups] + further
        if OmegaConf.select(compose(name, overrides=chosen), section) is None:
            group = section.split(".")[0]
            raise ConfigurationError(
                f"{inside[0].input_line} is an option of {section}, which this {group} has not: "
                f"choose a {group} that has it"
            )
