"""Every error a user can cause or meet, each also the built-in exception it resembles.

A message is one sentence that says what is wrong, where, and what to do.
"""


class UniversalRayError(Exception):
    """Base of all errors raised on purpose by this project.

    >>> import universal_ray as ur
    >>> try:
    ...     ur.run(ur.Study(), stages=["correlation"])
    ... except ur.UniversalRayError as error:
    ...     print(error)
    stages=correlation is no stage: did you mean correlations (of correlations, ...)?
    """


class ConfigurationError(UniversalRayError, ValueError):
    """An option is misspelt, ill-typed, out of range or contradicts another."""


class ModelError(UniversalRayError, ValueError):
    """A model or its tokenizer cannot be used for this study."""


class CorpusError(UniversalRayError, ValueError):
    """A corpus is ragged, empty, or does not fit the models."""


class MissingError(UniversalRayError, FileNotFoundError):
    """A path that the study names does not exist."""


class StorageError(UniversalRayError, OSError):
    """A file cannot be written, read back or trusted."""


class DamagedError(UniversalRayError, OSError):
    """A file is not the one that was written: cut, or altered since."""


class LockedError(UniversalRayError, RuntimeError):
    """Another driver works on the same run directory."""


class ResourceError(UniversalRayError, RuntimeError):
    """The cluster lacks what the study asks for."""


class NumericalError(UniversalRayError, ArithmeticError):
    """A sum or a correlation lies outside what arithmetic allows."""


class UnitError(UniversalRayError, RuntimeError):
    """A unit of work failed as often as it may."""


class MemoryShortError(UniversalRayError, MemoryError):
    """A worker could not hold what it was to compute."""


class HubError(UniversalRayError, ConnectionError):
    """The hub did not give what was asked for, and may do so later, or to another machine."""


def words(error: BaseException) -> str:
    """What an error says, its first line and what that leads to, as part of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first, *others = lines or [type(error).__name__]
    if first.endswith(":") and others:
        first = f"{first} {others[0]}"
    return first.rstrip(".:").replace(". ", "; ")[:200]
