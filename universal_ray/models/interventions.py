"""What a model predicts when some of its neurons are held at a value.

An intervention is declared: which neurons, at what values, and what part of the readout stays as it
was. The untouched model runs once. What is held starts at one layer: the residual stream is kept
there and only the layers above run again, with many interventions stacked in the batch.

Shapes: B rows, P positions, T tokens that count, I interventions, K of them stacked, L layers,
D neurons of a layer, N = L · D, C channels of the residual stream, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from universal_ray.errors import ConfigurationError, CorpusError
from universal_ray.maths.roles.frequency import unigram
from universal_ray.maths.roles.readout import MEASURES, Reference
from universal_ray.models.decoder import Decoder

SCALE, UNIGRAM = "scale", "unigram"
HELD, READ, FLOOR, CEILING = "held", "read", "floor", "ceiling"
RULES = (HELD, READ, FLOOR, CEILING)
"""What a value is: the activation, the pre-activation, or the least or largest that the former may
be, all else as the model has it. With bounds of 0 these are what a ReLU of the pre-activation, or
its negative part alone, would give, as a function of activation has the sign of what it is given.
"""
FROZEN = (None, SCALE, UNIGRAM)
"""What stays as the untouched model has it: nothing, the scale of the final LayerNorm, or the
component of the logits along the unigram direction (arXiv 2406.16254)."""
TOKENS_AT_ONCE = {"cpu": 4096, "cuda": 65_536}
"""Tokens of all stacked interventions together."""
READ_AT_ONCE = {"cpu": 256, "cuda": 8192}
"""Tokens whose logits are made together; on a CPU few enough that they stay in its cache."""


@dataclass(frozen=True)
class Intervention:
    """Neurons held at values, or within bounds, on every token of a row; without neurons, the
    untouched model.

    Raises ConfigurationError where neurons and values do not pair up, or `frozen` or `rule` is
    unknown.
    """

    neurons: tuple[int, ...] = ()
    """flat indices, layer · D + neuron"""
    values: tuple[float, ...] = ()
    """what enters W_out in place of each one's activation, or what `rule` says"""
    frozen: str | None = None
    rule: str = HELD

    def __post_init__(self) -> None:
        if len(self.neurons) != len(self.values) or len(set(self.neurons)) < len(self.neurons):
            raise ConfigurationError(
                f"An intervention has {len(self.neurons)} neurons and {len(self.values)} values: "
                "give one value for each neuron, and name no neuron twice."
            )
        if self.frozen not in FROZEN:
            raise ConfigurationError(
                f"An intervention freezes {self.frozen!r}: choose {SCALE}, {UNIGRAM} or nothing."
            )
        if self.rule not in RULES:
            raise ConfigurationError(
                f"An intervention has the rule {self.rule!r}: choose one of {', '.join(RULES)}."
            )


def held(
    neurons: Sequence[int], at: float | Float[Tensor, "N"], frozen: str | None = None
) -> Intervention:
    """Neurons held at one value (0: zero ablation), or each at its own of all neurons' values (the
    mean activations: mean ablation)."""
    if isinstance(at, Tensor):
        values = tuple(at[list(neurons)].tolist())
    else:
        values = (float(at),) * len(neurons)
    return Intervention(tuple(neurons), values, frozen)


def by_neurons(interventions: Sequence[Intervention]) -> list[tuple[Intervention, ...]]:
    """Those that hold the same neurons by one rule together, each once, in the order of what they
    hold them at.

    How many runs are stacked, and which, may change the last bits of a product. What is stacked is
    a group, or some of it, so that a group's effects follow from it alone, whatever else is done.
    """
    groups: dict[tuple[tuple[int, ...], str], set[Intervention]] = {}
    for each in interventions:
        groups.setdefault((each.neurons, each.rule), set()).add(each)

    def order(each: Intervention) -> tuple[tuple[float, ...], int]:
        return each.values, FROZEN.index(each.frozen)

    return [tuple(sorted(group, key=order)) for group in groups.values()]


