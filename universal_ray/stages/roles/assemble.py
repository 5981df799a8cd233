"""The last step of the roles: scores, responses and effects to tables and their summary."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from universal_ray.features.features import CURRENT
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.maths.roles.path_sums import PathSums, merge_paths
from universal_ray.maths.statistics.bootstrap import Bootstrap, Interval
from universal_ray.models.interventions import SCALE, UNIGRAM, Effects, merge_effects
from universal_ray.planning.items import Model, marker
from universal_ray.stages.profile.summary import plain_numbers
from universal_ray.stages.roles.declare import CUT, MEAN, Declaration
from universal_ray.stages.roles.plan import RolesOrder
from universal_ray.stages.roles.schemas import (
    AT_BOS,
    ATTENTION,
    CHANGED,
    HEADS,
    INTERVENED,
    INTERVENTIONS,
)
from universal_ray.stages.roles.summary import (
    ablated_sets,
    model_summary,
    next_tokens,
    overlap,
    seeds_summary,
    sweeps,
)
from universal_ray.stages.roles.tables import (
    attention_table,
    has_role,
    heads_table,
    interventions_table,
    roles_table,
)
from universal_ray.stages.roles.worker import EFFECT, PATH, SUMS
from universal_ray.storage import checked, finished
from universal_ray.storage.finished import (
    ATTENTION_PATH,
    HEADS_PATH,
    INTERVENTIONS_PATH,
    NEURONS_PATH,
    ROLES_PATH,
    SUMMARY_PATH,
    Draft,
)
from universal_ray.storage.reasons import absent, not_measured
from universal_ray.storage.store import Store

PATHS = (ROLES_PATH, INTERVENTIONS_PATH, ATTENTION_PATH, HEADS_PATH)
SCHEMAS = {INTERVENTIONS_PATH: INTERVENTIONS, ATTENTION_PATH: ATTENTION}

Tensors = dict[str, Tensor]


def universality(store: Store, model: Model) -> pa.Array:
    """Whether each neuron of a reference model is universal; null where it has no correlation."""
    neurons = finished.get_table(store, NEURONS_PATH, ["model", "is_universal"])
    return neurons.filter(pc.equal(neurons["model"], model.name))["is_universal"].combine_chunks()


def universal(flags: pa.Array) -> Tensor:
    """Bool [N]: those that are."""
    flags_N = pc.fill_null(flags, False).to_numpy(zero_copy_only=False)
    return torch.from_numpy(np.ascontiguousarray(flags_N))


def statistics(store: Store, order: RolesOrder, model: Model) -> Tensors:
    """Of weights, and of activations [N]: the mean, and how far they go from zero."""
    layers = [
        checked.get_tensors(store, order.profile.layer_path(model, layer))
        for layer in range(model.layers)
    ]
    return {
        **checked.get_tensors(store, order.profile.weights_path(model)),
        "post_mean": torch.cat([layer["post_mean"] for layer in layers]),
        "largest": torch.cat([layer["reach"] for layer in layers]),
    }


def assemble_roles(
    order: RolesOrder, declarations: dict[str, tuple[Declaration, str]], vocabulary: Vocabulary,
    fingerprint: str,
) -> None:
    """Write the draft of the tables of roles, and of `summary.json` with what they add to it.

    `declarations`: by name of a model that was intervened on, what was done, and where the
    sums lie; `fingerprint`: of what the tables are made from.
    """
    store = Store(order.store_url)
    columns = order.profile.bank.id_columns(CURRENT)
    draft = Draft(store, finished.ROLES, fingerprint)
    summary = finished.get_json(store, SUMMARY_PATH)
    tables: dict[str, list[pa.Table]] = {path: [] for path in PATHS}
    every, models, references = [], [], []
    for model in order.models:
        scores = checked.get_tensors(store, order.scores_path(model))
        responses = _responses(store, order, model)
        known = statistics(store, order, model)
        missing = not_measured(scores)
        has = has_role(scores, responses, known["largest"])
        every.append((model, has))
        models.append(
            {"model": model.name, **model_summary(has, scores, known, missing, model.layers)}
        )
        is_universal = pa.nulls(model.neurons, pa.bool_())
        mediated: dict[str, tuple[Tensor, Interval]] = {}
        if model.name not in declarations:
            missing[INTERVENED] = order.untouched.get(
                model.identity, "reference models alone are intervened on"
            )
        if model in order.references:
            told: dict[str, Any] = {"model": model.name}
            if model.name in declarations:
                declared, folder = declarations[model.name]
                mediated = _intervened(store, order, model, declared, folder, scores, tables, told)
            else:
                told |= {"not_measured": {INTERVENED: missing[INTERVENED]}}
                told |= {"sweeps": None, "sets": None}
                for path in (INTERVENTIONS_PATH, ATTENTION_PATH):
                    tables[path].append(
                        absent(SCHEMAS[path], model.name, missing[INTERVENED])
                    )
            is_universal = universality(store, model)
            universal_N = universal(is_universal).numpy()
            layer_N = np.repeat(np.arange(model.layers), model.width)
            told["overlap"] = overlap(has, universal_N, layer_N)
            promotes_N = scores["class_mean_difference"] > 0
            told["next_token"] = next_tokens(has, responses, promotes_N)
            references.append(told)
        tables[ROLES_PATH].append(
            roles_table(
                model, scores, responses, known, has, is_universal, mediated, missing, columns,
                vocabulary,
            )
        )
        tables[HEADS_PATH].append(
            absent(HEADS, model.name, missing[AT_BOS])
            if AT_BOS in missing
            else heads_table(model, scores)
        )
    seeds = _seeds(every)
    summary["roles"] = plain_numbers(
        {
            "tokens_intervened": order.shards[-1].stop * order.profile.plan.context,
            "models": models,
            "seeds": seeds,
            "not_measured": {} if seeds else {"seeds": "models are not of one shape"},
            "references": references,
        }
    )
    width = max(model.width for model in order.models)
    for path, parts in tables.items():
        draft.put_table(path, pa.concat_tables(parts), width)
    draft.put_json(SUMMARY_PATH, summary)
    draft.finish()


def _responses(store: Store, order: RolesOrder, model: Model) -> Tensors:
    """Of all layers, neurons numbered through."""
    layers = []
    for layer in range(model.layers):
        found = checked.get_tensors(store, order.responses_path(model, layer))
        found["role"] = found["role"] + layer * model.width
        layers.append(found)
    return {name: torch.cat([found[name] for found in layers]) for name in layers[0]}


def _seeds(every: Sequence[tuple[Model, dict[str, Tensor | None]]]) -> dict[str, Any] | None:
    """Over models of one shape; None where they differ."""
    shapes = {(model.layers, model.width) for model, _ in every}
    if len(shapes) > 1:
        return None
    return seeds_summary([has for _, has in every], every[0][0].layers)


def _intervened(
    store: Store,
    order: RolesOrder,
    model: Model,
    declared: Declaration,
    folder: str,
    scores: Tensors,
    tables: dict[str, list[pa.Table]],
    told: dict[str, Any],
) -> dict[str, tuple[Tensor, Interval]]:
    """Tables and summary of what was done to one model; the mediated shares of its neurons."""
    effects, paths = _sums(store, order, declared, folder)
    bootstrap = Bootstrap(len(effects.count_R))
    measured = {
        name: bootstrap.mean(sums_IR, effects.count_R) for name, sums_IR in effects.sums.items()
    }
    changed = {
        name: bootstrap.mean(effects.sums[name] - effects.sums[name][:1], effects.count_R)
        for name in CHANGED
    }
    tokens = int(effects.count_R.sum())
    tables[INTERVENTIONS_PATH].append(
        interventions_table(model, declared, measured, changed, tokens)
    )
    tables[ATTENTION_PATH].append(
        absent(ATTENTION, model.name, declared.left_out[CUT])
        if paths is None
        else attention_table(model, scores, paths)
    )
    told["not_measured"] = declared.left_out
    told["sweeps"] = sweeps(declared, measured)
    told["sets"] = ablated_sets(declared, effects, bootstrap) or None
    return _mediated(declared, effects, bootstrap)


def _sums(
    store: Store, order: RolesOrder, declared: Declaration, folder: str
) -> tuple[Effects, PathSums | None]:
    """Of all shards in their order, each checked against its receipt."""
    effects, paths = [], []
    for shard in order.shards:
        place = shard_folder(folder, shard.index)
        found = checked.get_tensors(store, f"{place}/{SUMS}", marker(place))
        count_R = found.pop(EFFECT + "count")
        sums = {
            name.removeprefix(EFFECT): tensor
            for name, tensor in found.items()
            if name.startswith(EFFECT)
        }
        effects.append(Effects(tuple(declared.chosen()), count_R, sums))
        if declared.paths:
            paths.append(
                PathSums(
                    paths=declared.paths,
                    count=float(found[PATH + "count"]),
                    totals_IQ=found[PATH + "totals"],
                    products_IQQ=found[PATH + "products"],
                    points_IXQ=found[PATH + "points"],
                )
            )
    return merge_effects(effects), merge_paths(paths) if paths else None


def shard_folder(folder: str, shard: int) -> str:
    return f"{folder}/shard-{shard:03d}"


def _mediated(
    declared: Declaration, effects: Effects, bootstrap: Bootstrap
) -> dict[str, tuple[Tensor, Interval]]:
    """Of neurons held at their means: the effect, and what goes through scale and frequency."""
    places: dict[str | None, list[int]] = {None: [], SCALE: [], UNIGRAM: []}
    for place, each in enumerate(declared.interventions):
        if each.kind == MEAN:
            places[each.intervention.frozen].append(place)
    neurons = [declared.interventions[place].neuron for place in places[None]]
    index_R = torch.tensor(neurons, dtype=torch.int64)
    shift_IR, unigram_IR = effects.sums["loss_shift"], effects.sums["kl_unigram_shift"]
    whole_IR = shift_IR[places[None]]
    return {
        "effect_on_loss": (index_R, bootstrap.mean(whole_IR, effects.count_R)),
        "scale_mediated_share": (
            index_R, bootstrap.mediated_share(whole_IR, shift_IR[places[SCALE]]),
        ),
        "frequency_mediated_share": (
            index_R, bootstrap.mediated_share(whole_IR, shift_IR[places[UNIGRAM]]),
        ),
        "unigram_shift": (index_R, bootstrap.mean(unigram_IR[places[None]], effects.count_R)),
    }  # fmt: skip
