"""From the command line to a typed job: Hydra's configuration, and what is refused at the door.

A job's configuration is `conf/<name>.yaml` over a schema, a dataclass. Groups are the folders of
`conf/`, choices the files in them. Every entry point comes in by `enter`.
"""

import dataclasses
import functools
import inspect
import itertools
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from universal_ray import testbed
from universal_ray.cli import checks, grammar
from universal_ray.cli.help import Example, help_text, options_of
from universal_ray.config.choice import choose, nearest
from universal_ray.errors import ConfigurationError, MissingError, UniversalRayError
from universal_ray.runtime.ending import guarded

Job = TypeVar("Job")

FOLDER = Path(__file__).resolve().parents[1] / "conf"
"""The configuration: in a checkout a link to its `conf/`, in a wheel the files of that."""


def enter(
    body: Callable[[Job], None], name: str, schema: type[Job], examples: Sequence[Example]
) -> None:
    """Do what the command line asks of an entry point: its help, one job, or one by one several
    (`-m`), of which one that fails keeps none from being done.
    """
    flags = _flags(sys.argv[1:])
    if flags.help:
        print(_help(body, flags, name, schema, examples))
        return
    if flags.version:
        print(version("universal_ray"))
        return
    sys.argv[1:] = check_arguments(sys.argv[1:], name, schema)
    failed = 0

    @functools.wraps(body)
    def task(config: DictConfig) -> None:
        nonlocal failed
        try:
            with guarded():
                body(parse(config, schema))
        except SystemExit as ended:
            if not (flags.multirun and ended.code == 1):
                raise
            failed += 1

    hydra.main(version_base="1.3", config_path=str(FOLDER), config_name=name)(task)()
    if failed:
        raise UniversalRayError(f"{failed} of these jobs failed, each for what it says above")


def check_arguments(
    arguments: list[str], name: str, schema: type, folder: Path = FOLDER
) -> list[str]:
    """The arguments as Hydra is to read them.

    Raises ConfigurationError, one sentence, for options that Hydra refuses in several lines or
    takes in silence: keys beyond the schema, choices that are not there, values of a wrong kind.
    """
    flags = _flags(arguments)
    if flags.config_path or flags.config_name:
        raise ConfigurationError(
            "--config-path and --config-name leave out what checks the options: put choices of "
            "your own below a folder, and give that by --config-dir"
        )
    folders = _folders(flags, folder)
    given = _checked(flags.overrides, name, schema, folders, several=flags.multirun)
    lines = [str(each.input_line) for each in given]
    asked = {flag for flag, value in vars(flags).items() if value}
    for options in _jobs(given) if flags.multirun else [lines]:
        config = _configuration(options, name, schema, folders)
        if asked <= {"overrides", "config_dir", "multirun"}:  # what else there is only shows it
            parse(config, schema)
    register(name, schema)
    spelt = dict(zip(flags.overrides, lines, strict=True))
    return [spelt.get(each, each) for each in arguments]


def _jobs(given: Sequence[Override]) -> Iterator[list[str]]:
    """The options of each job, of options with several values; a pattern of choices finds none that
    is not there, and is left out.
    """
    values = [
        [f"{each.get_key_element()}={one}" for one in each.sweep_string_iterator()]
        if each.is_sweep_override()
        else [str(each.input_line)]
        for each in given
        if not isinstance(each.value(), Glob)
    ]
    yield from map(list, itertools.product(*values))


def _flags(arguments: list[str]) -> Namespace:
    """What the command line has. Raises ConfigurationError for a flag that is none."""
    parser: ArgumentParser = get_args_parser()
    known = [flag for action in parser._actions for flag in action.option_strings]

    def refuse(message: str) -> NoReturn:
        wrong = next((each for each in arguments if each[:1] == "-" and each not in known), None)
        if wrong is None:
            raise ConfigurationError(f"{message}: --help tells the flags")
        near = nearest(wrong, known)
        meant = f"did you mean {near}?" if near else "--help tells the flags"
        raise ConfigurationError(f"{wrong} is no flag: {meant}")

    parser.error = refuse  # type: ignore[method-assign]
    asked = "--version" in arguments  # which the parser would answer by Hydra's
    flags = parser.parse_args([each for each in arguments if each != "--version"])
    return Namespace(**vars(flags), version=asked)


def _help(
    body: Callable, flags: Namespace, name: str, schema: type, examples: Sequence[Example]
) -> str:
    """What `--help` says of an entry point. Raises ConfigurationError for what cannot be."""
    program = Path(sys.argv[0])
    by_command = f"{program.name} {body.__name__}"
    usage = f"python {program}" if program.suffix == ".py" else by_command
    about = inspect.getdoc(body) or sys.modules[body.__module__].__doc__ or ""
    folders = _folders(flags)
    lines = [str(each.input_line) for each in _checked(flags.overrides, name, schema, folders)]
    config = _configuration(lines, name, schema, folders)
    values: Any = OmegaConf.to_container(config, enum_to_str=True)
    return help_text(usage, about, examples, schema, values, _groups(name, folders))


