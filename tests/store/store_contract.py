"""What every store has to do, whatever lies beneath: subclass it and give it a `store`."""

import hashlib
import math
import pickle

import pyarrow as pa
import pytest
import torch

from universal_ray.errors import ConfigurationError, LockedError, MissingError, StorageError
from universal_ray.lock import RunLock, read_lock
from universal_ray.store import Receipt, Store


class StoreContract:
    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    def corrupt(self, store: Store, path: str, data: bytes) -> None:
        """Puts other bytes in a file's place behind the store's back."""
        store.put(path, data)

    def test_bytes_come_back_and_the_receipt_says_what_was_written(self, store):
        receipt = store.put("a/b.bin", b"first")
        assert receipt == Receipt("a/b.bin", 5, hashlib.sha256(b"first").hexdigest())
        assert store.get("a/b.bin") == b"first"
        store.put("a/b.bin", b"second")
        assert store.get("a/b.bin") == b"second"
        assert store.put("empty", b"").bytes == 0 and store.get("empty") == b""

    @pytest.mark.parametrize(
        "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64]
    )
    def test_tensors_come_back_bit_for_bit(self, store, dtype):
        sums_LN = (torch.randn(3, 5, generator=torch.Generator().manual_seed(1)) * 9).to(dtype)
        tensors = {
            "layer.0": sums_LN[0],  # two slices of one storage
            "layer.1": sums_LN[1],
            "transposed": sums_LN.T,
            "scalar": torch.tensor(7, dtype=dtype),
            "nothing": torch.empty(0, 4, dtype=dtype),
        }
        receipt = store.put_tensors("unit/sums.safetensors", tensors, {"n": "12"})
        back = store.get_tensors("unit/sums.safetensors", receipt)
        assert back.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert back[name].dtype == dtype and torch.equal(back[name], tensor)
        some = store.get_tensors("unit/sums.safetensors", names=["layer.1"])
        assert list(some) == ["layer.1"] and torch.equal(some["layer.1"], sums_LN[1])
        some["layer.1"] += 1  # the caller's own
        assert torch.equal(store.get_tensors("unit/sums.safetensors")["layer.1"], sums_LN[1])
        with pytest.raises(StorageError, match=r"sums\.safetensors cannot be read"):
            store.get_tensors("unit/sums.safetensors", names=["layer.2"])

    def test_json_is_strict(self, store):
        content = {"n": 3, "none": None, "name": "café", "list": [1.5, {"x": True}]}
        store.put_json("m.json", content)
        assert store.get_json("m.json") == content
        with pytest.raises(ValueError, match="JSON"):
            store.put_json("n.json", {"x": math.nan})
        assert not store.exists("n.json")

    def test_tables_keep_schema_metadata_and_row_groups(self, store):
        schema = pa.schema(
            [
                pa.field("max_corr", pa.float32(), metadata={"unit": "1"}),
                pa.field("top", pa.list_(pa.int32())),
            ]
        )
        table = pa.table([[0.5, None, 0.25], [[1, 2], [], None]], schema=schema)
        store.put_table("model=x/pairs.parquet", table, row_group_size=2)
        back = store.get_table("model=x/pairs.parquet")
        assert back.equals(table) and back.schema.field(0).metadata == {b"unit": b"1"}
        assert store.get_table("model=x/pairs.parquet", ["top"]).column_names == ["top"]
        parquet = pa.parquet.ParquetFile(pa.BufferReader(store.get("model=x/pairs.parquet")))
        assert parquet.num_row_groups == 2
        assert parquet.metadata.row_group(0).column(0).compression == "ZSTD"

    def test_list_is_sorted_relative_and_whole_folders_only(self, store):
        assert store.list() == [] and store.list("moments") == []
        for path in ("moments/b.x", "moments/a/c.x", "moments2/z.x", "study.yaml"):
            store.put(path, b".")
        assert store.list("moments") == ["moments/a/c.x", "moments/b.x"]
        assert store.list() == ["moments/a/c.x", "moments/b.x", "moments2/z.x", "study.yaml"]

    def test_delete_twice_and_exists(self, store):
        store.put("d/x", b".")
        assert store.exists("d/x")
        store.delete("d/x")
        store.delete("d/x")
        assert not store.exists("d/x") and store.list() == []

    @pytest.mark.parametrize("read", ["get", "get_tensors", "get_json", "get_table"])
    def test_a_missing_file_is_named(self, store, read):
        with pytest.raises(MissingError, match=r"no/where\.x does not exist") as caught:
            getattr(store, read)("no/where.x")
        assert isinstance(caught.value, FileNotFoundError)
        assert not store.verify(Receipt("no/where.x", 1, ""))

    @pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x"])
    def test_paths_stay_inside(self, store, path):
        with pytest.raises(ConfigurationError, match="leaves the run directory"):
            store.put(path, b".")

    @pytest.mark.parametrize("damage", ["header cut", "data cut", "one bit", "empty"])
    def test_a_damaged_tensor_file_is_found(self, store, damage):
        receipt = store.put_tensors("u.safetensors", {"x": torch.arange(1000.0)})
        assert store.verify(receipt)
        whole = store.get("u.safetensors")
        flipped = bytearray(whole)
        flipped[-2001] ^= 1
        cut = {"header cut": 20, "data cut": len(whole) - 1, "empty": 0}
        broken = bytes(flipped) if damage == "one bit" else whole[: cut[damage]]
        self.corrupt(store, "u.safetensors", broken)
        assert not store.verify(receipt)
        with pytest.raises(StorageError, match=r"u\.safetensors .* cut or altered"):
            store.get_tensors("u.safetensors", receipt)
        if damage != "one bit":  # which only a receipt reveals
            with pytest.raises(StorageError, match=r"u\.safetensors cannot be read"):
                store.get_tensors("u.safetensors")

    def test_damaged_json_and_tables_are_named(self, store):
        store.put("m.json", b'{"n": ')
        with pytest.raises(StorageError, match=r"m\.json cannot be read as JSON"):
            store.get_json("m.json")
        store.put_table("t.parquet", pa.table({"x": list(range(1000))}))
        self.corrupt(store, "t.parquet", store.get("t.parquet")[:-10])
        with pytest.raises(StorageError, match=r"t\.parquet cannot be read as Parquet"):
            store.get_table("t.parquet")

    def test_create_succeeds_once(self, store):
        assert store.create("only", b"mine")
        assert not store.create("only", b"yours")
        assert store.get("only") == b"mine" and store.list() == ["only"]

    def test_the_nonce_is_seen_where_it_was_written(self, store):
        old = store.write_nonce()
        new = store.write_nonce()
        pickle.loads(pickle.dumps(store)).check_nonce(new)
        with pytest.raises(StorageError, match="must be on storage that all nodes share"):
            store.check_nonce(old)

    def test_a_lock_is_held_refused_and_given_back(self, store):
        for _ in range(3):
            with RunLock(store) as lock:
                lock.check()
                assert read_lock(store)["alive"] is True
                with pytest.raises(LockedError, match="in use by process"), RunLock(store):
                    pass
                lock.check()
            assert read_lock(store) is None
        assert len(store.list("lock")) == 1
