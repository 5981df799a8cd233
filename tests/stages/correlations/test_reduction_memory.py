"""What one layer of correlations takes of memory, beside what the plan says of it."""

import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from universal_ray.maths.moments.accumulate import LayerSums
from universal_ray.planning.items import Item, Model
from universal_ray.stages.correlations.artifacts import Terms
from universal_ray.stages.correlations.reduce import Merged, reduced_model, reduced_rows

D, LAYERS, TOKENS = 1024, 8, 300


class Held(TorchDispatchMode):
    """Bytes of tensors that are made while it is on, now and at most: of each storage once."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: Counter[int] = Counter()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._add(storage.data_ptr(), storage.nbytes(), tensor)
        return out

    def _add(self, key: int, size: int, tensor: torch.Tensor) -> None:
        self.now += size if not self.tensors[key] else 0
        self.tensors[key] += 1
        self.most = max(self.most, self.now)
        weakref.finalize(tensor, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.tensors[key] -= 1
        self.now -= size if not self.tensors[key] else 0


@pytest.mark.thorough
@pytest.mark.parametrize("shifts", [(), ("0.0",)])
def test_a_reduction_takes_no_more_than_the_plan_says(shifts):
    """Eight times its layer's sums in float32, by `cost`: to read them of a file takes one."""
    torch.manual_seed(0)
    models = tuple(Model(name=name, given=name, identity=name * 8, layers=LAYERS, width=D,
                         d_model=0, d_mlp=0) for name in "ab")  # fmt: skip
    terms = Terms(policy="fp32", device="cpu", rotations=2, kind="gaussian", seed=0, shifts=shifts)
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

    def read() -> Iterator[LayerSums]:  # as groups are: merged
        yield {"n": torch.tensor(float(TOKENS)).double(), "cross": cross_DM.double()}

    with Held() as held:
        reduced_rows(terms, Item(models), 0, left, right, read, *[read] * len(shifts))
    assert 4 < held.most / cross_DM.nbytes < 7
