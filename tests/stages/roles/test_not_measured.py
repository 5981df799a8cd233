"""What was not measured is null with a reason, in every table, in the summary and on screen.

One study of three architectures, of which interventions know one.
"""

import math
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from helpers_models import save_model
from helpers_roles import gpt2
from helpers_study import ALL, make
from helpers_whole import whole_study

from universal_ray.config.report import KINDS
from universal_ray.config.study import Pairs
from universal_ray.report.screen import console, show_results
from universal_ray.report.tables import TABLES as STAGES
from universal_ray.stages.profile.schemas import BY_SUBSET
from universal_ray.stages.roles.schemas import AT_BOS, INTERVENED, ROLES
from universal_ray.storage.reasons import absent, assembled, field, needs
from universal_ray.storage.store import Store

pytestmark = pytest.mark.thorough

CONTEXT, ROWS, CHANNELS, HEADS, LAYERS, WIDTH, VOCABULARY = 24, 80, 32, 4, 2, 48, 320
TABLES = (
    "neurons", "pairs", "statistics", "features", "taxonomy", "bank", "roles", "heads", "attention",
    "interventions",
)  # fmt: skip
FINISHED = {table.path: table for tables in STAGES.values() for table in tables}.values()
"""As the last stage that writes each leaves them."""
ATTENTION = ("attention deactivation", "attention activation")


def opt(directory: Path) -> Path:
    from transformers import OPTConfig, OPTForCausalLM

    return save_model(OPTForCausalLM(OPTConfig(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=CHANNELS, ffn_dim=WIDTH,
        word_embed_proj_dim=CHANNELS, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        init_std=0.2, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )), directory)  # fmt: skip


def llama(directory: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    return save_model(LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=CHANNELS,
        intermediate_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=2, initializer_range=0.2, bos_token_id=0, eos_token_id=0,
    )), directory)  # fmt: skip


def run_all(folder: Path, models: list[str], begin: int) -> Store:
    """The whole study on rows that begin with an id."""
    tokens_BP = np.random.default_rng(0).integers(1, 300, (ROWS, CONTEXT))
    tokens_BP[:, 0] = begin
    datasets.Dataset.from_dict({"tokens": tokens_BP.tolist()}).save_to_disk(str(folder / "tokens"))
    return make(whole_study(
        folder / "run", models, str(folder / "tokens"), models__pairs=Pairs.all,
        units__tokens=20 * CONTEXT, units__batch=20 * CONTEXT, taxonomy__unigram_ids=3,
        taxonomy__unigram_occurrences=3000, roles__tokens=4 * CONTEXT, roles__sweep=[0.0, 4.0],
        roles__candidates=6, roles__controls=2, roles__paths=2, roles__kurtosis=3.0,
    ), *ALL)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("architectures")
    torch.manual_seed(0)
    settings = {"layers": LAYERS, "n_inner": WIDTH, "vocabulary": VOCABULARY, "context": CONTEXT}
    models = [
        str(make(folder / name))
        for name, make in (
            ("opt", opt), ("llama", llama), ("gpt2", lambda path: gpt2(path, **settings)),
        )
    ]
    return models, run_all(folder, models, begin=0)


def table_of(store: Store, name: str, model: str) -> pa.Table:
    found = store.get_table(f"tables/{name}.parquet")
    if "model" not in found.column_names:
        return found
    return found.filter(pc.equal(found["model"], Path(model).name))


def unaccounted(table: pa.Table) -> list[str]:
    """Columns that are null, in whole or in part, where nothing says why."""
    columns = table.to_pydict()
    told = [dict(entry) for entry in columns.get("not_measured", [()] * len(table))]
    reasons = columns.get("null_reason", [None] * len(table))
    found = []
    for column in table.schema:
        natural = b"null" in column.metadata
        for value, missing, reason in zip(columns[column.name], told, reasons, strict=True):
            lacks = needs(column) & missing.keys()
            if lacks and value is not None:
                found.append(f"{column.name} is told and {lacks} said to be missing")
            empty = value is None or (
                isinstance(value, list) and any(entry is None for entry in value)
            )
            if empty and not (lacks or reason or natural):
                found.append(column.name)
    return sorted(set(found))


@pytest.mark.parametrize("name", TABLES)
def test_every_null_is_accounted_for(run, name):
    models, store = run
    for model in models:
        table = table_of(store, name, model)
        assert len(table) > 0
        assert unaccounted(table) == [], model
        for column in table.schema:  # NaN is no way of saying so, nor is infinity
            if pa.types.is_floating(column.type):
                assert pc.all(pc.is_finite(table[column.name])).as_py() is not False, column.name


@pytest.mark.parametrize("table", FINISHED, ids=[table.path for table in FINISHED])
def test_tables_have_the_columns_and_the_order_that_docs_tables_says(run, table):
    models, store = run
    found = store.get_table(table.path)
    stored = pa.BufferOutputStream()
    pq.write_table(table.schema.empty_table(), stored)  # Parquet names what lists hold its own way
    assert found.schema.equals(pq.read_schema(stored.getvalue()), check_metadata=True)
    keys = []
    for name in table.sorted_by:
        values = found[name].to_pylist()
        if pa.types.is_string(found[name].type):
            listed = [*(Path(model).name for model in models), *KINDS, *dict.fromkeys(values)]
            values = [listed.index(value) for value in values]
        keys.append([math.inf if value is None else value for value in values])
    rows = list(zip(*keys, strict=True))
    assert rows == sorted(rows)


