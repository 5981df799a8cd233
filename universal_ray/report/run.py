"""A run directory, to be read from a notebook: what it is of, which stages are done, its tables."""

import os
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from universal_ray.config.choice import choose, nearest
from universal_ray.config.report import KINDS
from universal_ray.config.site import KEY
from universal_ray.errors import ConfigurationError, DamagedError, MissingError, StorageError
from universal_ray.stages import registry
from universal_ray.storage import checked, finished
from universal_ray.storage.finished import MARKER, SUMMARY_PATH
from universal_ray.storage.names import STUDY_FILE
from universal_ray.storage.record import check_started, read_record
from universal_ray.storage.store import Receipt, Store

if TYPE_CHECKING:
    import pyarrow

    from universal_ray.report.windows import Window

PATHS = {
    PurePosixPath(path).stem: path
    for paths in finished.TABLES.values()
    for path in paths
    if path.endswith(".parquet")
}
"""Where each table lies, by the name that a user gives it."""


class Run:
    """A run that was started, finished or not. Reading it changes nothing in its directory.

    Nothing is kept: what is asked for is read when it is asked for, and held against the checksum
    that was taken as it was written, so a run may go on meanwhile.

    >>> import universal_ray as ur
    >>> run = ur.open("runs/small")
    >>> run.stages
    ('correlations',)
    >>> run.tables
    ('pairs', 'neurons', 'similarity')
    >>> neurons = run.table("neurons", ["layer", "neuron", "excess_corr"]).to_pandas()
    >>> len(neurons)
    2048
    >>> run.summary["references"][0]["neurons"]
    2048
    >>> run.record["corpus"]["context"]
    128
    """

    def __init__(self, store: Store):
        """Raises MissingError where no run lives."""
        check_started(store)
        self.store = store
        self.url = store.url

    def __repr__(self) -> str:
        return f"<run in {self.url}, finished: {', '.join(self.stages) or 'nothing yet'}>"

    @property
    def record(self) -> dict[str, Any]:
        """What `study.yaml` says: `configuration`, `models`, `corpus`, `versions` and `bits`.

        Raises StorageError where it was altered.
        """
        found = read_record(self.store)
        assert found is not None, "looked at as the run was opened"
        return found

    @property
    def site(self) -> str:
        """What a unit of it is, by the values of `models.site`.

        Raises StorageError where what says it was altered.
        """
        found = self.record["bits"].get(KEY)
        if found is None:
            raise StorageError(
                f"{self.url}/{STUDY_FILE} does not say {KEY}: put it back as it was, or make the "
                "run anew in another run.dir"
            )
        return str(found)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages whose tables are there, in their order."""
        done = finished.stages(self.store)
        return tuple(stage for stage in finished.TABLES if stage in done)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that are there."""
        receipts = checked.receipts(self.store, MARKER)
        return tuple(name for name, path in PATHS.items() if path in receipts)

    @property
    def summary(self) -> dict[str, Any]:
        """Shares, counts by layer and all else that is told of whole models.

        Raises MissingError where no stage is finished, DamagedError where the file was altered.
        """
        return self.store.get_json(SUMMARY_PATH, self._receipt(SUMMARY_PATH))

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        *,
        neurons: Iterable[str] | None = None,
    ) -> "pyarrow.Table":
        """A table, or its `columns` alone, or its rows of some `neurons` alone, which are named as
        model:layer.neuron; what a column means is in the metadata of its field.

        Raises ConfigurationError for a name or a neuron that is none, MissingError where no stage
        has made it yet, DamagedError where the file was altered.

        >>> import universal_ray as ur
        >>> ur.open("runs/small").table("pairs", ["id", "other"], neurons=["a:1.848"]).to_pylist()
        [{'id': 'a:1.848', 'other': 'b'}]
        """
        if neurons is None:
            return self._table(name, columns)
        read = columns if columns is None or "id" in columns else ["id", *columns]
        found = self._of(name, list(neurons), read)
        return found if columns is None else found.select(list(columns))

    def windows(self, *neurons: str, kind: str | None = None) -> "list[Window]":
        """Windows of tokens in which neurons of a reference model are shown, with what their
        partners do in them; of one `kind` alone where it is given: top, bottom, quantile, random or
        silent. In the order of tables/examples.parquet.

        Raises ConfigurationError for a kind that is none or a neuron without any window, and as
        `table` does.

        >>> import universal_ray as ur
        >>> run = ur.open("runs/tiny")
        >>> [window.rank for window in run.windows("a:0.3", kind="top")]
        [0, 1]
        >>> run.windows("a:0.4000")
        Traceback (most recent call last):
            ...
        universal_ray.errors.ConfigurationError: a:0.4000 is no neuron of .../runs/tiny: ...
        """
        from universal_ray.report.windows import windows

        if kind not in (None, *KINDS):
            raise ConfigurationError(f"{kind} is no kind of window: {choose(kind, KINDS)}")
        examples = self._of("examples", list(neurons))
        there = set(examples["id"].to_pylist())
        for neuron in neurons:
            if neuron not in there:
                raise ConfigurationError(
                    f"{neuron} has no window in {self.url}: its model is no reference, "
                    "models.pairs=all makes every model one"
                )
        found = windows(examples, self.table("vocabulary", ["token_id", "text"]))
        return [window for window in found if kind in (None, window.kind)]

    def _of(
        self, name: str, neurons: Sequence[str], columns: Sequence[str] | None = None
    ) -> "pyarrow.Table":
        """Rows of some neurons of a table with an `id`. Raises ConfigurationError for what is none,
        for a table without.
        """
        import pyarrow
        import pyarrow.compute

        table = self._table(name, columns)
        if "id" not in table.column_names:
            raise ConfigurationError(
                f"the table {name} of {self.url} is not of neurons: read it whole"
            )
        wanted = pyarrow.array(neurons, pyarrow.string())
        found = table.filter(pyarrow.compute.is_in(table["id"], wanted))
        lost = set(neurons) - set(found["id"].to_pylist())
        known = set(self._table("pairs", ["id"])["id"].to_pylist()) if lost else lost
        for neuron in neurons:
            if neuron in lost and neuron not in known:
                raise ConfigurationError(
                    f"{neuron} is no neuron of {self.url}: they are named as {min(known)}"
                )
        return found

    def _table(self, name: str, columns: Sequence[str] | None) -> "pyarrow.Table":
        path = PATHS.get(name)
        if path is None:
            raise ConfigurationError(f"{name} is no table of a run: {choose(name, PATHS)}")
        receipt = self._receipt(path)
        try:
            return self.store.get_table(path, columns, receipt)
        except DamagedError:
            if columns is not None:
                self._check_columns(name, columns, receipt)
            raise

    def _receipt(self, path: str) -> Receipt:
        """What a file was when it was written."""
        receipt = checked.receipts(self.store, MARKER).get(path)
        if receipt is None:
            stage = next(stage for stage, paths in finished.TABLES.items() if path in paths)
            lacking = registry.why_not(stage, self.site)
            if lacking:
                why = f"{lacking[0].lower()}{lacking[1:]}"
                raise MissingError(f"{self.url}/{path} is not made: {why}")
            raise MissingError(
                f"{self.url}/{path} is not made yet, or was not whole: the run's command with "
                f"stages=[{stage}] makes it"
            )
        return receipt

    def _check_columns(self, name: str, columns: Sequence[str], receipt: Receipt) -> None:
        """Raise ConfigurationError for a column that a whole table has not."""
        there = self.store.get_table(receipt.path, receipt=receipt).column_names
        for column in columns:
            if column not in there:
                near = nearest(column, there)
                raise ConfigurationError(
                    f"the table {name} of {self.url} has no column {column}: "
                    + (f"did you mean {near}?" if near else "its column_names are what it has")
                )


def open(path: str | os.PathLike[str]) -> Run:
    """The run in a directory: a path, or a URL such as `s3://bucket/run`.

    Raises MissingError where no run lives.

    >>> import universal_ray as ur
    >>> run = ur.open("runs/small")
    >>> run.table("neurons").sort_by("excess_corr").num_rows
    2048
    >>> ur.open("runs/nowhere")
    Traceback (most recent call last):
        ...
    universal_ray.errors.MissingError: .../runs/nowhere holds no run: ...
    """
    return Run(Store(os.fspath(path)))
