"""However a run was made, scheduled, interrupted or grown, the tables have the same bits."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
from copy import deepcopy
from pathlib import Path

import helpers_study
import numpy as np
import psutil
import pytest
import yaml
from helpers_study import (
    CONTEXT,
    WORKERS,
    command,
    computed,
    inputs_of,
    make,
    make_models,
    make_study,
    make_tokens,
    plan_of,
    run,
    table_bytes,
)
from helpers_whole import copied

from universal_ray.config.study import Baseline, CorpusConfig, Pairs, TextConfig
from universal_ray.errors import ConfigurationError, LockedError, NumericalError, UnitError
from universal_ray.planning.items import layer_file, marker
from universal_ray.stages.correlations import folding
from universal_ray.stages.correlations.stage import CorrelationsStage
from universal_ray.storage.lock import RunLock, read_lock
from universal_ray.storage.names import STUDY_FILE
from universal_ray.storage.store import Store

UNITS = 13


@pytest.fixture(scope="module")
def inputs(once):
    def make_inputs(folder):
        make_models(folder, "abc")
        make_tokens(folder / "tokens")

    folder = once("inputs-of-bits", make_inputs)
    return [str(folder / name) for name in "abc"], str(folder / "tokens")


@pytest.fixture(scope="module")
def undisturbed(once, inputs):
    """The directory of a run with one worker, which needs no cluster: to be copied."""
    folder = once("run-of-bits", lambda folder: make(make_study(folder / "run", *inputs)))
    assert sorted(computed(Store(str(folder / "run")))) == list(range(UNITS))
    return folder / "run"


@pytest.fixture(scope="module")
def expected(undisturbed):
    return table_bytes(Store(str(undisturbed)))


@pytest.fixture
def finished(undisturbed, inputs, tmp_path):
    """The study of that run, finished in a directory of its own."""
    return make_study(copied(undisturbed, tmp_path / "finished"), *inputs)


def workers_of(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return [
            child
            for child in psutil.Process(process).children(recursive=True)
            if any(part.startswith(WORKERS) for part in _line(child))
        ]
    return []


def _line(process):
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def units_stored(store):
    return [path for path in store.list("moments") if path.endswith("done.json")]


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


@pytest.mark.thorough
def test_memory_that_takes_several_passes(inputs, expected, tmp_path):
    """Pairs cut into layers, each a pass of its own: the same bits."""
    study = make_study(tmp_path, *inputs, workers=2, memory=1.4e6 / 2**30)
    groups = plan_of(study).groups
    assert sum(len(group) for group in groups) == 7
    assert table_bytes(make(study)) == expected


@pytest.mark.cluster
def test_joined_cluster_one_of_whose_workers_is_killed_in_the_middle_of_a_unit(
    nodes, inputs, expected, tmp_path
):
    nodes.some()
    study = make_study(tmp_path, *inputs, workers=2, address=nodes.address)
    killed = []

    def kill():
        worker = wait_for(lambda: units_stored(Store(study.run.dir)) and workers_of(os.getpid()))[0]
        worker.send_signal(signal.SIGKILL)
        killed.append(worker.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    store = run(study)
    thread.join()
    assert killed
    assert table_bytes(store) == expected
    assert sorted(set(computed(store))) == list(range(UNITS))


@pytest.mark.cluster
def test_driver_killed_and_started_again(inputs, expected, tmp_path):
    study = make_study(tmp_path / "run", *inputs)
    store = Store(study.run.dir)
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command(study), stdout=log, stderr=log, cwd=tmp_path)
    try:
        wait_for(lambda: len(units_stored(store)) > 4 or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait()
    finished = computed(store) if store.exists("metrics.jsonl") else []
    assert len(finished) < UNITS, (tmp_path / "log").read_text()
    assert table_bytes(make(study)) == expected
    again = computed(store)[len(finished) :]
    assert not set(again) & set(finished)


@pytest.mark.thorough
def test_unit_and_block_cut_short_are_found_and_computed_again(finished, expected, caplog):
    store = Store(finished.run.dir)
    files = [path for path in store.list("moments") if "layer" in path]
    for kind, take in (("unit-", -1), ("block-", 0)):
        short = Path(finished.run.dir) / [path for path in files if kind in path][take]
        cut = short.read_bytes()[:-10]
        short.unlink()  # it is a link
        short.write_bytes(cut)
    before = len(computed(store))
    with caplog.at_level(logging.WARNING):
        make(finished)
    assert caplog.text.count("cut or altered") == 2
    assert set(computed(store)[before:]) == {0, 1, 12}
    assert table_bytes(store) == expected


def check_mended(study, expected, caplog, kind, again, anew):
    """A bit of a pair's sums is flipped; whoever makes tables `anew` computes units `again`."""
    store = Store(study.run.dir)
    files = [path for path in store.list("moments") if "layer" in path and "pair" in path]
    victim = Path(study.run.dir) / next(path for path in files if kind in path)
    data = bytearray(victim.read_bytes())
    data[-3] ^= 1
    victim.unlink()  # it is a link
    victim.write_bytes(bytes(data))
    for path in [*store.list("reduce"), "tables/done.json"]:
        store.delete(path)
    before = len(computed(store))
    with caplog.at_level(logging.WARNING):
        anew(study)
    assert "it was cut or altered" in caplog.text
    assert set(computed(store)[before:]) == again
    assert table_bytes(store) == expected


