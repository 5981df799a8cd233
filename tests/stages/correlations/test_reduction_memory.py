"""What one layer of correlations takes of memory, beside what the plan says of it."""

import gc
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from universal_ray.maths.moments.accumulate import LayerSums
from universal_ray.planning.items import Item, Model
from universal_ray.stages.correlations.artifacts import Terms
from universal_ray.stages.correlations.reduce import Merged, reduced_model, reduced_rows

D, LAYERS, TOKENS = 1024, 8, 500


def peak() -> dict[str, int]:
    """Bytes of memory of this process, now and at most since it was last forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    told = dict(line.split(":", 1) for line in lines)
    return {name: int(told[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS")}


def measured(shifts: tuple[str, ...]) -> float:
    """Bytes of a reduction at once, for each byte of its layer's sums in float32."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = tuple(Model(name=name, given=name, identity=name * 8, layers=LAYERS, width=D,
                         d_model=0, d_mlp=0) for name in "ab")  # fmt: skip
    terms = Terms(policy="fp32", device="cpu", rotations=1, kind="gaussian", seed=0, shifts=shifts)
    values = [torch.randn(TOKENS, LAYERS * D) for _ in models]

    def own(x_TD: torch.Tensor) -> LayerSums:
        u_TD = x_TD.double()
        extremes = {"minimum": u_TD.amin(0), "maximum": u_TD.amax(0)}
        return {"n": torch.tensor(float(TOKENS)).double(), "sum": u_TD.sum(0),
                "gram": u_TD.T @ u_TD, **extremes}  # fmt: skip

    left, right = (
        reduced_model(terms, model, torch.ones(LAYERS * D).double(),
                      (Merged([own(x_TD)]) for x_TD in x_TN.split(D, dim=1)))
        for model, x_TN in zip(models, values, strict=True)
    )  # fmt: skip
    cross_DM = values[0][:, :D].T @ values[1]
    values.clear()
    gc.collect()

    def read() -> Iterator[LayerSums]:  # as it is read: of the file, merged
        yield {"n": torch.tensor(float(TOKENS)).double(), "cross": cross_DM.double()}

    Path("/proc/self/clear_refs").write_text("5")
    before = peak()["VmRSS"]
    reduced_rows(terms, Item(models), 0, left, right, read, *[read] * len(shifts))
    return (peak()["VmHWM"] - before) / cross_DM.nbytes


@pytest.mark.thorough
@pytest.mark.parametrize("shifts", [(), ("0.0",)])
def test_a_reduction_takes_no_more_than_the_plan_says(shifts):
    """The eight layers of `cost`, with what reading a file takes beside: another."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        taken = pool.apply(measured, (shifts,))
    assert 4 < taken < 8
