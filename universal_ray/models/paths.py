"""Path ablation: what one neuron does to one later head through the head's query alone.

At every destination the neuron's write is taken out of the residual stream that the query is made
from; keys and values stay as they are (arXiv 2401.12181, section 5.3).

Shapes: B rows, P positions, I paths, X some positions, C channels of the residual stream,
K channels of a head.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from universal_ray.errors import ConfigurationError
from universal_ray.maths.roles.path_sums import POINTS, Path, PathSums
from universal_ray.models.decoder import Decoder


def ablate_paths(
    decoder: Decoder,
    paths: Sequence[Path],
    tokens_BP: Int[Tensor, "B P"],
    keep_BP: Bool[Tensor, "B P"],
) -> PathSums:
    """Zero ablation of every path on every position that counts; rows begin with BOS.

    Raises ConfigurationError for a head that the neuron does not come before.
    """
    for path in paths:
        if not path.neuron // decoder.width < path.layer < decoder.layers:
            raise ConfigurationError(
                f"Neuron {path.neuron} does not come before layer {path.layer}: choose a head of a "
                f"layer after the neuron's, of {decoder.layers} layers."
            )
    tokens_BP, keep_BP = tokens_BP.to(decoder.device), keep_BP.to(decoder.device)
    totals, products, points = [], [], []
    with torch.inference_mode():
        streams, activations = _untouched(decoder, paths, tokens_BP)
        for path in paths:
            layer, neuron = divmod(path.neuron, decoder.width)
            a_BP = activations[path.neuron]
            x_BPC = streams[path.layer]
            less_BPC = x_BPC - a_BP[:, :, None] * decoder.w_out(layer)[neuron]
            query, key_BPK, value_BPK = (
                each[:, path.head] for each in decoder.heads(path.layer, x_BPC)
            )
            less_query = decoder.heads(path.layer, less_BPC)[0][:, path.head]
            value_BPK = value_BPK - decoder.constant_values(path.layer)[path.head]
            scaling, output_KC = (
                decoder.scaling(path.layer),
                decoder.head_output(path.layer, path.head),
            )
            output_KC = output_KC - output_KC.mean(1, keepdim=True)  # no norm sees the mean
            before_BP, norm_BP = _attend(query, key_BPK, value_BPK, output_KC, scaling)
            after_BP, new_BP = _attend(less_query, key_BPK, value_BPK, output_KC, scaling)
            found = (a_BP, before_BP, after_BP - before_BP, norm_BP, 100 * (new_BP / norm_BP - 1))
            found_TQ = torch.stack([each[keep_BP].double() for each in found], dim=1)
            totals.append(found_TQ.sum(0).cpu())
            products.append((found_TQ.T @ found_TQ).cpu())
            points.append(found_TQ[:: max(1, len(found_TQ) // POINTS)][:POINTS].cpu())
    count = float(keep_BP.sum())
    return PathSums(
        paths=tuple(paths),
        count=count,
        totals_IQ=torch.stack(totals),
        products_IQQ=torch.stack(products),
        points_IXQ=torch.stack(points),
    )


def _untouched(
    decoder: Decoder, paths: Sequence[Path], tokens_BP: Tensor
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Residual streams before the heads' layers, [B, P, C], and the neurons' activations."""
    streams: dict[int, Tensor] = {}
    activations: dict[int, Tensor] = {}
    seen: list[Tensor] = []
    x_BPC = decoder.embed(tokens_BP)
    for layer in range(max(path.layer for path in paths) + 1):
        streams[layer] = x_BPC
        x_BPC = decoder.block(layer, x_BPC, seen.append)
        neurons_BPD = seen.pop()
        for path in paths:
            if path.neuron // decoder.width == layer:
                activations[path.neuron] = neurons_BPD[:, :, path.neuron % decoder.width]
    return streams, activations


def _attend(
    query_BPK: Float[Tensor, "B P K"],
    key_BPK: Float[Tensor, "B P K"],
    value_BPK: Float[Tensor, "B P K"],
    output_KC: Float[Tensor, "K C"],
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Attention of one head to the first token, and the length of what it writes, [B, P]."""
    score_BPP = query_BPK @ key_BPK.transpose(1, 2) * scaling
    later_PP = torch.ones_like(score_BPP[0], dtype=torch.bool).triu(1)
    attention_BPP = score_BPP.masked_fill(later_PP, -torch.inf).softmax(2)
    return attention_BPP[:, :, 0], (attention_BPP @ value_BPK @ output_KC).norm(dim=2)