def test_flipped_bit_is_found_where_the_sums_are_read_and_mended_in_the_same_call(
    finished, expected, caplog
):
    check_mended(finished, expected, caplog, "unit-", {12}, make)


@pytest.mark.cluster
def test_flipped_bit_that_a_worker_of_a_cluster_finds_is_mended_in_the_same_call(
    nodes, finished, expected, caplog
):
    nodes.some()
    finished.cluster.address = nodes.address
    check_mended(finished, expected, caplog, "block-", {0, 1}, run)


@pytest.mark.thorough
def test_folded_and_unfolded_units(inputs, expected, tmp_path, monkeypatch):
    study = make_study(tmp_path, *inputs)
    with monkeypatch.context() as patch:
        patch.setattr(CorrelationsStage, "_folds", lambda self: [])
        store = make(study)
    assert not [path for path in store.list("moments") if "block-" in path]
    assert table_bytes(store) == expected
    for path in store.list("tables"):
        store.delete(path)
    planned = plan_of(study)
    for item in planned.items:
        for block in planned.layout.blocks:
            folding.fold(store, item, block)
    make(study)
    assert table_bytes(store) == expected


def test_growing_tokens_and_models_equals_having_them_from_the_start(inputs, expected, tmp_path):
    study = make_study(tmp_path, *inputs)
    small = deepcopy(study)
    small.models.compared = study.models.compared[:1]
    small.corpus.tokens = 50 * 32
    store = make(small)
    assert computed(store) == list(range(7))
    kept = {path: store.get(path) for path in store.list("moments") if "block-" in path}
    old = {item.key for item in plan_of(small).items}
    make(study)
    assert table_bytes(store) == expected
    assert all(store.get(path) == data for path, data in kept.items())
    # Whole units are there for the old items; the short one after them is another unit now.
    every = {item.key for item in plan_of(study).items}
    assert len(old) == 3 and len(every) == 5
    lines = store.get("metrics.jsonl").decode().splitlines()[7:]
    made = {each["unit"]: set(each["items"]) for each in map(json.loads, lines)}
    assert made == {k: every - old if k < 6 else every for k in range(UNITS)}


