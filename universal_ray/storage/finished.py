"""The finished tables of a run: which stages they are of, and that they are whole.

One marker names every table with length and checksum, and what each stage made them from. A stage
writes its tables under names of their own; once all are there, the marker falls, they take the
places of the old ones, tables of later stages go, since they tell of what was, and the marker is
written anew. So whenever there is a marker, the tables are those of one study.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from universal_ray.storage import checked
from universal_ray.storage.store import Receipt, Store

if TYPE_CHECKING:
    import pyarrow

FOLDER = "tables"
MARKER = f"{FOLDER}/done.json"
DRAFTS = f"{FOLDER}/unfinished"
CORRELATIONS, PROFILE, ROLES, REPORT = "correlations", "profile", "roles", "report"
"""The stages of a run; each builds on the one before."""

PAIRS_PATH = f"{FOLDER}/pairs.parquet"
NEURONS_PATH = f"{FOLDER}/neurons.parquet"
SIMILARITY_PATH = f"{FOLDER}/similarity.parquet"
SUMMARY_PATH = f"{FOLDER}/summary.json"
STATISTICS_PATH = f"{FOLDER}/statistics.parquet"
FEATURES_PATH = f"{FOLDER}/features.parquet"
TAXONOMY_PATH = f"{FOLDER}/taxonomy.parquet"
BANK_PATH = f"{FOLDER}/bank.parquet"
ROLES_PATH = f"{FOLDER}/roles.parquet"
INTERVENTIONS_PATH = f"{FOLDER}/interventions.parquet"
ATTENTION_PATH = f"{FOLDER}/attention.parquet"
HEADS_PATH = f"{FOLDER}/heads.parquet"
VOCABULARY_PATH = f"{FOLDER}/vocabulary.parquet"
EXAMPLES_PATH = f"{FOLDER}/examples.parquet"
CONDITIONAL_PATH = f"{FOLDER}/conditional.parquet"
DESCRIPTIONS_PATH = f"{FOLDER}/descriptions.parquet"

TABLES = {
    CORRELATIONS: (PAIRS_PATH, NEURONS_PATH, SIMILARITY_PATH, SUMMARY_PATH),
    PROFILE: (
        STATISTICS_PATH, FEATURES_PATH, TAXONOMY_PATH, BANK_PATH, NEURONS_PATH, SUMMARY_PATH,
    ),
    ROLES: (ROLES_PATH, INTERVENTIONS_PATH, ATTENTION_PATH, HEADS_PATH, SUMMARY_PATH),
    REPORT: (
        VOCABULARY_PATH, EXAMPLES_PATH, CONDITIONAL_PATH, DESCRIPTIONS_PATH, SUMMARY_PATH,
    ),
}  # fmt: skip
"""What each stage writes, in the order of the stages; a later one adds to some of an earlier."""


def stages(store: Store) -> dict[str, str]:
    """Stages whose tables are there, with the fingerprint of what each was made from."""
    found = checked.told(store, MARKER).get("stages")
    return found if isinstance(found, dict) else {}


def stand(store: Store, stage: str, fingerprint: str) -> bool:
    """Whether a stage's tables are there, made from this, and what was written."""
    if stages(store).get(stage) != fingerprint:
        return False
    receipts = checked.receipts(store, MARKER)
    return all(path in receipts and store.verify(receipts[path]) for path in TABLES[stage])


def get_table(store: Store, path: str, columns: Sequence[str] | None = None) -> "pyarrow.Table":
    """A finished table. Raises DamagedError where it is not; the marker goes."""
    return checked.read(
        store, MARKER, path, lambda path, receipt: store.get_table(path, columns, receipt)
    )


def get_json(store: Store, path: str) -> dict[str, Any]:
    """A finished summary. Raises DamagedError where it is not; the marker goes."""
    return checked.read(store, MARKER, path, store.get_json)


class Draft:
    """Tables of one stage on their way: a task of the stage writes them, its driver swaps them in.

    Named by what they are made from, so that a writer that was given up disturbs no other.
    """

    def __init__(self, store: Store, stage: str, fingerprint: str) -> None:
        self._store, self._stage, self._fingerprint = store, stage, fingerprint
        self._folder = f"{DRAFTS}/{stage}-{fingerprint[:12]}"
        self._marker = f"{self._folder}/done.json"
        self._receipts: list[Receipt] = []

    def _path(self, path: str) -> str:
        return path.replace(FOLDER, self._folder, 1)

    def put_table(self, path: str, table: "pyarrow.Table", row_group_size: int) -> None:
        """Write one of the stage's tables; `path` is where it will lie."""
        receipt = self._store.put_table(self._path(path), table, row_group_size)
        self._receipts.append(receipt)

    def put_json(self, path: str, content: dict[str, Any]) -> None:
        """Write one of the stage's summaries; `path` is where it will lie."""
        self._receipts.append(self._store.put_json(self._path(path), content))

    def finish(self) -> None:
        """All are written."""
        checked.finish(self._store, self._marker, self._receipts)

    def swap_in(self) -> None:
        """Put the tables in the places of those before, and drop those of later stages."""
        store, order = self._store, list(TABLES)
        places = {path: self._path(path) for path in TABLES[self._stage]}
        made = [
            checked.read(store, self._marker, place, lambda _, receipt: receipt)
            for place in places.values()
        ]
        earlier = order[: order.index(self._stage)]
        standing = {name: key for name, key in stages(store).items() if name in earlier}
        kept = {path for name in standing for path in TABLES[name]} - places.keys()
        receipts = [r for path, r in checked.receipts(store, MARKER).items() if path in kept]
        store.delete(MARKER)
        store.delete(self._marker)
        outdated = {path for tables in TABLES.values() for path in tables} - kept - places.keys()
        for path in sorted(outdated):
            store.delete(path)
        for (path, place), receipt in zip(places.items(), made, strict=True):
            store.move(place, path)
            receipts.append(Receipt(path, receipt.bytes, receipt.checksum))
        told = {**standing, self._stage: self._fingerprint}
        checked.finish(store, MARKER, receipts, stages=told)
        clear(store)


def clear(store: Store) -> None:
    """Delete tables that were never finished."""
    for path in store.list(DRAFTS):
        store.delete(path)
