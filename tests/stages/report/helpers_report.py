"""The work of a report on one reference, without the stages before it: partners are made up."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch

from universal_ray.config.study import Study
from universal_ray.planning.shards import Layers
from universal_ray.runtime.arithmetic import arithmetic_kept
from universal_ray.stages.assignment import assign
from universal_ray.stages.inputs import Inputs
from universal_ray.stages.inputs import prepare as inputs_of
from universal_ray.stages.report.artifacts import Report
from universal_ray.stages.report.earlier import NONE
from universal_ray.stages.report.plan import row_shards
from universal_ray.stages.report.prepare import prepare
from universal_ray.stages.report.reduce import choose_windows, partner_rows
from universal_ray.stages.report.summary import read_values
from universal_ray.stages.report.tables import examples_table
from universal_ray.stages.report.worker import WINDOWS, ReportAssignment, ReportWorker
from universal_ray.storage.store import Store


@dataclass
class Looked:
    """The table of examples, and what they are of."""

    table: pa.Table
    inputs: Inputs
    rows: tuple[int, ...]
    """on which partners were read"""
    partners: np.ndarray
    """of every neuron, a flat index, -1 for none"""
    recipe: Report


def look(study: Study) -> Looked:
    """At the neurons of the reference, and at made-up partners in the one model compared."""
    store = Store(study.run.dir)
    inputs = inputs_of(study, store)
    recipe, corpus = prepare(inputs, store), inputs.corpus
    (each,) = recipe.plan.described
    (other,), model, sites = each.others, each.model, inputs.site.pair()
    told = assign(
        ReportAssignment, inputs, store, sites=sites, excluded=recipe.excluded, recipe=recipe
    )
    partner_N = torch.randperm(model.neurons, generator=torch.Generator().manual_seed(0))
    partner_N[::50] = NONE
    with arithmetic_kept():
        worker = ReportWorker(told)
        for shard in recipe.profile.shards:
            worker.survey(model, shard, True, None)
        for start, stop in pairwise((0, 1, model.layers)):
            worker.sample(model, Layers(start, stop), frozenset({WINDOWS}))
        choose_windows(recipe, model, corpus)
        windows = recipe.read_windows(store, model)
        order = {model.name: np.arange(model.neurons)}
        rows = partner_rows(recipe, {model.name: windows}, order)
        folder = recipe.partners_folder(other, rows, {model.identity: partner_N})
        for shard in row_shards(len(rows), recipe.plan.context):
            worker.partners(other, shard, rows, folder, ((model, partner_N),))
        value_MW = read_values(store, recipe, model, windows, folder, rows)
    partners, values = {other.name: partner_N}, {other.name: value_MW}
    subsets = corpus.subsets(0, recipe.plan.rows)
    halves = recipe.plan.half(windows.row_M).tolist()
    table = examples_table(each, windows, partners, values, rows, halves, subsets)
    return Looked(table, inputs, rows, partner_N.numpy(), recipe)


def matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """Lists of one length as rows; those of null lists are left out."""
    flat: np.ndarray = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, width)
