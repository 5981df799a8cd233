"""What holds for all tests: one thread each, the session's cluster, and what is made once.

Tests that use `nodes`, as their first fixture, run in one process, the rest of each file in one, so
that a fixture of a module is made once however many processes share the work.
"""

import fcntl
import gc
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

# The matrices here are small, and threads that wait for each other cost several times what they
# save; whoever starts torch or a process after this has one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing that an import leaves is garbage, and to look for some takes as long as many an import.
gc.disable()

# Where a function or a dataclass tells shapes, they are checked at every call, in the tests alone;
# other types are told by mypy.
PACKAGE = Path(__file__).parents[1] / "universal_ray"
SHAPED = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if re.search(r"^from jaxtyping import", path.read_text(encoding="utf-8"), re.MULTILINE)
]
_checked = jaxtyping.jaxtyped


def _where_shapes_are_told(*, typechecker: Any) -> Callable[[Any], Any]:
    def decorate(made: Any) -> Any:
        told = map(str, getattr(made, "__annotations__", {}).values())
        shaped = any("jaxtyping." in each for each in told)
        return _checked(made, typechecker=typechecker) if shaped else made

    return decorate


jaxtyping.jaxtyped = _where_shapes_are_told  # type: ignore[assignment]  # what the hook puts on each
jaxtyping.install_import_hook(SHAPED, "beartype.beartype")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files go to processes as they are, but for tests on the cluster, which all go to one.

    By name and place: this process collects no tests. (`--dist=loadgroup` marks the tests in a way
    that pytest 9.2 does not see.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            name = re.escape(test.partition("[")[0])
            on_the_cluster = re.search(rf"^def {name}\(\s*nodes\b", _text(file), re.MULTILINE)
            return "nodes" if on_the_cluster else file

    return ByFile(config, log)


@cache
def _text(file: str) -> str:
    return (Path(__file__).parents[1] / file).read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those on the cluster first: they wait the longest."""
    items.sort(key=lambda item: not _on_the_cluster(item))


def pytest_collection_finish() -> None:
    """Whatever was imported stays: let no collection of garbage go through it, time and again.

    So is what the first study would import, half a million objects, where there will be any.
    """
    if "helpers_study" in sys.modules:
        from universal_ray.stages import registry

        for name in registry.STAGES:
            registry.stage(name)
        import_module("transformer_lens.model_bridge.sources")
        import_module("sklearn.decomposition")
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_disk_is_waited_for() -> Iterator[None]:
    """No test cuts the power, and most of what a small file takes is this wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def _on_the_cluster(item: pytest.Item) -> bool:
    return "nodes" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Path]:
    """`once(name, make)`: a folder that `make` has filled, once for all processes of the session.

    It is as long as the session lives: who would change it copies it first.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def folder(name: str, make: Callable[[Path], Any]) -> Path:
        place, whole = root / f"once-{name}", root / f"once-{name}.whole"
        with (root / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                make(place)
                whole.touch()
        return place

    return folder


class Nodes:
    """A cluster whose head has no CPU: whoever works on it adds the nodes that it works on."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self._some: Any = None
        self.address: str = self._cluster.address

    def some(self) -> None:
        """A node of two CPUs, for tests to which no other matters: the last test's, if it has one.

        (A node starts in seconds, and processes of it compute for as many.)
        """
        if self._some is None:
            self._some = self._cluster.add_node(num_cpus=2)

    def add(self, cpus: int, **environment: str) -> Any:
        """One more node, whose workers have these variables; no other has CPUs but those added."""
        if self._some is not None:
            self._cluster.remove_node(self._some)
            self._some = None
        return self._cluster.add_node(num_cpus=cpus, env_vars=environment or None)

    def remove(self, node: Any) -> None:
        self._cluster.remove_node(node)

    def clear(self) -> None:
        """Nodes that were added go."""
        for node in self._cluster.worker_nodes - {self._some}:
            self._cluster.remove_node(node)
        self._cluster.wait_for_nodes()

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.shutdown()


@pytest.fixture
def nodes(_cluster: Nodes) -> Iterator[Nodes]:
    """The session's cluster: a test says first whether it adds nodes, or takes some."""
    yield _cluster
    _cluster.clear()