def test_reasons_are_said_where_something_lacks_and_nowhere_else(run):
    (opt_model, llama_model, gpt2_model), store = run
    told = {
        model: dict(table_of(store, "roles", model)["not_measured"][0].as_py())
        for model in (opt_model, llama_model, gpt2_model)
    }
    assert told[gpt2_model] == {}
    for model, kind in ((opt_model, "opt"), (llama_model, "llama")):
        assert told[model].keys() == {AT_BOS, INTERVENED}
        said = f"models of type {kind} are not intervened on"
        assert all(said in reason for reason in told[model].values())
        for name in ("heads", "attention", "interventions"):
            (row,) = table_of(store, name, model).to_pylist()
            assert kind in row["null_reason"]
    for name in ("heads", "interventions"):
        assert table_of(store, name, gpt2_model)["null_reason"].null_count == len(
            table_of(store, name, gpt2_model)
        )
    lacking = {
        opt_model: {"up", "up_bias", "lower end", BY_SUBSET},
        llama_model: {"bias", "up_bias", BY_SUBSET},
    }
    for model, names in lacking.items():
        statistics = table_of(store, "statistics", model)
        assert {name for name, _ in statistics["not_measured"][0].as_py()} == names
        assert statistics["w_in_norm"].null_count == 0
        assert (statistics["up_norm"].null_count == 0) == (model == llama_model)
        neurons = table_of(store, "neurons", model)
        assert neurons["not_measured"] == statistics["not_measured"]


def test_what_is_measured_of_every_model_is_measured_of_each(run):
    """No column is null throughout for a model that lacks nothing of it, but for chance."""
    models, store = run
    by_chance = {
        "antipode_layer", "antipode_neuron", "antipode_cosine", "detector_length",
        "detector_ngrams", "detector_ngram_ids", "detector_suppresses", "detector_share",
        "position_kind", "position_strong",
    }  # fmt: skip
    for model in models:
        for name in ("statistics", "roles"):
            table = table_of(store, name, model)
            missing = dict(table["not_measured"][0].as_py()).keys()
            for column in table.schema:
                if column.name not in by_chance and not needs(column) & missing:
                    assert table[column.name].null_count < len(table), (model, column.name)


def test_roles_that_were_not_measured_are_no_roles_that_no_neuron_has(run):
    models, store = run
    opt_model, llama_model, gpt2_model = (Path(model).name for model in models)
    roles = store.get_json("tables/summary.json")["roles"]
    by_model = {told["model"]: told for told in roles["models"]}
    for model in (opt_model, llama_model):
        told = by_model[model]
        assert {name for name, counts in told["roles"].items() if counts is None} == set(ATTENTION)
        assert told["not_measured"].keys() == set(ATTENTION)
    assert by_model[gpt2_model]["not_measured"] == {}
    assert by_model[gpt2_model]["roles"].keys() == set(ROLES)
    assert all(by_model[gpt2_model]["roles"][name]["neurons"] >= 0 for name in ROLES)
    for told in roles["references"]:
        measured = told["model"] == gpt2_model
        assert all((told["overlap"][name] is not None) == measured for name in ATTENTION)
        assert (told["sweeps"] is not None) == measured
        assert (INTERVENED in told["not_measured"]) == (not measured)
    assert all(roles["seeds"][name] is None for name in ATTENTION)
    assert roles["seeds"]["position"]["mean"] is not None
    summary = store.get_json("tables/summary.json")
    for told in summary["references"]:
        profile: dict[str, Any] = told["profile"]
        nulls = {n for n, each in profile["universal_against_others"].items() if each is None}
        assert nulls == profile["not_measured"].keys() and "up_bias" in nulls


def test_the_screen_says_not_measured(run, capsys):
    show_results(console(), run[1])
    shown = capsys.readouterr().out
    for part in re.split("neurons by role", shown)[1:3]:  # of OPT and Llama
        for name in ATTENTION:
            (line,) = [line for line in part.splitlines() if name in line and "│" in line]
            # In a narrow column "measured" is on the next line.
            assert line.count(" not ") >= 3 and " 0 " not in line
        assert "not measured, interventions: models of type" in " ".join(part.split())


@pytest.mark.thorough
def test_rows_without_a_begin_of_text_tell_nothing_of_attention_to_it(tmp_path, caplog):
    models = [str(gpt2(tmp_path / name, context=CONTEXT)) for name in "a"]
    other = tmp_path / "b"
    gpt2(other, context=CONTEXT, layers=2)
    store = run_all(tmp_path, [*models, str(other)], begin=7)
    reason = "4 of the 4 rows for interventions do not begin with the token"
    assert reason in caplog.text
    for model in (*models, str(other)):
        table = table_of(store, "roles", model)
        missing = dict(table["not_measured"][0].as_py())
        assert missing.keys() == {AT_BOS} and reason in missing[AT_BOS]
        assert table["bos_score"].null_count == len(table) > table["effect_on_loss"].null_count
        (row,) = table_of(store, "attention", model).to_pylist()
        assert reason in row["null_reason"]
    told = store.get_json("tables/summary.json")["roles"]
    assert all(each["roles"]["attention activation"] is None for each in told["models"])
    assert told["seeds"] is None and "seeds" in told["not_measured"]


def test_a_column_that_nobody_made_is_an_error_and_no_null():
    schema = pa.schema(
        [field("model", pa.string(), "", ""), field("a", pa.int8(), "", "", needs=("gate",)),
         field("null_reason", pa.string(), "", "")]
    )  # fmt: skip
    found = {"model": pa.array(["m"]), "null_reason": pa.nulls(1, pa.string())}
    with pytest.raises(KeyError, match="a"):
        assembled(schema, found, {}, 1)
    assert assembled(schema, found, {"gate": "it has none"}, 1)["a"].null_count == 1
    (row,) = absent(schema, "m", "why").to_pylist()
    assert row == {"model": "m", "a": None, "null_reason": "why"}
