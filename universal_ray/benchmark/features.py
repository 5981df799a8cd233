"""Features scored one group-by at a time, as the paper's code does, beside all of them at once."""

import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from universal_ray.features.sums import FeatureSums
from universal_ray.maths.statistics.activations import places
from universal_ray.maths.statistics.variance_reduction import score

CONTEXT = 128


def one_by_one(
    x_TN: Float[Tensor, "T N"], label_TF: Bool[Tensor, "T F"]
) -> Float[np.ndarray, "F N"]:
    """Variance reduction by a group-by of all activations for every feature."""
    frame = pd.DataFrame(x_TN.double().numpy())
    total_N = frame.var(ddof=0).to_numpy()
    found = []
    for label_T in label_TF.numpy().T:
        groups = frame.groupby(label_T)
        share_G = (groups.size() / len(frame)).to_numpy()
        found.append(1 - share_G @ groups.var(ddof=0).to_numpy() / total_N)
    return np.stack(found)


def all_at_once(
    x_TN: Float[Tensor, "T N"], label_TF: Bool[Tensor, "T F"]
) -> Float[Tensor, "F N"]:
    """The same from sums, as the profile makes them."""
    tokens, neurons = x_TN.shape
    sums = FeatureSums.zeros(label_TF.shape[1], neurons)
    rows_BP = torch.zeros(tokens // CONTEXT, CONTEXT, dtype=torch.int64)
    sums.update_(label_TF, x_TN, places(rows_BP, torch.ones(tokens, dtype=torch.bool), first_row=0))
    exact_TN = x_TN.double()
    found = score(
        float(tokens),
        f_F=sums.f_E,
        x_N=exact_TN.sum(0),
        xx_N=exact_TN.square().sum(0),
        fx_FN=sums.fx_ED,
    )
    return found.variance_reduction_FN


def beside(tokens: int, neurons: int, features: int) -> dict[str, Any]:
    """Seconds of both on the same activations and labels, and how far apart they are."""
    generator = torch.Generator().manual_seed(0)
    x_TN = torch.nn.functional.gelu(torch.randn(tokens, neurons, generator=generator) - 0.5)
    rarity_F = torch.linspace(0.01, 0.5, features)
    label_TF = torch.rand(tokens, features, generator=generator) < rarity_F
    all_at_once(x_TN, label_TF)  # to warm up
    began = time.monotonic()
    ours_FN = all_at_once(x_TN, label_TF)
    between = time.monotonic()
    theirs_FN = one_by_one(x_TN, label_TF)
    ended = time.monotonic()
    return {
        "features": features,
        "neurons": neurons,
        "tokens": tokens,
        "seconds_one_by_one": ended - between,
        "seconds_all_at_once": between - began,
        "ratio": (ended - between) / (between - began),
        "largest_difference": float(np.abs(ours_FN.numpy() - theirs_FN).max()),
    }
