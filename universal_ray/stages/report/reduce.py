"""From candidates to the windows of a model that are shown, and from these to rows to read.

Shapes: N neurons of a model, K candidates of a neuron and kind, C of a neuron, U texts, R rows,
X candidates of all neurons, M windows, W tokens of a window.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from universal_ray.config.report import BOTTOM, KINDS, QUANTILE, RANDOM, SILENT, TOP
from universal_ray.corpus.rows import TokenCorpus
from universal_ray.corpus.scattered import read_rows
from universal_ray.maths.statistics.windows import NONE, Peaks, merge_peaks, starts
from universal_ray.planning.items import Model
from universal_ray.stages.report.artifacts import LayerSample, ModelPeaks, Report, Windows
from universal_ray.storage import artifacts
from universal_ray.storage.store import Store

Candidates = tuple[Tensor, Tensor, Tensor]
"""Rows and foci [N, K], -1 for none, and activations [N, K, W]."""


def choose_windows(recipe: Report, model: Model, corpus: TokenCorpus) -> None:
    """Store the windows of a model that are shown: of candidates in their order as many as are
    wanted of each kind, those left out whose tokens an earlier window of the neuron has.
    """
    store, window, options = Store(recipe.store_url), recipe.plan.window, recipe.options
    wanted = {
        TOP: options.top, BOTTOM: options.top, QUANTILE: options.quantiles,
        RANDOM: options.random, SILENT: options.silent,
    }  # fmt: skip
    found = {**_ends(store, recipe, model), **_sampled(store, recipe, model)}
    counts = [found[kind][0].shape[1] if kind in found else 0 for kind in KINDS]
    row_NC, focus_NC = (
        torch.cat([found[kind][part] for kind in KINDS if kind in found], dim=1)
        for part in (0, 1)
    )
    window_NCW = torch.cat([found[kind][2] for kind in KINDS if kind in found], dim=1)
    start_NC = starts(focus_NC, window, recipe.plan.context)
    text_NC, text_UW = _texts(corpus, row_NC.numpy(), start_NC.numpy(), window)
    kind_C = np.repeat(np.arange(len(KINDS)), counts)
    chosen = list(_chosen(text_NC, kind_C, [wanted[kind] for kind in KINDS]))
    neuron_M, place_M, rank_M = torch.tensor(chosen, dtype=torch.int64).view(-1, 3).unbind(1)
    stored = Windows(
        neuron_M=neuron_M,
        kind_M=torch.from_numpy(kind_C)[place_M],
        rank_M=rank_M,
        row_M=row_NC[neuron_M, place_M],
        start_M=start_NC[neuron_M, place_M],
        focus_M=focus_NC[neuron_M, place_M],
        tokens_MW=torch.from_numpy(text_UW)[torch.from_numpy(text_NC)[neuron_M, place_M]],
        window_MW=window_NCW[neuron_M, place_M],
    )
    artifacts.put(store, recipe.windows_file(model), stored)


def _ends(store: Store, recipe: Report, model: Model) -> dict[str, Candidates]:
    """Largest activations, those above zero; smallest, those below, where they have both signs."""
    parts = [
        artifacts.get(store, recipe.peaks_file(model, shard), ModelPeaks)
        for shard in recipe.profile.shards
    ]
    found = {TOP: _positive(merge_peaks([part.highest for part in parts]))}
    lowest = [part.lowest for part in parts if part.lowest is not None]
    if lowest:
        row_NK, focus_NK, window_NKW = _positive(merge_peaks(lowest))
        found[BOTTOM] = row_NK, focus_NK, -window_NKW
    return found


def _positive(peaks: Peaks) -> Candidates:
    row_NK = peaks.row_DK.masked_fill(~(peaks.value_DK > 0), NONE)
    return row_NK, peaks.focus_DK, peaks.window_DKW


def _sampled(store: Store, recipe: Report, model: Model) -> dict[str, Candidates]:
    layers = [
        artifacts.get(store, recipe.sample_file(model, layer), LayerSample)
        for layer in range(model.layers)
    ]
    row_NC, focus_NC, window_NCW = (
        torch.cat([getattr(layer, name) for layer in layers])
        for name in ("row_DC", "focus_DC", "window_DCW")
    )
    quantiles = recipe.options.quantiles
    drawn = (row_NC.shape[1] - quantiles) // (recipe.options.random + recipe.options.silent)
    cuts = {
        QUANTILE: slice(0, quantiles),
        RANDOM: slice(quantiles, quantiles + drawn * recipe.options.random),
        SILENT: slice(quantiles + drawn * recipe.options.random, None),
    }
    return {kind: (row_NC[:, cut], focus_NC[:, cut], window_NCW[:, cut])
            for kind, cut in cuts.items()}  # fmt: skip


def _texts(
    corpus: TokenCorpus, row_NC: np.ndarray, start_NC: np.ndarray, window: int
) -> tuple[np.ndarray, np.ndarray]:
    """The text of every candidate as a number, -1 for none; and the tokens of each number [U, W].
    """
    there_NC = row_NC != NONE
    place_X, back_X = np.unique(
        row_NC[there_NC] * corpus.context + start_NC[there_NC], return_inverse=True
    )
    row_R, row_X = np.unique(place_X // corpus.context, return_inverse=True)
    tokens_RP = read_rows(corpus, row_R.tolist()).astype(np.int32)
    start_X = place_X % corpus.context
    tokens_XW = tokens_RP[row_X[:, None], start_X[:, None] + np.arange(window)]
    number: dict[bytes, int] = {}
    number_X = np.array(
        [number.setdefault(tokens_W.tobytes(), len(number)) for tokens_W in tokens_XW],
        dtype=np.int64,
    )
    text_NC = np.full(row_NC.shape, NONE)
    text_NC[there_NC] = number_X[back_X]
    text_UW = np.frombuffer(b"".join(number), dtype=np.int32).reshape(-1, window)
    return text_NC, text_UW.copy()


def _chosen(
    text_NC: np.ndarray, kind_C: np.ndarray, wanted: list[int]
) -> Iterator[tuple[int, int, int]]:
    """Neuron, candidate and rank within the kind of every window shown."""
    kinds = kind_C.tolist()
    for neuron, text_C in enumerate(text_NC.tolist()):
        seen: set[int] = set()
        ranks = [0] * len(wanted)
        for place, (text, kind) in enumerate(zip(text_C, kinds, strict=True)):
            if text != NONE and text not in seen and ranks[kind] < wanted[kind]:
                seen.add(text)
                yield neuron, place, ranks[kind]
                ranks[kind] += 1


def partner_rows(
    recipe: Report, found: Mapping[str, Windows], order: Mapping[str, np.ndarray]
) -> tuple[int, ...]:
    """Rows on which partners are read, ascending: the sample, then those of the largest activations
    of one neuron after another, while there is room.

    `found`: windows by name of the model; `order`: its neurons, those first that come first.
    """
    rows = set(recipe.plan.sample)
    ends = {KINDS.index(TOP), KINDS.index(BOTTOM)}
    wanted: dict[str, dict[int, list[int]]] = {}
    for name, windows in found.items():
        wanted[name] = {}
        told = zip(
            windows.neuron_M.tolist(), windows.kind_M.tolist(), windows.row_M.tolist(), strict=True
        )
        for neuron, kind, row in told:
            if kind in ends:
                wanted[name].setdefault(neuron, []).append(row)
    longest = max(len(neurons) for neurons in order.values())
    for rank in range(longest):
        for name, neurons in order.items():
            if rank >= len(neurons):
                continue
            more = {*wanted[name].get(int(neurons[rank]), ())} - rows
            if len(rows) + len(more) <= recipe.plan.partner_rows:
                rows |= more
    return tuple(sorted(rows))
