"""One loaded model that gives the values of its units at some sites.

Shapes: B rows, P positions, T = B * P tokens, L layers, D units per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch

from universal_ray.errors import ModelError
from universal_ray.models.bridge import boot, unwrap
from universal_ray.models.site import MLP_POST, Site
from universal_ray.models.source import ModelSource

Take = Callable[[str, int, torch.Tensor], None]
"""Receives the values [T, D] of a layer at a site: its name, the layer, the values."""


class _Enough(Exception):
    """Every value is there: what the model would compute from them is not needed."""


class Capture:
    """One loaded model that maps tokens to the values of its units, and computes no logits.

    Raises ModelError where the weights loaded do not have the shapes of `source`.
    """

    def __init__(
        self,
        source: ModelSource,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        sites: Sequence[Site] = (MLP_POST,),
    ) -> None:
        self.source = source
        self.device = torch.device(device)
        self.dtype = dtype
        bridge = boot(source, device, dtype)
        unwrap(bridge)
        shapes = [site.shape(source) for site in sites]
        for site, shape in zip(sites, shapes, strict=True):
            site.attach(source, bridge, partial(self._give, site.name, shape.width))
        self._bridge = bridge.eval()
        model: Any = bridge.original_model
        self._base_model: Any = model.base_model  # all but the unembedding
        # Else every pass looks for padding in its tokens, and waits for a GPU to tell.
        self._base_model.config.pad_token_id = None
        self._names = " and ".join(site.name for site in sites)
        self._count = sum(shape.layers for shape in shapes)
        self._take: Take = _drop
        self._given = 0
        # A hook that never fires shows here.
        self.read(torch.zeros(1, 2, dtype=torch.int64), _drop)

    def _give(self, site: str, width: int, layer: int, x_BPD: torch.Tensor) -> None:
        if x_BPD.shape[-1] != width:
            raise ModelError(
                f"Model {self.source.name!r} shows {x_BPD.shape[-1]} units of {site} in layer "
                f"{layer} where its configuration says {width}: choose a model whose layers are "
                "alike."
            )
        self._take(site, layer, x_BPD.reshape(-1, width))
        self._given += 1
        if self._given == self._count:
            raise _Enough

    def read(self, tokens_BP: torch.Tensor, take: Take) -> None:
        """Run tokens [B, P] (int64) and give `take` every layer of every site as the model makes
        it: values [T, D], tokens row by row, in the dtype and on the device of the model.

        They are the model's own, without a copy: to be kept or read, not to be changed.
        """
        self._take, self._given = take, 0
        try:
            with torch.inference_mode(), _one_sequence_a_row(), suppress(_Enough):
                self._base_model(tokens_BP.to(self.device), use_cache=False)
        finally:
            self._take = _drop
        if self._given != self._count:
            raise ModelError(
                f"Model {self.source.name!r} showed {self._given} of {self._count} layers of "
                f"{self._names} in one pass: its architecture is not supported for this site."
            )


def _drop(site: str, layer: int, x_TD: torch.Tensor) -> None:
    """Take nothing."""


@contextmanager
def _one_sequence_a_row() -> Iterator[None]:
    """Let transformers take each row for one sequence, as it is: it would look at the positions for
    where others begin, and wait in every pass until a GPU has told.
    """
    from transformers import masking_utils

    look = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = look
