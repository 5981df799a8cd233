"""What the entry points share: Hydra's configuration to a study, and errors to one sentence."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from universal_ray import testbed
from universal_ray.errors import ConfigurationError, UniversalRayError
from universal_ray.study import Study

if TYPE_CHECKING:
    from universal_ray.store import Store


def register() -> None:
    """Name the schema and the resolver (`${testbed:a}`) that `conf/` builds on."""
    ConfigStore.instance().store(name="study_schema", node=Study)
    OmegaConf.register_new_resolver("testbed", testbed.resolve, replace=True)


def parse(config: DictConfig) -> Study:
    """A typed study. Raises ConfigurationError for what the schema does not allow."""
    try:
        study = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigurationError(str(error).splitlines()[0]) from error
    assert isinstance(study, Study)
    return study


@contextmanager
def guarded() -> Iterator[None]:
    """Print an error made on purpose as its one sentence and exit with 1."""
    try:
        yield
    except UniversalRayError as error:
        logging.getLogger(__name__).debug("the error in full", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def correlate(study: Study) -> tuple["Store | None", Any]:
    """Plan, show the plan, and unless it is a dry run make the tables.

    Returns the run's store (None after a dry run) and the console.
    """
    from universal_ray.plan import describe
    from universal_ray.preflight import prepare
    from universal_ray.report.screen import Watcher, console, show_plan
    from universal_ray.store import Store

    out = console()
    store = Store(study.run.dir)
    prepared = prepare(study, store)
    show_plan(out, describe(prepared.plan, study.cluster.workers), f"plan of {store.url}")
    if study.dry_run:
        return None, out
    from universal_ray import driver

    with Watcher(out) as watch:
        driver.correlate(prepared, store, watch)
    return store, out