@dataclass(frozen=True)
class Effects:
    """Sums of every measure over the tokens that count, by intervention and row; float64."""

    interventions: tuple[Intervention, ...]
    count_R: Tensor
    sums: dict[str, Tensor]
    """[I, R] by the names of `MEASURES`"""


def merge_effects(parts: Sequence[Effects]) -> Effects:
    """Rows of all parts, one after the other.

    Raises ConfigurationError where parts are not of the same interventions.
    """
    first = parts[0]
    if any(part.interventions != first.interventions for part in parts):
        raise ConfigurationError(
            "Effects of different interventions do not merge: declare the same ones, in the same "
            "order, for every part of the corpus."
        )
    return Effects(
        first.interventions,
        torch.cat([part.count_R for part in parts]),
        {name: torch.cat([part.sums[name] for part in parts], dim=1) for name in first.sums},
    )


@dataclass(frozen=True)
class _Variant:
    """One setting of the neurons, and the interventions that read it out, each in its own way."""

    held: dict[int, tuple[Tensor, Tensor]]
    """by layer: neurons in the layer, their values"""
    rule: str
    readouts: list[tuple[int, str | None]]

    def touched(self, layer: int, neurons_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """Neurons of a layer, and what they write in place of their activations [M] or [B, P, M].
        """
        index_M, value_M = self.held[layer]
        if self.rule == FLOOR:
            return index_M, torch.maximum(neurons_BPD[:, :, index_M], value_M)
        if self.rule == CEILING:
            return index_M, torch.minimum(neurons_BPD[:, :, index_M], value_M)
        return index_M, value_M


@dataclass(frozen=True)
class _Part:
    """Some of the tokens that count, as the untouched model predicts them."""

    tokens: slice
    reference: Reference
    unscaled_TV: Tensor
    """logits less the bias, times the final scale"""


@dataclass(frozen=True)
class _Write:
    """What M neurons of the last layer write more than they would."""

    change_TM: Tensor
    """of their activations"""
    logits_MV: Tensor
    """that one unit of activation adds, times the final scale"""


class Intervener:
    """Runs interventions on batches of tokens.

    `counts_V`: how often the corpus has each id of the vocabulary. Of a batch of T tokens,
    3 · T · V numbers are held for the untouched model, so that rows are best given a few at a time.
    Raises ConfigurationError for a neuron that the model does not have, or an intervention that is
    there twice.
    """

    def __init__(
        self,
        decoder: Decoder,
        interventions: Sequence[Intervention],
        counts_V: Shaped[Tensor, "V"],
    ) -> None:
        self._decoder = decoder
        self._interventions = tuple(interventions)
        self._unigram = unigram(counts_V.to(decoder.device))
        count = decoder.layers * decoder.width
        wrong = {n for each in interventions for n in each.neurons if not 0 <= n < count}
        if wrong:
            raise ConfigurationError(
                f"There is no neuron {min(wrong)} in a model of {count}: give flat indices, "
                "layer times neurons of a layer plus neuron."
            )
        if len(set(self._interventions)) < len(self._interventions):
            raise ConfigurationError("An intervention is declared twice: name each once.")
        if any(each.rule in (FLOOR, CEILING) for each in self._interventions):
            self._check_signs()
        self._groups = self._grouped()
        with torch.inference_mode():
            self._bias_V = decoder.unembed(decoder.final_norm.bias)

    def _check_signs(self) -> None:
        """Raise ConfigurationError where bounds of activations are none of pre-activations."""
        some_X = torch.tensor([-2.0, -0.1, 0.0, 0.1, 2.0], device=self._decoder.device)
        for layer in range(self._decoder.layers):
            if bool((self._decoder.activation(layer)(some_X) * some_X < 0).any()) or bool(
                self._decoder.activation(layer)(some_X[2:3]).any()
            ):
                raise ConfigurationError(
                    "The activation function of the model changes signs, so that a bound of what "
                    "neurons read is none of what they write: leave out roles.bounds."
                )

    def _grouped(self) -> list[tuple[int, list[_Variant]]]:
        """Variants that hold the same neurons, which are stacked with each other alone, behind the
        lowest layer of these; L where there are none.
        """
        place = {each: index for index, each in enumerate(self._interventions)}
        groups = []
        for group in by_neurons(self._interventions):
            settings: dict[tuple[float, ...], _Variant] = {}
            for each in group:
                if each.values not in settings:
                    settings[each.values] = _Variant(self._by_layer(each), each.rule, [])
                settings[each.values].readouts.append((place[each], each.frozen))
            variants = list(settings.values())
            groups.append((min(variants[0].held, default=self._decoder.layers), variants))
        return groups

    def _by_layer(self, each: Intervention) -> dict[int, tuple[Tensor, Tensor]]:
        decoder = self._decoder
        found: dict[int, list[tuple[int, float]]] = {}
        for flat, value in zip(each.neurons, each.values, strict=True):
            found.setdefault(flat // decoder.width, []).append((flat % decoder.width, value))
        given = {
            layer: (
                torch.tensor([neuron for neuron, _ in pairs], device=decoder.device),
                decoder.unembed.weight.new_tensor([value for _, value in pairs]),
            )
            for layer, pairs in found.items()
        }
        if each.rule != READ:
            return given
        return {
            layer: (index_M, decoder.activation(layer)(value_M))
            for layer, (index_M, value_M) in given.items()
        }

    def __call__(self, tokens_BP: Int[Tensor, "B P"], keep_BP: Bool[Tensor, "B P"]) -> Effects:
        """Effects on a batch; a token counts where `keep_BP` says so and it has a next one.

        Raises CorpusError for rows longer than the model's context.
        """
        decoder = self._decoder
        rows, context = tokens_BP.shape
        if context > decoder.context:
            raise CorpusError(
                f"Rows of {context} tokens exceed the model's context of {decoder.context}: give "
                "rows no longer than that."
            )
        tokens_BP, keep_BP = tokens_BP.to(decoder.device), keep_BP.to(decoder.device).clone()
        keep_BP[:, -1] = False
        place_T = torch.nonzero(keep_BP.flatten()).flatten()
        target_T = tokens_BP.roll(-1, dims=1).flatten()[place_T]
        total = {
            name: torch.zeros(len(self._interventions), rows, dtype=torch.float64)
            for name in MEASURES
        }
        with torch.inference_mode():
            kept, last_BPC = self._untouched(tokens_BP)
            last_TC = last_BPC.flatten(0, 1)[place_T]
            parts = self._read_untouched(last_TC, target_T)
            for variant, x_TC, write in self._touched(kept, last_TC, place_T):
                for index, frozen in variant.readouts:
                    for name, value_T in self._read(x_TC, write, frozen, parts).items():
                        value_BP = torch.zeros_like(keep_BP, dtype=torch.float64)
                        value_BP.view(-1)[place_T] = value_T.double()
                        total[name][index] = value_BP.sum(1).cpu()
        return Effects(self._interventions, keep_BP.sum(1).double().cpu(), total)

    def _touched(
        self, kept: dict[int, tuple[Tensor, Tensor]], last_TC: Tensor, place_T: Tensor
    ) -> Iterator[tuple[_Variant, Tensor, _Write | None]]:
        """Every variant with its last residual stream [T, C], as many at a time as may be."""
        decoder = self._decoder
        for layer, variants in self._groups:
            if layer == decoder.layers:
                yield from ((variant, last_TC, None) for variant in variants)
                continue
            x_BPC, neurons_BPD = kept[layer]
            rows, context = x_BPC.shape[:2]
            stacked = max(1, TOKENS_AT_ONCE[decoder.device.type] // (rows * context))
            for first in range(0, len(variants), stacked):
                chunk = variants[first : first + stacked]
                x_KBPC = self._above(layer, chunk, x_BPC, neurons_BPD)
                for variant, last_BPC in zip(chunk, x_KBPC, strict=True):
                    write = None
                    if layer == decoder.layers - 1:
                        index_M, value_M = variant.touched(layer, neurons_BPD)
                        change_BPM = value_M - neurons_BPD[:, :, index_M]
                        logits_MV = decoder.written(decoder.w_out(layer)[index_M])
                        write = _Write(change_BPM.flatten(0, 1)[place_T], logits_MV)
                    yield variant, last_BPC.flatten(0, 1)[place_T], write

    def _untouched(self, tokens_BP: Tensor) -> tuple[dict[int, tuple[Tensor, Tensor]], Tensor]:
        """Residual stream and neurons after every layer that is wanted, and the last stream."""
        wanted = {layer for layer, _ in self._groups}
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        seen: list[Tensor] = []
        x_BPC = self._decoder.embed(tokens_BP)
        for layer in range(self._decoder.layers):
            if layer in wanted:
                x_BPC = self._decoder.block(layer, x_BPC, seen.append)
                kept[layer] = (x_BPC, seen.pop())
            else:
                x_BPC = self._decoder.block(layer, x_BPC)
        return kept, x_BPC

    def _above(
        self, lowest: int, chunk: list[_Variant], x_BPC: Tensor, neurons_BPD: Tensor
    ) -> Float[Tensor, "K B P C"]:
        """The last residual stream of every variant: changed at the lowest layer by what its
        neurons write, which adds, and run again from there on."""
        decoder = self._decoder
        w_out_DC = decoder.w_out(lowest)
        changed = []
        for variant in chunk:
            index_M, value_M = variant.touched(lowest, neurons_BPD)
            change_BPM = value_M - neurons_BPD[:, :, index_M]
            changed.append(x_BPC + change_BPM @ w_out_DC[index_M])
        x_KBPC = torch.stack(changed)
        for layer in range(lowest + 1, decoder.layers):

            def hold(neurons_BPD: Tensor, layer: int = layer) -> None:
                neurons_KBPD = neurons_BPD.unflatten(0, (len(chunk), -1))
                for neurons, variant in zip(neurons_KBPD, chunk, strict=True):
                    if layer in variant.held:
                        index_M, value_M = variant.touched(layer, neurons)
                        neurons[:, :, index_M] = value_M

            touched = any(layer in variant.held for variant in chunk)
            above = decoder.block(layer, x_KBPC.flatten(0, 1), hold if touched else None)
            x_KBPC = above.unflatten(0, (len(chunk), -1))
        return x_KBPC

    def _read_untouched(self, x_TC: Tensor, target_T: Tensor) -> list[_Part]:
        """The untouched model's predictions, some tokens at a time."""
        decoder, step = self._decoder, READ_AT_ONCE[self._decoder.device.type]
        parts = []
        for first in range(0, max(1, len(x_TC)), step):
            tokens = slice(first, first + step)
            centred_TC, scale_T = decoder.centre(x_TC[tokens])
            logits_TV = decoder.logits(centred_TC, scale_T)
            reference = Reference(logits_TV, scale_T, target_T[tokens], self._unigram)
            parts.append(_Part(tokens, reference, (logits_TV - self._bias_V) * scale_T[:, None]))
        return parts

    def _read(
        self, x_TC: Tensor, write: _Write | None, frozen: str | None, parts: list[_Part]
    ) -> dict[str, Float[Tensor, "T"]]:
        """All measures of one intervention from its last residual stream.

        What the last layer alone has changed adds to the logits times the final scale, so that the
        unembedding need not run again.
        """
        decoder = self._decoder
        found = []
        for part in parts:
            reference = part.reference
            centred_TC, scale_T = decoder.centre(x_TC[part.tokens])
            if frozen == SCALE:
                scale_T = reference.scale_T
            if write is None:
                logits_TV = decoder.logits(centred_TC, scale_T)
            else:
                scaled_TM = write.change_TM[part.tokens] / scale_T[:, None]
                logits_TV = torch.addmm(self._bias_V, scaled_TM, write.logits_MV)
                logits_TV.addcdiv_(part.unscaled_TV, scale_T[:, None])
            if frozen == UNIGRAM:
                reference.hold_unigram_(logits_TV)
            found.append(reference.measure(logits_TV, scale_T))
        return {name: torch.cat([each[name] for each in found]) for name in MEASURES}
