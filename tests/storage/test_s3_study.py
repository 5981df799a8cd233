"""A whole study whose run directory lies on S3: the same bits as on a local disk."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers_study import computed, make, make_models, make_study, make_tokens, run, table_bytes

from universal_ray.errors import LockedError
from universal_ray.storage.lock import RunLock, read_lock
from universal_ray.storage.store import Store

ROOT = Path(__file__).parents[2]


def units_stored(store):
    return [path for path in store.list("moments") if path.endswith("done.json")]


@pytest.mark.thorough
@pytest.mark.parametrize("anew", [make, pytest.param(run, marks=pytest.mark.cluster)])
def test_a_study_on_s3_that_fails_for_a_while(request, tmp_path, s3_store, s3_server, anew):
    inputs = make_models(tmp_path, "ab"), make_tokens(tmp_path / "tokens", rows=33)
    expected = table_bytes(make(make_study(tmp_path / "run", *inputs)))
    study = make_study(s3_store.url, *inputs)
    if anew is run:
        nodes = request.getfixturevalue("nodes")
        nodes.add(2, **s3_server.environment)
        study.cluster.workers, study.cluster.address = 2, nodes.address
    with RunLock(s3_store), pytest.raises(LockedError, match="in use by process"):
        anew(study)
    failed = s3_server.counts()[1]

    def disturb():
        deadline = time.monotonic() + 120
        while not units_stored(s3_store) and time.monotonic() < deadline:
            time.sleep(0.05)
        s3_server.fail("broken", 8)

    thread = threading.Thread(target=disturb)
    thread.start()
    store = anew(study)
    thread.join()
    assert s3_server.counts()[1] - failed == 8
    assert sorted(computed(store)) == [0, 1, 2, 3, 4]  # none was lost and made again
    assert table_bytes(store) == expected
    anew(study)
    assert sorted(computed(store)) == [0, 1, 2, 3, 4]
    assert read_lock(store) is None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_default_study_on_s3(tmp_path, s3_store):
    for place in (str(tmp_path / "run"), s3_store.url):
        command = [sys.executable, str(ROOT / "jobs" / "run.py"), f"run.dir={place}"]
        done = subprocess.run(
            command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    local = table_bytes(Store(str(tmp_path / "run")))
    for made_by_each_stage in ("pairs", "taxonomy", "interventions"):
        assert f"tables/{made_by_each_stage}.parquet" in local
    remote = table_bytes(s3_store)
    assert remote.keys() == local.keys()
    assert [path for path in local if remote[path] != local[path]] == []