def composed(options: list[str], name: str, schema: type[Job], folder: Path = FOLDER) -> Job:
    """The typed job that options ask for. Raises ConfigurationError for what cannot be."""
    lines = [str(each.input_line) for each in _checked(options, name, schema, [folder])]
    return parse(_configuration(lines, name, schema, [folder]), schema)


def _folders(flags: Namespace, folder: Path = FOLDER) -> list[Path]:
    """Where choices are, the entry point's own first. Raises MissingError for none."""
    if not flags.config_dir:
        return [folder]
    given = Path(os.path.expanduser(flags.config_dir))
    if not given.is_dir():
        raise MissingError(f"--config-dir {flags.config_dir} is no folder: name one of choices")
    return [folder, given.absolute()]


def _checked(
    options: Sequence[str], name: str, schema: type, folders: list[Path], several: bool = False
) -> list[Override]:
    """As `checks.check_options`, of the groups that the job's own defaults choose from."""
    groups = _groups(name, folders)
    choices = {group: [path.stem for path in paths] for group, paths in groups.items()}
    return checks.check_options(options, schema, choices, several)


def _configuration(
    options: list[str], name: str, schema: type, folders: list[Path]
) -> DictConfig:
    """As Hydra composes it of options that were checked; what has no value yet is in it as such."""
    register(name, schema)
    given = [grammar.parsed(option) for option in options]
    more = [f"'file://{each}'" for each in folders[1:]]
    further = [f"hydra.searchpath=[{','.join(more)}]"]
    try:
        with initialize_config_dir(str(folders[0]), version_base="1.3"):
            _check_sections(name, given, schema, folders, further)
            return compose(name, overrides=[*options, *further])
    except MissingConfigException as error:
        choice = str(error.missing_cfg_file).rsplit("/", 1)[-1]
        raise ConfigurationError(
            f"{str(error).splitlines()[0]}: {choose(choice, error.options or ())}"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"a choice in {folders[-1]} is no YAML: {' '.join(str(error).split())}"
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        where = re.match("In '(.+?)'", str(error))
        cause = error if isinstance(error, OmegaConfBaseException) else error.__context__
        raise ConfigurationError(
            _refusal(f"the choice {where[1]}" if where else "a choice", cause or error, schema,
                     _groups(name, folders))
        ) from error


def _refusal(
    where: str, error: BaseException, schema: type, groups: Iterable[str]
) -> str:
    """What is wrong with a file of choices, in a sentence."""
    known = {each.key: each for each in options_of(schema)}
    key = re.sub(r"\[.*", "", str(getattr(error, "full_key", None) or ""))
    section = key.split(".")[0]
    if section in groups and section not in known:
        return f"{where} is put below {key}: begin its file with the line `# @package _global_`"
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return f"{where} names no option ({key}): {checks.meant(key, known)}"
    if key in known:
        return f"{where} has a value of {key} that cannot be: give {grammar.wanted(known[key])}"
    return f"{where} cannot be read: {str(error).splitlines()[0].rstrip('.')}"


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
    except MissingMandatoryValue as error:
        known = {each.key: each for each in options_of(schema)}  # type: ignore[arg-type]
        option = known[str(error.full_key)]
        raise ConfigurationError(
            f"{option.key} has no value: write {option.key}=VALUE ({option.told.rstrip('.')})"
        ) from error
    except OmegaConfBaseException as error:  # what a value refers to is not there
        (reason,) = re.findall("resolving interpolation: (.*)", str(error))[:1] or [""]
        told = f" ({reason.rstrip('.')})" if reason else ""
        raise ConfigurationError(
            f"{error.full_key} refers to something that is not there{told}: give it a plain value"
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


def _check_sections(
    name: str, given: list[Override], schema: type, folders: list[Path], further: list[str]
) -> None:
    """Keys of a section that the chosen groups leave null can be given no value."""
    for option in options_of(schema):
        section = option.key
        inside = [each for each in given if f"{checks.key_of(each)}.".startswith(f"{section}.")]
        if not (option.section and option.optional and inside):
            continue
        groups = _groups(name, folders)
        chosen = [str(each.input_line) for each in given if each.key_or_group in groups] + further

        def there(choices: list[str], section: str = section) -> bool:
            return OmegaConf.select(compose(name, overrides=choices), section) is not None

        if not there(chosen):
            group = section.split(".")[0]
            having = [
                f"{group}={path.stem}"
                for path in groups[group]
                if there([*chosen, f"{group}={path.stem}"])
            ]
            raise ConfigurationError(
                f"{inside[0].input_line} is an option of {section}, which this {group} has not: "
                f"choose one that has it ({', '.join(having)})"
            )
