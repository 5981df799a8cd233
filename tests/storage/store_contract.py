"""What every store has to do, whatever lies beneath: subclass it and give it a `store`."""

import dataclasses
import json
import math
import os
import pickle
import signal
import subprocess
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pyarrow as pa
import pytest
import torch
import xxhash
from store_processes import (
    CONTEXT,
    OURS,
    come_and_go,
    create_many,
    inherit,
    run_all,
    write_for_ever,
)

from universal_ray.errors import (
    ConfigurationError,
    DamagedError,
    LockedError,
    MissingError,
    StorageError,
)
from universal_ray.storage import lock as locks
from universal_ray.storage.lock import RunLock, read_lock
from universal_ray.storage.store import Receipt, Store

NEW = ".nonce/" + 32 * "0"


class StoreContract:
    """What holds for every store: a subclass has the fixture `store`."""

    def corrupt(self, store: Store, path: str, data: bytes) -> None:
        """Puts other bytes in a file's place behind the store's back."""
        store.put(path, data)

    def test_bytes_come_back_and_the_receipt_says_what_was_written(self, store):
        receipt = store.put("a/b.bin", b"first")
        assert receipt == Receipt("a/b.bin", 5, xxhash.xxh3_128(b"first").hexdigest())
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
        with pytest.raises(DamagedError, match=r"sums\.safetensors cannot be read"):
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
        store.put(OURS, b".")
        assert store.exists(OURS)
        store.delete(OURS)
        store.delete(OURS)
        assert not store.exists(OURS) and store.list() == []

    def test_what_bears_another_name_is_never_deleted(self, store):
        store.put("roles/web/tasks/main.json", b"theirs")
        store.delete("roles/web/tasks/main.json")
        assert store.get("roles/web/tasks/main.json") == b"theirs"
        assert store.names() == ["roles"]

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
        assert store.sizes() == {"u.safetensors": len(broken)}
        with pytest.raises(DamagedError, match=r"u\.safetensors .* cut or altered"):
            store.get_tensors("u.safetensors", receipt)
        if damage != "one bit":  # which only a receipt reveals
            with pytest.raises(DamagedError, match=r"u\.safetensors cannot be read"):
                store.get_tensors("u.safetensors")

    def test_damaged_json_and_tables_are_named(self, store):
        store.put("m.json", b'{"n": ')
        with pytest.raises(DamagedError, match=r"m\.json cannot be read as JSON"):
            store.get_json("m.json")
        store.put("m.json", b"[1]")
        with pytest.raises(DamagedError, match="it holds no object"):
            store.get_json("m.json")
        store.put_table("t.parquet", pa.table({"x": list(range(1000))}))
        self.corrupt(store, "t.parquet", store.get("t.parquet")[:-10])
        with pytest.raises(DamagedError, match=r"t\.parquet cannot be read as Parquet"):
            store.get_table("t.parquet")

    def test_a_file_that_is_moved_is_there_under_one_name(self, store):
        new, old = "tables/unfinished/roles-0123456789ab/roles.parquet", "tables/roles.parquet"
        store.put(new, b"new")
        store.put(old, b"old")
        store.move(new, old)
        assert store.list() == [old] and store.get(old) == b"new"
        with pytest.raises(StorageError, match="could not be moved"):
            store.move(new, old)
        assert store.get(old) == b"new"

    def test_create_succeeds_once(self, store):
        assert store.create("only", b"mine")
        assert not store.create("only", b"yours")
        assert store.get("only") == b"mine" and store.list() == ["only"]
        assert store.create("only", b"mine")  # which is how a writer without an answer knows

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


class SharedStoreContract(StoreContract):
    """The same and what several processes at once may count on."""

    rounds = 4
    """How often what might fail by chance is tried."""
    rivals = 4
    """Processes that want the same."""

    def test_what_another_process_writes_is_read_and_listed_at_once(self, store):
        store.put(".nonce/0", b".")
        with ProcessPoolExecutor(1, CONTEXT) as other:
            for number in range(self.rounds):
                # Each question before the answer changes, in case that it is remembered.
                assert store.list(".nonce") == [".nonce/0"] and not store.exists(NEW)
                data = str(number).encode()
                receipt = other.submit(store.put, NEW, data).result(60)
                assert store.list(".nonce") == [".nonce/0", NEW] and store.exists(NEW)
                assert store.get(NEW) == data and store.verify(receipt)
                other.submit(store.put, NEW, b"again").result(60)
                assert store.get(NEW) == b"again" and not store.verify(receipt)
                other.submit(store.delete, NEW).result(60)
                with pytest.raises(MissingError):
                    store.get(NEW)

    def test_a_writer_killed_at_any_moment_leaves_a_whole_file(self, store):
        size = 4_000_000
        ready = CONTEXT.Event()
        for _ in range(2):
            writer = CONTEXT.Process(
                target=write_for_ever, args=(store, "bytes", ready, size), daemon=True
            )
            writer.start()
            assert ready.wait(60)
            ready.clear()
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
            assert store.list() == [OURS]
            data = store.get(OURS)
            assert data == data[:1] * size

    def test_of_many_creators_one_wins_each_time(self, store):
        count = 5 * self.rounds
        start, won = CONTEXT.Barrier(self.rivals), CONTEXT.Queue()
        arguments = (store, count, start, won)
        creators = [
            CONTEXT.Process(target=create_many, args=arguments) for _ in range(self.rivals)
        ]
        for creator in creators:
            creator.start()
        ended, winners = 0, []
        while ended < self.rivals:
            item = won.get(timeout=60)
            ended += item is None
            winners += [item] if item else []
        for creator in creators:
            creator.join()
        assert sorted(number for number, _ in winners) == list(range(count))
        assert all(store.get(f"c/{number}") == str(pid).encode() for number, pid in winners)

    def test_of_many_heirs_of_a_dead_driver_exactly_one_succeeds(self, store):
        child = subprocess.Popen(["true"])
        child.wait()
        dead = dataclasses.asdict(dataclasses.replace(locks._this_process(), pid=child.pid))
        stores = [Store(f"{store.url}/{number}") for number in range(self.rounds)]
        for inner in stores:
            inner.put("lock/000001.json", json.dumps(dead).encode())
        heirs, results = self.rivals, CONTEXT.Queue()
        start, all_tried = CONTEXT.Barrier(heirs), CONTEXT.Barrier(heirs)
        arguments = (stores, start, all_tried, results)
        run_all([CONTEXT.Process(target=inherit, args=arguments) for _ in range(heirs)])
        outcome = Counter(results.get(timeout=5) for _ in range(heirs * len(stores)))
        for number in range(len(stores)):
            assert outcome[number, "won"] == 1 and outcome[number, "refused"] == heirs - 1

    def test_no_two_drivers_are_ever_inside(self, store, tmp_path):
        """Acquiring, releasing and tidying away, all at once for a while."""
        rivals, entries = self.rivals, CONTEXT.Queue()
        start = CONTEXT.Barrier(rivals)
        arguments = (store, str(tmp_path / "inside"), start, 0.7, entries)
        run_all([CONTEXT.Process(target=come_and_go, args=arguments) for _ in range(rivals)])
        assert sum(entries.get(timeout=5) for _ in range(rivals)) > 0
        assert len(store.list("lock")) <= 2
