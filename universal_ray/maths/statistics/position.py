"""How much an activation tells of the position, and the position of it. Pure."""


import torch
from jaxtyping import Float
from torch import Tensor


def mutual_information(
    active_PN: Float[Tensor, "P N"], n_P: Float[Tensor, "P"]
) -> Float[Tensor, "N"]:
    """Mutual information of position and being active, in nats (arXiv 2309.04827).

    From how often each neuron is active at each position. Positions count alike, as there, however
    many tokens each has; f is the mean of the rates. A position without tokens is left out.
    """
    seen_P = n_P > 0
    rate_PN = active_PN[seen_P].double() / n_P[seen_P, None].double()
    rate_N = rate_PN.mean(0)
    gain_PN = torch.xlogy(rate_PN, rate_PN) - torch.xlogy(rate_PN, rate_N)
    loss_PN = torch.xlogy(1 - rate_PN, 1 - rate_PN) - torch.xlogy(1 - rate_PN, 1 - rate_N)
    return (gain_PN + loss_PN).mean(0).clamp_min(0)


def position_variance_explained(
    sums_PN: Float[Tensor, "P N"], n_P: Float[Tensor, "P"], squares_N: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """Share of the variance that lies between positions, from Σx by position and Σx².

    What a one-hot of the position explains; NaN for a neuron without variance.
    """
    seen_P = n_P > 0
    counts_P1 = n_P[seen_P, None].double()
    sums_PN, n = sums_PN[seen_P].double(), counts_P1.sum()
    mean_N = sums_PN.sum(0) / n
    total_N = squares_N.double() - n * mean_N**2
    between_N = (counts_P1 * (sums_PN / counts_P1 - mean_N) ** 2).sum(0)
    share_N = (between_N / total_N).clamp(0, 1)
    return share_N.masked_fill(total_N <= 1e-12 * squares_N, torch.nan)
