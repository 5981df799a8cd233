"""The rotation baseline, from sums already held: how well does a random basis match?

The paper rotates the raw activations of every layer of the other model and correlates again over
all tokens. A rotated unit is a linear map of a layer, so its covariances follow from the cross
sums and its variance from the layer's Gram: any number of draws costs no pass over the tokens.

Shapes: D neurons of one layer, R rows (neurons of the model that is not rotated), K draws.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

KINDS = ("gaussian", "orthogonal")
STREAMS = 8
"""Random streams that fill a rotation side by side, each some of its rows."""


def rotation(
    kind: str, *, seed: int, identity: str, layer: int, draw: int, width: int
) -> Float[Tensor, "D D"]:
    """One rotation, float64, seeded by what it rotates and never by a position in a list.

    `gaussian`: independent normal entries with rows scaled to unit length, as in the paper;
    `orthogonal`: uniform over rotations and reflections (Haar).
    """
    key = f"{kind}|{seed}|{identity}|{layer}|{draw}|{width}".encode()
    entropy = int.from_bytes(hashlib.sha256(key).digest()[:16], "little")
    entries = np.empty((width, width))
    streams = np.random.SeedSequence(entropy).spawn(STREAMS)
    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(_fill_, np.array_split(entries, STREAMS), streams))
    matrix_DD = torch.from_numpy(entries)
    if kind == "orthogonal":
        orthogonal_DD, upper_DD = torch.linalg.qr(matrix_DD)
        turned_DD: Tensor = orthogonal_DD * upper_DD.diagonal().sign()
        return turned_DD
    length_D1: Tensor = matrix_DD.norm(dim=1, keepdim=True)
    return matrix_DD / length_D1


def _fill_(rows: np.ndarray, stream: np.random.SeedSequence) -> None:
    np.random.Generator(np.random.PCG64(stream)).standard_normal(out=rows)


def scaled(rotation_DD: Float[Tensor, "D D"], scale_D: Float[Tensor, "D"]) -> Float[Tensor, "D D"]:
    """The rotation of raw activations as a map of the scaled sums: `W = R · diag(scale)`."""
    return rotation_DD * scale_D


def rotated_squares(
    weights_DD: Float[Tensor, "D D"], centred_gram_DD: Float[Tensor, "D D"]
) -> Float[Tensor, "D"]:
    """Σ(y − mean)² of every rotated unit y of a layer."""
    return ((weights_DD @ centred_gram_DD) * weights_DD).sum(1)


def best_rotated(
    centred_RD: Float[Tensor, "R D"],
    weights_DD: Float[Tensor, "D D"],
    *,
    rotated_squares_D: Float[Tensor, "D"],
    squares_R: Float[Tensor, "R"],
) -> Float[Tensor, "R"]:
    """Largest correlation of each row neuron with any rotated unit of one layer.

    `centred_RD` holds the centred cross sums of the rows with that layer. Rows without variance
    give NaN; a layer without variance gives -inf.
    """
    alive_D = rotated_squares_D > 0
    r_RD = (centred_RD @ weights_DD.T).div_(rotated_squares_D.clamp_min(0).sqrt())
    r_RD[:, ~alive_D] = -torch.inf
    return (r_RD.amax(1) / squares_R.clamp_min(0).sqrt()).clamp_max(1)


def correlated_rotated(
    centred_RD: Float[Tensor, "R D"],
    weights_DD: Float[Tensor, "D D"],
    *,
    rotated_squares_D: Float[Tensor, "D"],
    squares_R: Float[Tensor, "R"],
) -> Float[Tensor, "R C"]:
    """All of these correlations, with the rotated units that vary. Every row has to vary."""
    alive_D = rotated_squares_D > 0
    covariance_RC = centred_RD @ weights_DD[alive_D].T
    r_RC = covariance_RC / rotated_squares_D[alive_D].sqrt() / squares_R[:, None].sqrt()
    return r_RC.clamp_(-1, 1)
