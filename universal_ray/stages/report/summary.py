"""The last step of the report: windows and what partners do in them to the tables.

Shapes: N neurons of a model, M windows of a model, W tokens of a window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from universal_ray.corpus.rows import TokenCorpus
from universal_ray.maths.statistics.conditional import GroupSums, merge_groups
from universal_ray.maths.statistics.descriptions import correlated
from universal_ray.planning.items import Model
from universal_ray.stages.report.artifacts import (
    ModelTransfer,
    Partners,
    Report,
    Windows,
    groups_file,
    partners_file,
)
from universal_ray.stages.report.conditional import conditional_table
from universal_ray.stages.report.descriptions import descriptions_summary, descriptions_table
from universal_ray.stages.report.earlier import story
from universal_ray.stages.report.labels import Chosen, TokenLabels
from universal_ray.stages.report.plan import row_shards
from universal_ray.stages.report.sampled import joined
from universal_ray.stages.report.tables import examples_table, vocabulary_table
from universal_ray.storage import artifacts, finished
from universal_ray.storage.columns import plain_numbers
from universal_ray.storage.finished import (
    CONDITIONAL_PATH,
    DESCRIPTIONS_PATH,
    EXAMPLES_PATH,
    SUMMARY_PATH,
    VOCABULARY_PATH,
    Draft,
)
from universal_ray.storage.store import Store


@dataclass(frozen=True)
class Read:
    """What has been read of the models."""

    rows: tuple[int, ...]
    """on which partners were"""
    folders: dict[str, str]
    """where that lies, by identity of the model that was read"""
    partners: Mapping[str, Mapping[str, Tensor]]
    """by names of a model and another, the flat index [N] of every neuron's partner"""
    groups: Mapping[str, tuple[Chosen, str]]
    """whose activations are told by what tokens are, and where they lie, by identity"""
    transfer: dict[str, str]
    """where that of descriptions lies, by identity of the model that was read"""


def assemble(recipe: Report, corpus: TokenCorpus, read: Read, fingerprint: str) -> None:
    """Write the draft of the report's tables; `fingerprint`: of what they are made from."""
    store = Store(recipe.store_url)
    bank = recipe.profile.read_bank(store)
    draft = Draft(store, finished.REPORT, fingerprint)
    summary = finished.get_json(store, SUMMARY_PATH)
    width = max(each.model.width for each in recipe.plan.described)
    draft.put_table(VOCABULARY_PATH, vocabulary_table(bank.vocabulary), width)
    subsets = corpus.subsets(0, recipe.plan.rows)
    labels = TokenLabels(bank, recipe.profile.subsets)
    examples, conditional, descriptions, told = [], [], [], []
    least = recipe.options.score
    for each in recipe.plan.described:
        model, partners = each.model, read.partners[each.model.name]
        windows = recipe.read_windows(store, model)
        values = {
            other.name: read_values(
                store, recipe, model, windows, read.folders[other.identity], read.rows
            )
            for other in each.others
        }
        halves = recipe.plan.half(windows.row_M).tolist()
        examples.append(
            examples_table(each, windows, partners, values, read.rows, halves, subsets)
        )
        chosen, folder = read.groups[model.identity]
        sums = merge_groups(
            [artifacts.get(store, groups_file(folder, shard), GroupSums)
             for shard in recipe.profile.shards]
        )  # fmt: skip
        conditional.append(conditional_table(model, chosen, sums, labels))
        found = joined(recipe.read_descriptions(store, model))
        transfer = {
            other.name: _transfer(store, model, read.transfer[other.identity])
            for other in each.others
        }
        known = story(store, model)
        descriptions.append(
            descriptions_table(
                each, found, partners, transfer, bank=bank, story=known, least=least
            )
        )
        universal_N = np.array(known.universal)
        told.append(
            descriptions_summary(model.name, found, [*transfer.values()], universal_N, least)
        )
    for path, tables in (
        (EXAMPLES_PATH, examples),
        (CONDITIONAL_PATH, conditional),
        (DESCRIPTIONS_PATH, descriptions),
    ):
        draft.put_table(path, pa.concat_tables(tables), width)
    summary["descriptions"] = plain_numbers(told)
    draft.put_json(SUMMARY_PATH, summary)
    draft.finish()


def _transfer(store: Store, model: Model, path: str) -> tuple[Tensor, Tensor]:
    """r [N] of what descriptions say with partners in another model, and with other neurons."""
    found = artifacts.get(store, path, ModelTransfer)
    return correlated(found.partner_5N[model.identity]), correlated(
        found.control_5N[model.identity]
    )


def read_values(
    store: Store,
    recipe: Report,
    model: Model,
    windows: Windows,
    folder: str,
    rows: Sequence[int],
) -> Tensor:
    """Activations [M, W] of partners in another model; zero where none were read."""
    value_MW = torch.zeros_like(windows.window_MW)
    for shard in row_shards(len(rows), recipe.plan.context):
        found = artifacts.get(store, partners_file(folder, shard), Partners)
        value_MW[found.window_M[model.identity]] = found.value_MW[model.identity]
    return value_MW
