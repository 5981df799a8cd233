"""What of a stage's folder its options make: it stays, and all else goes when the stage is done."""

from universal_ray.storage.store import Store


class Kept:
    """Of one folder, whose own folders and files are of one model each."""

    def __init__(self, store: Store, folder: str):
        self._store, self._folder = store, folder
        self._whole: set[str] = set()
        self._pieces: set[str] = set()

    def whole(self, path: str) -> str:
        """A path, of which all stays that lies in the same folder of one model."""
        self._whole.add(self._top(path))
        return path

    def piece(self, folder: str) -> str:
        """A folder that stays, whatever becomes of those beside it."""
        self._pieces.add(folder)
        return folder

    def drop_others(self) -> None:
        for path in self._store.list(self._folder):
            if self._top(path) not in self._whole and path.rpartition("/")[0] not in self._pieces:
                self._store.delete(path)

    @staticmethod
    def _top(path: str) -> str:
        return "/".join(path.split("/")[:2])
