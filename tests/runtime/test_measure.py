"""Speeds that plans are timed with, and the memory that workers report."""

import mmap
import os
from types import SimpleNamespace

import pytest
import torch

from universal_ray.config.study import Device
from universal_ray.planning.capacity import smallest_memory
from universal_ray.runtime import measure
from universal_ray.runtime.measure import (
    Clock,
    machine_bytes,
    measured_speed,
    peak_bytes,
    probed_speed,
    reset_peak,
)


def test_measured_speed_counts_all_but_writing():
    lines = [
        {"flops": 6e12, "seconds": {"forward": 1.0, "products": 2.0, "write": 50.0}},
        {"flops": 2e12, "seconds": {"forward": 0.5, "products": 0.5, "write": 0.0}},
        {"stage": "profile", "seconds": {"forward": 9.0}},
    ]
    speed = measured_speed(lines)
    assert speed is not None
    assert speed.flops == pytest.approx(2e12)
    assert "2 TFLOP/s" in speed.source


def test_no_speed_without_work():
    assert measured_speed([]) is None
    assert measured_speed([{"flops": 5, "seconds": {"write": 1.0}}]) is None


def test_probing_leaves_the_number_of_threads():
    before = torch.get_num_threads()
    assert probed_speed(1).flops > 1e8
    assert torch.get_num_threads() == before


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
