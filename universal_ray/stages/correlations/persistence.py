"""Which neurons stay universal from one revision of a model to another (Nandan et al., 2508.00903).

Persistence of t in t': |U_t ∩ U_t'| / |U_t|, U_t the universal neurons of the revision t, known by
layer and index. Undefined (null) where U_t is empty, or where no neuron of a revision has a
correlation.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def persistence(revisions: list[str], neurons: list[pa.Table], layers: int) -> dict[str, Any]:
    """Overlap of the universal sets of every two revisions, overall and by layer.

    `neurons`: the neuron table of the same model at each revision, rows in the same order.
    `overlap[t][s]` counts neurons universal in both (the diagonal: how many each has);
    `persistence[t][s]` is its share of revision t's, `jaccard` its share of those in either.
    """
    layer = neurons[0]["layer"].to_numpy()
    universal = np.stack(
        [pc.fill_null(table["is_universal"], False).to_numpy(zero_copy_only=False)
         for table in neurons]
    ).astype(np.int64)
    known = np.stack([table["is_universal"].is_valid().to_numpy() for table in neurons])
    return {
        "revisions": revisions,
        **_overlap(universal, known),
        "layers": [
            {"layer": index, **_overlap(universal[:, inside], known[:, inside])}
            for index in range(layers)
            for inside in [layer == index]
        ],
    }


def _overlap(universal_RN: np.ndarray, known_RN: np.ndarray) -> dict[str, Any]:
    both_RR = universal_RN @ universal_RN.T
    count_R = both_RR.diagonal()
    either_RR = count_R[:, None] + count_R[None, :] - both_RR
    known = [bool(each_N.any()) for each_N in known_RN]
    overlap = [
        [count if here and there else None for count, there in zip(counts, known, strict=True)]
        for counts, here in zip(both_RR.tolist(), known, strict=True)
    ]
    return {
        "universal": [counts[place] for place, counts in enumerate(overlap)],
        "overlap": overlap,
        "persistence": _ratio(both_RR, np.broadcast_to(count_R[:, None], both_RR.shape)),
        "jaccard": _ratio(both_RR, either_RR),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> list[list[float | None]]:
    return [
        [int(a) / int(b) if b else None for a, b in zip(*rows, strict=True)]
        for rows in zip(part, whole, strict=True)
    ]
