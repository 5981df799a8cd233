"""Speeds that plans are timed with, and the memory that workers report."""

import json
import mmap
import os
from types import SimpleNamespace

import pytest
import torch

from universal_ray.config.study import ClusterConfig, Device, ForwardType, Policy, Study
from universal_ray.planning.capacity import smallest_memory
from universal_ray.planning.costs import FORWARD, HOST, PRODUCTS
from universal_ray.runtime import measure
from universal_ray.runtime.measure import (
    Clock,
    known_speed,
    machine_bytes,
    measured_rates,
    peak_bytes,
    plain_rate,
    reset_peak,
)
from universal_ray.storage.record import METRICS_FILE
from universal_ray.storage.store import Store

LINES = [
    {"flops": 6e12, "forward_flops": 1e12,
     "seconds": {"forward": 1.0, "products": 2.0, "write": 50.0}},
    {"flops": 2e12, "forward_flops": 2e12,
     "seconds": {"forward": 0.5, "products": 0.5, "operands": 1.5, "write": 0.0}},
    {"flops": 9e12, "seconds": {"products": 1.0}},  # of an earlier version
    {"stage": "profile", "seconds": {"forward": 9.0}},
]  # fmt: skip


def test_measured_rates_are_of_forward_passes_and_of_all_else_but_writing():
    assert measured_rates(LINES) == {FORWARD: 2e12, PRODUCTS: 2e12}
    assert measured_rates([]) == {}
    assert measured_rates([{"flops": 5, "forward_flops": 5, "seconds": {"write": 1.0}}]) == {}


def test_probing_leaves_the_number_of_threads():
    before = torch.get_num_threads()
    assert plain_rate(1) > 1e8
    assert torch.get_num_threads() == before


def study_on(device: Device, **cluster) -> Study:
    study = Study(cluster=ClusterConfig(device=device, **cluster))
    study.precision.moments = Policy.fp16 if device is Device.cuda else Policy.fp32
    return study


def test_a_gpu_has_no_speed_but_what_is_given_or_measured(tmp_path):
    store = Store(str(tmp_path))
    assert known_speed(study_on(Device.cuda), store) is None
    store.put(METRICS_FILE, "".join(json.dumps(line) + "\n" for line in LINES).encode())
    measured = known_speed(study_on(Device.cuda), store)
    assert measured and measured.rates[PRODUCTS] == measured.rates[FORWARD] == 2e12
    assert "as this run has measured" in measured.source
    given = known_speed(study_on(Device.cuda, tflops=300.0), store)
    assert given and given.rates[PRODUCTS] == 300e12
    assert given.rates[FORWARD] == pytest.approx(0.077 * 300e12)
    faster = study_on(Device.cuda, tflops=300.0)
    faster.models.dtype = ForwardType.tfloat32
    told = known_speed(faster, store)
    assert told and told.rates[FORWARD] > 3 * given.rates[FORWARD]


def test_a_cpu_is_as_fast_as_a_product_made_here_says(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "plain_rate", lambda threads: 1e11 * threads)
    speed = known_speed(study_on(Device.cpu, threads=2), Store(str(tmp_path)))
    assert speed and speed.rates[PRODUCTS] == pytest.approx(1.94e11)
    assert speed.rates[HOST] == 2
    given = known_speed(study_on(Device.cpu, threads=2, tflops=0.1), Store(str(tmp_path)))
    assert given and given.rates[PRODUCTS] == pytest.approx(1e11) and given.rates[HOST] == 2
    assert given.rates[FORWARD] / given.rates[PRODUCTS] == pytest.approx(0.6 / 0.97)


def test_clock_adds_up_laps_by_name(monkeypatch):
    ticks = iter([10.0, 12.0, 12.5, 15.5])
    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    clock = Clock("cpu")
    for name in ("a", "b", "a"):
        clock.lap(name)
    assert clock.seconds() == {"a": 5.0, "b": 0.5}


def test_peak_memory_is_at_least_what_is_held():
    held = torch.ones(2**24)
    assert peak_bytes("cpu") > held.nbytes


def test_peak_memory_is_counted_anew():
    with mmap.mmap(-1, 2**28) as held:  # which goes back to the system when it is freed
        held.write(b"." * 2**28)
        before = peak_bytes("cpu")
    reset_peak("cpu")
    assert peak_bytes("cpu") < before - 2**27


@pytest.mark.parametrize(
    ("found", "device", "smallest"),
    [
        ([("one", 8.0), ("one", 8.0), ("two", 6.0)], Device.cpu, 4.0),
        ([("one", 9.0), ("two", 3.0)], Device.cpu, 3.0),
        ([("one", 8.0), ("one", 7.0), ("two", 9.0)], Device.cuda, 7.0),
    ],
)
def test_workers_of_a_host_share_its_memory_but_not_its_gpus(found, device, smallest):
    assert smallest_memory(found, device) == smallest


def test_memory_is_what_the_control_group_of_the_process_allows(tmp_path):
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine_bytes(tmp_path, tmp_path / "none") == whole
    mine = tmp_path / "cgroup"
    job = tmp_path / "limits" / "slurm" / "job" / "step"
    job.mkdir(parents=True)
    mine.write_text("0::/slurm/job/step\n")
    (job / "memory.max").write_text("max\n")
    assert machine_bytes(tmp_path / "limits", mine) == whole
    (job.parent / "memory.max").write_text(f"{2**20}\n")
    assert machine_bytes(tmp_path / "limits", mine) == 2**20
    # Version 1, seen from within a container: its own group is the root of what is mounted.
    memory = tmp_path / "limits" / "memory"
    memory.mkdir()
    mine.write_text("5:cpu:/docker/x\n4:memory:/docker/x\n")
    (memory / "memory.limit_in_bytes").write_text(f"{2**19}\n")
    assert machine_bytes(tmp_path / "limits", mine) == 2**19
