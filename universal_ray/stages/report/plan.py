"""What of a study is looked at and shown: known before tokens are read. Pure."""

import re
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from universal_ray.config.report import Detail, ReportConfig
from universal_ray.errors import ConfigurationError
from universal_ray.planning.costs import (
    FORWARD,
    SINGLE,
    Cost,
    Share,
    forward_flops,
    table_share,
)
from universal_ray.planning.items import Model
from universal_ray.planning.shards import Shard, beside_layers, layer_bytes, layer_groups
from universal_ray.stages.inputs import Outline
from universal_ray.storage import finished

SHARE = 3
"""Of the tokens of the profile, one in so many is read of partners, where no option says more."""
HALF = 8
"""Rows that are in one half together, of studies of so many."""
SHARD_TOKENS = 16_384
"""Of the rows on which partners are read."""


@dataclass(frozen=True)
class Described:
    """A model whose neurons are shown, and the models in which they have partners."""

    model: Model
    others: tuple[Model, ...]


@dataclass(frozen=True, kw_only=True)
class ReportPlan:
    """Whose neurons are shown, and on which rows."""

    described: tuple[Described, ...]
    rows: int
    """of the profile: those in which the largest activations are"""
    sample: tuple[int, ...]
    """of these, rows at random, ascending"""
    partner_rows: int
    """on which partners are read, at most"""
    context: int
    window: int
    named: tuple[tuple[int, int], ...]
    """layer and neuron of those that are told of whatever they are"""

    def half(self, row_X: Int[Tensor, "*x"]) -> Int[Tensor, "*x"]:
        """Of each row: 0 where it describes, 1 where it scores. Blocks of rows, since neighbours
        may be of one document.
        """
        return row_X // max(1, min(HALF, self.rows // 4)) % 2

    @property
    def partners(self) -> tuple[Model, ...]:
        """Models that are read for the sake of others, each once."""
        return tuple(dict.fromkeys(model for each in self.described for model in each.others))


def make_plan(found: Outline, rows: int) -> ReportPlan:
    """Of a study whose profile has some rows. Raises ConfigurationError for options that do not fit
    it.
    """
    found.check_one_tokenizer(finished.REPORT)
    options, context = found.study.report, found.context
    sample = -(-options.sample // context)
    wanted = options.tokens or rows * context // SHARE
    if wanted < options.sample and options.tokens:
        raise ConfigurationError(
            f"report.tokens ({options.tokens}) is less than report.sample ({options.sample}), on "
            "which partners are read: raise it, or lower the sample"
        )
    sample = min(sample, rows)
    described = [
        Described(model, tuple(other for other in group if other.name != model.name))
        for group in found.models
        for model in group
        if model in found.references
    ]
    return ReportPlan(
        described=tuple(described),
        rows=rows,
        sample=sample_rows(rows, sample, options.seed),
        partner_rows=min(rows, max(sample, -(-wanted // context))),
        context=context,
        window=min(options.window, context),
        named=tuple(_named(each, [one.model for one in described]) for each in options.neurons),
    )


def _named(text: str, models: list[Model]) -> tuple[int, int]:
    """Layer and neuron that a user names. Raises ConfigurationError where some model has none."""
    found = re.fullmatch(r"(\d+)\.(\d+)", text)
    if not found:
        raise ConfigurationError(f"report.neurons names {text!r}: name LAYER.NEURON, as in 1.848")
    layer, neuron = int(found[1]), int(found[2])
    for model in models:
        if layer >= model.layers or neuron >= model.width:
            raise ConfigurationError(
                f"report.neurons names {text}, but {model.name} has {model.layers} layers of "
                f"{model.width} neurons: name one of these"
            )
    return layer, neuron


def sample_rows(rows: int, count: int, seed: int) -> tuple[int, ...]:
    """Rows at random, ascending."""
    order_R = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    return tuple(sorted(order_R[:count].tolist()))


def row_shards(rows: int, context: int) -> tuple[Shard, ...]:
    """Shards of a list of rows: places in it."""
    step = max(1, SHARD_TOKENS // context)
    return tuple(
        Shard(index, start, min(start + step, rows))
        for index, start in enumerate(range(0, rows, step))
    )


def describe(plan: ReportPlan, options: ReportConfig, unit: str) -> list[tuple[str, str]]:
    """The plan as rows of a table on screen; `unit`: what its units are called."""
    neurons = sum(each.model.neurons for each in plan.described)
    own, sample = plan.rows * plan.context, len(plan.sample) * plan.context
    lowest = any(each.model.signed for each in plan.described)
    count = options.top * (2 if lowest else 1) + options.quantiles + options.random + options.silent
    read = len(plan.described) * (own + sample)
    many = len(plan.partners)
    read += many * plan.partner_rows * plan.context
    return [
        ("report", f"of {neurons:,} {unit}s, up to {count} windows of {plan.window} tokens each: "
         f"{own:,} tokens for the largest activations, {sample:,} at random for the others, and "
         f"up to {plan.partner_rows * plan.context:,} for partners in {many} "
         f"model{'s' * (many != 1)}; "
         f"{read:,} tokens in forward passes"),
        ("pages", f"one of every {unit}, in {options.megabytes:,} MB at most"
         if options.detail is Detail.chosen else f"one of every {unit} in full"),
        ("figures", "those of the paper that the tables allow, in about half a minute"
         if options.figures else "none (report.figures)"),
    ]  # fmt: skip


CANDIDATES = 600
"""Usual features of tokens that descriptions are tried from."""
PRODUCTS_OF_FIT = 5
"""Of labels and activations, as a description is fitted."""


def cost(plan: ReportPlan, found: Outline, memory: float, *, done: bool) -> Cost:
    """What a report takes of workers with so many bytes, all of it unless it is `done`."""
    context, footprint, options = plan.context, found.footprint, found.study.report
    models = list(dict.fromkeys(each.model for each in plan.described))
    sample, rows = len(plan.sample) * context, plan.rows * context
    windows = options.top * 2 + options.quantiles + options.random + options.silent
    # Activations, float32: of candidates, of windows, and of partners in them.
    kept = sum(
        4 * each.model.neurons * windows * plan.window * (4 + len(each.others))
        for each in plan.described
    )
    workers = found.study.cluster.workers
    groups = {
        m: layer_groups(
            m, sample, memory=memory, footprint=footprint, workers=min(workers, m.layers)
        )
        for m in models
    }  # fmt: skip
    held = max(
        beside_layers(m, footprint)
        + footprint.copies * layer_bytes(m, sample)
        * max(group.stop - group.start for group in groups[m])
        for m in models
    )
    work = []
    if not done:
        own = sum(
            (rows + len(groups[m]) * sample) * forward_flops(m, context) for m in models
        )
        read = sum(
            (plan.partner_rows * context + sample) * forward_flops(m, context)
            for m in plan.partners
        )
        fitted = sum(PRODUCTS_OF_FIT * m.neurons * sample * CANDIDATES for m in models)
        count = sum(each.model.neurons for each in plan.described)
        steps = len(models) * 4 + len(plan.partners) * 4
        shares = (
            ("examples", FORWARD, own, steps),
            ("examples", SINGLE, fitted, len(models)),
            ("partners", FORWARD, read, steps),
        )
        work = [
            *(
                Share(name="report", batch=batch, kind=kind, amount=amount, steps=steps)
                for batch, kind, amount, steps in shares
            ),
            table_share(count * (windows + 2)),
        ]
    return Cost(work=work, kept=kept, device={"report": held}, host={"report": held})
