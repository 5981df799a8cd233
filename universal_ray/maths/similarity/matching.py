"""How alike two layers are neuron by neuron: best partners, and one-to-one matchings. Pure.

Shapes: R and C neurons of two layers that have correlations, K entries of a top list, N and M
neurons of two models.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from universal_ray.maths.similarity.subspaces import Both


def best(r_RC: Float[Tensor, "R C"]) -> Both:
    """Mean over the neurons of a layer of their best correlation with one of the other."""
    return float(r_RC.amax(1).mean()), float(r_RC.amax(0).mean())


def mutual(r_RC: Float[Tensor, "R C"]) -> Both:
    """Share of a layer's neurons whose best partner in the other has them for its best."""
    forth_R, back_C = r_RC.argmax(1), r_RC.argmax(0)
    count = float((back_C[forth_R] == torch.arange(len(forth_R), device=r_RC.device)).sum())
    return count / len(forth_R), count / len(back_C)


def assign(r_RC: Float[Tensor, "R C"]) -> Int[Tensor, "2 P"]:
    """Rows and columns of the one-to-one matching with the largest sum; P = min(R, C)."""
    rows, columns = linear_sum_assignment(r_RC.numpy(), maximize=True)
    return torch.from_numpy(np.stack([rows, columns]))


def assign_partly(r_RC: Float[Tensor, "R C"], worth: float) -> Int[Tensor, "2 P"]:
    """The same where a pair is worth by how much its correlation exceeds `worth`, and neurons may
    stay alone: pairs that exceed it.
    """
    pairs_2P = assign((r_RC - worth).clamp_min(0))
    return pairs_2P[:, r_RC[pairs_2P[0], pairs_2P[1]] > worth]


def assign_lists(
    row_top: tuple[Float[Tensor, "N K"], Int[Tensor, "N K"]],
    column_top: tuple[Float[Tensor, "M L"], Int[Tensor, "M L"]],
) -> tuple[Int[Tensor, "2 P"], Float[Tensor, "P"]]:
    """Rows and columns of the matching with the largest sum, and its correlations.

    Of the pairs in a list of either side, which have correlations (-inf or NaN: none) and indices
    into the other. Neurons may stay alone, and do so rather than in a pair that is not positive.
    """
    rows, columns = len(row_top[0]), len(column_top[0])
    places, weights = [], []
    for turned, (r_NK, index_NK) in enumerate((row_top, column_top)):
        own_NK = torch.arange(len(r_NK))[:, None].expand_as(index_NK)
        pair = (index_NK, own_NK) if turned else (own_NK, index_NK)
        kept_NK = r_NK > 0
        places.append(pair[0][kept_NK] * columns + pair[1][kept_NK])
        weights.append(r_NK[kept_NK])
    place_E, first_E = np.unique(torch.cat(places).numpy(), return_index=True)
    r_E = torch.cat(weights).numpy()[first_E]
    own_N = np.arange(rows)
    # Every row may take a column of its own, for nothing: so there is always a matching of all.
    graph = csr_array(
        (
            np.concatenate([2 - r_E, np.full(rows, 2.0)]),
            (
                np.concatenate([place_E // columns, own_N]),
                np.concatenate([place_E % columns, columns + own_N]),
            ),
        ),
        shape=(rows, columns + rows),
    )
    row_P, column_P = (each.astype(np.int64) for each in min_weight_full_bipartite_matching(graph))
    paired_P = column_P < columns
    pairs_2P = np.stack([row_P[paired_P], column_P[paired_P]])
    found_P = np.searchsorted(place_E, pairs_2P[0] * columns + pairs_2P[1])
    return torch.from_numpy(pairs_2P), torch.from_numpy(r_E[found_P])
