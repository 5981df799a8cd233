"""Which neurons do independently trained language models share, and what do they do?

    import universal_ray as ur

    study = ur.compose("run.dir=runs/tiny")  # the default study
    run = ur.run(study)
    run.table("neurons").to_pandas()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from universal_ray.errors import (
    ConfigurationError,
    CorpusError,
    DamagedError,
    HubError,
    LockedError,
    MemoryShortError,
    MissingError,
    ModelError,
    NumericalError,
    ResourceError,
    StorageError,
    UnitError,
    UniversalRayError,
)

if TYPE_CHECKING:
    from universal_ray.cli.study import compose, run
    from universal_ray.config.study import Study
    from universal_ray.report.run import Run, open
    from universal_ray.stages.correlations.correlate import correlate

import os

# Read by MKL at its first product: from then on bits do not depend on how memory is aligned.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "CorpusError",
    "DamagedError",
    "HubError",
    "LockedError",
    "MemoryShortError",
    "MissingError",
    "ModelError",
    "NumericalError",
    "ResourceError",
    "Run",
    "StorageError",
    "Study",
    "UnitError",
    "UniversalRayError",
    "compose",
    "correlate",
    "open",
    "run",
]

_HOMES = {
    "Run": "universal_ray.report.run",
    "Study": "universal_ray.config.study",
    "open": "universal_ray.report.run",
    "compose": "universal_ray.cli.study",
    "correlate": "universal_ray.stages.correlations.correlate",
    "run": "universal_ray.cli.study",
}
"""What is imported when it is first asked for, so that importing the package is quick: until a job
stands behind `guarded`, Ctrl-C is a traceback."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