@pytest.mark.thorough
def test_text_of_which_more_is_taken(inputs, tmp_path):
    words = np.random.default_rng(0).choice(["neurons", "fire", "when", "tokens", "return"], 9000)
    lines = [json.dumps({"text": " ".join(some)}) for some in words.reshape(-1, 30)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    study = make_study(tmp_path / "run", inputs[0][:2], inputs[1])
    text = TextConfig(source=str(tmp_path / "text.jsonl"))
    study.corpus = CorpusConfig(context=CONTEXT, tokens=20 * CONTEXT, text=text)
    store = make(study)
    assert computed(store) == [0, 1, 2]
    study.corpus.tokens = 40 * CONTEXT
    make(study)
    assert computed(store)[3:] == [2, 3, 4]  # unit 2 was short
    study.run.dir = str(tmp_path / "at once")
    assert table_bytes(make(study)) == table_bytes(store)


@pytest.mark.thorough
def test_lengths_chosen_for_a_study_stay_when_it_grows(inputs, tmp_path):
    study = make_study(tmp_path, *inputs)
    study.units.batch, study.units.tokens, study.units.fold = 2 * 32, None, None
    study.corpus.tokens = 10 * 32
    make(study)
    study.corpus.tokens = None
    study.units.batch = None
    units = inputs_of(study).study.units
    assert (units.batch, units.tokens, units.fold) == (64, 256, 2)
    study.units.fold = 3
    with pytest.raises(ConfigurationError, match=r"units\.fold \(was 2, now 3\)"):
        inputs_of(study)


@pytest.mark.thorough
def test_new_rotations_threshold_and_pairs_compute_only_what_is_new(finished, tmp_path):
    study, store = finished, Store(finished.run.dir)
    count = len(computed(store))
    blocks = {path: store.get(path) for path in store.list("moments")}
    pairs = store.get_table("tables/pairs.parquet")
    study.baseline.rotations, study.baseline.kind = 4, Baseline.orthogonal
    study.universal.threshold = 0.1
    make(study)
    assert len(computed(store)) == count
    again = store.get_table("tables/pairs.parquet")
    assert again["max_corr"] == pairs["max_corr"]
    assert len(again["baseline_draws"][0].as_py()) == 4
    study.models.pairs = Pairs.all
    make(study)
    assert len(computed(store)) == 2 * count
    new = store.get("metrics.jsonl").decode().splitlines()[count:]
    assert all(len(json.loads(line)["items"]) == 1 for line in new)
    assert not any('"model-' in line for line in new)
    assert all(store.get(path) == data for path, data in blocks.items())
    study.run.dir = str(tmp_path / "at once")
    assert table_bytes(make(study)) == table_bytes(store)


def test_settings_that_decide_the_bits_may_not_change(finished, tmp_path):
    study, store = deepcopy(finished), Store(finished.run.dir)
    study.units.batch = 64
    with pytest.raises(ConfigurationError, match=r"units\.batch \(was 96, now 64\)"):
        inputs_of(study)
    study = deepcopy(finished)
    study.corpus.path = make_tokens(tmp_path / "other", seed=1)
    with pytest.raises(ConfigurationError, match="are not the tokens of the run"):
        inputs_of(study)
    study = deepcopy(finished)
    study.corpus.tokens = 32
    with pytest.raises(ConfigurationError, match="tokens may only be added"):
        inputs_of(study)
    study.corpus.tokens = None
    inputs_of(study)
    before = yaml.safe_load(store.get(STUDY_FILE))
    del before["bits"]["sums"]  # as of the version whose shifts had all bits of the means
    store.put(STUDY_FILE, yaml.safe_dump(before).encode())
    with pytest.raises(ConfigurationError, match=r"made by another version .* another run.dir"):
        inputs_of(study)


def test_second_driver_is_refused_while_the_first_lives(inputs, tmp_path):
    study = make_study(tmp_path, *inputs)
    with RunLock(Store(study.run.dir)), pytest.raises(LockedError, match="in use by process"):
        make(study)


@pytest.mark.thorough
def test_a_study_is_prepared_under_the_lock(inputs, tmp_path, monkeypatch):
    """Or a driver that came second would go by what it saw before the first one finished."""
    study, held, prepare = make_study(tmp_path, *inputs), [], helpers_study.prepare
    monkeypatch.setattr(
        helpers_study, "prepare",
        lambda study, store: held.append(read_lock(store)["alive"]) or prepare(study, store),
    )
    make(study)
    assert held == [True]


def test_activation_that_is_not_finite_stops_the_run_with_a_sentence(inputs, tmp_path):
    import torch
    from transformers import GPT2LMHeadModel

    broken = make_models(tmp_path, "z")[0]
    model = GPT2LMHeadModel.from_pretrained(broken)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.bias[3] = torch.inf
    model.save_pretrained(broken)
    study = make_study(tmp_path / "run", [inputs[0][0], broken], inputs[1])
    with pytest.raises(NumericalError, match=r"model z: .*not finite"):
        make(study)


@pytest.mark.thorough
@pytest.mark.parametrize("anew", [make, pytest.param(run, marks=pytest.mark.cluster)])
def test_unit_that_fails_three_times_stops_the_run_and_keeps_the_rest(
    request, inputs, expected, tmp_path, anew
):
    study = make_study(tmp_path, *inputs)
    if anew is run:
        nodes = request.getfixturevalue("nodes")
        nodes.some()
        study.cluster.address = nodes.address
    store = Store(study.run.dir)
    found = inputs_of(study)
    store.put(STUDY_FILE, yaml.safe_dump(found.record).encode())
    item = found.items[0]
    # A folder where unit 3 must put a file makes every attempt fail.
    in_the_way = tmp_path / layer_file(item.unit_folder(found.layout.units[3]), 0)
    in_the_way.mkdir(parents=True)
    (in_the_way / "thing").write_text("")
    with pytest.raises(UnitError, match="unit 3 failed 3 times"):
        anew(study)
    assert store.get_json("progress.json")["stage"] == "stopped"
    assert not store.exists(marker(item.unit_folder(found.layout.units[3])))
    (in_the_way / "thing").unlink()
    in_the_way.rmdir()
    assert table_bytes(make(study)) == expected
