"""Values as tables and JSON have them, and what is left of tables that were never finished."""

import numpy as np
import torch

from universal_ray.storage import finished
from universal_ray.storage.columns import plain_numbers
from universal_ray.storage.store import Store


def test_numbers_of_any_library_are_plain_and_nan_is_null():
    value = {"a": [torch.tensor(2.5), np.int64(3), float("nan")], "b": {"c": np.float32("nan")}}
    assert plain_numbers(value) == {"a": [2.5, 3, None], "b": {"c": None}}
    assert type(plain_numbers(np.int64(3))) is int


def test_drafts_go_and_finished_tables_stay(tmp_path):
    store = Store(str(tmp_path))
    for path in ("tables/unfinished/roles-0123456789ab/roles.parquet", finished.ROLES_PATH):
        store.put(path, b".")
    finished.clear(store)
    assert store.list() == [finished.ROLES_PATH]
