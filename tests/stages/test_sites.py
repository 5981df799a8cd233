"""A study of units that are no neurons, through all stages; and how a site is known in a run."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from helpers_models import make_gpt2, save_model
from helpers_study import CONTEXT, VOCABULARY, inputs_of, make
from helpers_whole import make_inputs, whole_study
from rich.console import Console

from universal_ray.cli.study import LOCAL
from universal_ray.cli.study import make as make_stages
from universal_ray.config.hashing import fingerprint
from universal_ray.config.study import Exclusion, Study, check
from universal_ray.corpus.rows import open_corpus
from universal_ray.errors import ConfigurationError, MissingError, ModelError
from universal_ray.models.capture import Capture
from universal_ray.models.site import SITES, Ask
from universal_ray.models.source import resolve
from universal_ray.report.compare import compared
from universal_ray.report.figures.draw import drawn
from universal_ray.report.figures.registry import FIGURES
from universal_ray.report.figures.source import NotDrawn, Source
from universal_ray.report.run import Run
from universal_ray.report.screen import show_results
from universal_ray.report.site.gather import gather
from universal_ray.report.units import no_neurons
from universal_ray.stages.correlations.published import published
from universal_ray.stages.inputs import settled
from universal_ray.stages.registry import STAGES
from universal_ray.stages.sums import SUMS
from universal_ray.storage.finished import PROFILE, REPORT, ROLES
from universal_ray.storage.reasons import needs
from universal_ray.storage.record import read_record
from universal_ray.storage.store import Store


def values(name, site, tokens_BP) -> np.ndarray:
    """Of a site [T, N], float64."""
    found: list[torch.Tensor] = []
    capture = Capture(resolve(name), dtype=torch.float64, sites=[SITES[site]])
    capture.read(torch.as_tensor(tokens_BP), lambda _, __, x_TD: found.append(x_TD.clone()))
    return torch.cat(found, dim=1).numpy()


@pytest.fixture(scope="module")
def residual(tmp_path_factory) -> tuple[Study, Run, str]:
    """A whole study of the residual stream, and what was said as it was made."""
    folder = tmp_path_factory.mktemp("residual")
    study = whole_study(folder / "run", *make_inputs(folder), models__site="residual")
    study.corpus.exclude = Exclusion.none
    out = Console(width=400, record=True, file=StringIO())
    make_stages(study, STAGES, out, LOCAL)
    return study, Run(Store(study.run.dir)), out.export_text()


def test_all_stages_are_made_but_that_which_such_units_lack_and_that_is_told(residual):
    _, run, said = residual
    assert run.stages == ("correlations", "profile", "report")
    assert (
        "The dimensions of site residual have no roles and interventions, as roles are of neurons, "
        "by what they write to the logits and to heads: the stage roles is left out"
    ) in said
    assert "│ dimensions" in said and "one of every dimension" in said
    results = StringIO()
    show_results(Console(width=200, file=results), run.store)
    results = results.getvalue().partition("\n")[2].replace(run.url, "")
    assert "dimensions with excess correlation" in " ".join(results.split())
    assert not re.search(r"neurons?\b(?!\.parquet)", results)
    assert "roles" not in run.summary and run.store.exists("report/index.html")
    with pytest.raises(MissingError, match=r"roles.parquet is not made: the dimensions of site"):
        run.table("roles")


def test_a_site_is_told_in_the_tables_that_leave_a_run_and_in_its_summary(residual):
    _, run, _ = residual
    for name in ("neurons", "pairs"):
        table = run.table(name)
        assert set(table["site"].to_pylist()) == {"residual"}
        assert set(table["unit_kind"].to_pylist()) == {"dimension"}
    assert (run.summary["site"], run.summary["unit_kind"]) == ("residual", "dimension")


def test_what_was_published_of_neurons_stands_beside_no_other_unit(residual):
    _, run, _ = residual
    with pytest.raises(ConfigurationError, match="is of the site residual, and published tables"):
        compared(run.store, "universal.csv", None, 0.5)
    assert published("EleutherAI/pythia-160m", "residual", "rotated") is None
    assert published("EleutherAI/pythia-160m", "mlp_post", "shifted") is None
    assert published("EleutherAI/pythia-160m", "mlp_post", "rotated") is not None


def test_the_report_does_not_say_that_what_such_units_lack_can_be_made(residual):
    _, run, _ = residual
    missing = " ".join(gather(run).missing)
    assert "roles.parquet is not made: the dimensions of site residual have no roles" in missing
    assert "stages=[" not in missing


def test_what_says_neuron_of_them_can_say_what_they_are(residual):
    _, run, _ = residual
    assert no_neurons(run.summary) == (
        "What tables call a neuron is a dimension here, the unit of the site residual."
    )


def test_every_figure_is_drawn_of_such_units_or_says_what_they_lack(residual):
    _, run, _ = residual
    found = gather(run)
    source = Source(found.tables, found.summary, found.missing).of("a")
    reasons = {}
    for figure in FIGURES:
        try:
            assert len(figure.data(source).data)
        except NotDrawn as told:
            reasons[figure.name] = str(told)
    weights = SITES["residual"].lacks[Ask.weights]
    for name in ("firing", "redundancy", "logit_moments", "logit_skew"):
        assert reasons[name].endswith(f"was not measured: {weights}")
    assert reasons["logit_effects"].startswith(
        "its table tables/roles.parquet is not made: the dimensions of site residual have no roles"
    )
    assert not reasons.keys() & {"densities", "spread", "depth", "percentiles", "by_layer"}
    (drawn_one,) = drawn([each for each in FIGURES if each.name == "depth"], source)
    assert drawn_one.caption.startswith("Layer of the best match, by the layer of the dimension:")


def test_the_notebook_reads_such_a_run(residual, monkeypatch):
    _, run, _ = residual
    monkeypatch.setenv("UNIVERSAL_RAY_RUN", run.url)
    path = Path(__file__).parents[2] / "examples" / "read_a_run.ipynb"
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    names: dict[str, Any] = {}
    with pd.option_context("display.max_colwidth", None):
        for cell in cells:
            exec(cell.source, names)
    assert len(names["ten"]) == 10 and names["logits"].isna().all(axis=None)


def test_correlations_and_statistics_are_those_of_the_site(residual):
    study, run, _ = residual
    tokens_BP = open_corpus(study.corpus.path).read(0, 12)
    x_TN, y_TN = (
        values(name, "residual", tokens_BP)
        for name in (study.models.reference, *study.models.compared)
    )
    r_NM = np.corrcoef(x_TN.T, y_TN.T)[:16, 16:]
    rows = [row for row in run.table("pairs").to_pylist() if row["model"] == "a"]
    np.testing.assert_allclose([row["max_corr"] for row in rows], r_NM.max(1), atol=1e-5)
    told = [row for row in run.table("statistics").to_pylist() if row["model"] == "a"]
    for name in ("mean", "post_mean"):
        np.testing.assert_allclose([row[name] for row in told], x_TN.mean(0), atol=1e-5)
    np.testing.assert_allclose([row["sparsity"] for row in told], (x_TN > 0).mean(0), atol=1e-12)
    smallest = [row["example_low_value"][0] for row in told]
    np.testing.assert_allclose(smallest, x_TN.min(0), atol=1e-4)


def test_what_only_a_neuron_has_is_null_with_the_reason(residual):
    _, run, _ = residual
    table = run.table("statistics")
    reason = SITES["residual"].lacks[Ask.weights]
    assert {dict(row)["weights"] for row in table["not_measured"].to_pylist()} == {reason}
    of_weights = [column.name for column in table.schema if "weights" in needs(column)]
    assert {"w_in_norm", "vocab_kurt", "in_vocab_top", "both_sim", "l2_penalty"} <= {*of_weights}
    for name in of_weights:
        assert table[name].null_count == len(table), name
    (told,) = (each["profile"] for each in run.summary["references"])
    assert set(told["statistics"].values()) == {None}
    assert told["not_measured"]["w_in_norm"] == reason
    assert told["universal_against_others"]["vocab_kurt"] is None
    assert told["universal_against_others"]["var"] is not None


def test_units_without_roles_are_shown_as_others_are(residual):
    _, run, _ = residual
    assert run.table("examples").num_rows > 16
    assert run.table("descriptions").num_rows == 16
    assert run.table("taxonomy")["family"].null_count == 0


def test_a_stage_that_such_units_lack_is_refused_where_it_is_asked_for(residual, tmp_path):
    study, _, _ = residual
    out = Console(file=StringIO())
    with pytest.raises(ConfigurationError, match=r"have no roles .*: leave out roles, or choose"):
        make_stages(study, [PROFILE, ROLES], out, LOCAL)
    study = whole_study(tmp_path / "new", *make_inputs(tmp_path), models__site="residual")
    with pytest.raises(MissingError, match=r"no tables of correlations and profile for report"):
        make_stages(study, [REPORT], out, LOCAL)


def test_another_site_is_refused_in_a_run_that_exists(residual):
    study, run, _ = residual
    other = whole_study(run.url, [study.models.reference, *study.models.compared],
                        str(study.corpus.path), corpus__exclude=Exclusion.none)  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"models.site \(was residual, now mlp_post\)"):
        inputs_of(other)


@pytest.mark.thorough
@pytest.mark.parametrize("site", ["attention_norm", "mlp_sign"])
def test_few_units_and_sparse_ones_are_correlated(tmp_path, site):
    study = whole_study(tmp_path / "run", *make_inputs(tmp_path), models__site=site)
    study.corpus.exclude = Exclusion.none
    if site == "mlp_sign":
        from transformers import LlamaConfig, LlamaForCausalLM

        for seed, name in enumerate((study.models.reference, *study.models.compared)):
            torch.manual_seed(seed)
            config = LlamaConfig(
                vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=8,
                intermediate_size=6, num_hidden_layers=2, num_attention_heads=2,
                initializer_range=0.4, bos_token_id=0, eos_token_id=0,
            )  # fmt: skip
            save_model(LlamaForCausalLM(config), name)
    rows = make(study).get_table("tables/pairs.parquet").to_pylist()
    tokens_BP = open_corpus(study.corpus.path).read(0, 12)
    x_TN, y_TN = (
        values(name, site, tokens_BP) for name in (study.models.reference, *study.models.compared)
    )
    count = x_TN.shape[1]
    assert count == {"attention_norm": 4, "mlp_sign": 48}[site]
    assert len(rows) == 2 * count
    with np.errstate(invalid="ignore"):
        r_NM = np.corrcoef(x_TN.T, y_TN.T)[:count, count:]
    for row, r_M in zip(rows, r_NM, strict=False):
        live = np.isfinite(r_M)
        assert (row["max_corr"] is None) == (not live.any())
        if live.any():
            assert row["max_corr"] == pytest.approx(r_M[live].max(), abs=1e-5)


def test_a_site_that_a_model_lacks_is_refused_before_any_model_runs(tmp_path, monkeypatch):
    study = whole_study(tmp_path / "run", *make_inputs(tmp_path), models__site="mlp_gate")
    monkeypatch.setattr(Capture, "__init__", None)
    with pytest.raises(ModelError, match="has no site mlp_gate, as its MLPs have no gate"):
        make_stages(study, STAGES, Console(file=StringIO()), LOCAL)


def test_a_site_that_is_none_is_refused_with_the_nearest(tmp_path):
    study = whole_study(tmp_path / "run", ["/a", "/b"], "/tokens", models__site="atention_z")
    with pytest.raises(ConfigurationError) as error:
        check(study)
    assert str(error.value) == (
        "models.site=atention_z is no site: did you mean attention_z (of mlp_post, mlp_pre, "
        "mlp_gate, mlp_up, mlp_sign, attention_z, attention_norm, residual, sae:WHERE)?"
    )


def test_followed_models_keep_the_units_of_the_site(tmp_path):
    for name, heads in (("a1", 2), ("a2", 4), ("b1", 2), ("b2", 2)):
        make_gpt2(tmp_path / name, len(name) + heads + ord(name[0]), width=8, heads=heads,
                  vocabulary=VOCABULARY, context=CONTEXT)  # fmt: skip
    models = [str(tmp_path / f"{name}{{revision}}") for name in "ab"]
    _, tokens = make_inputs(tmp_path / "inputs")
    study = whole_study(tmp_path / "run", models, tokens, models__revisions=["1", "2"])
    inputs_of(study)
    study.models.site = "attention_norm"
    with pytest.raises(ConfigurationError, match="names models of different shapes"):
        inputs_of(study)


# Its place in what is stored


def test_sums_of_what_had_another_key_are_known_by_the_words_of_then():
    """Regression of identity: a site must not make anew what is the same."""
    study = Study()
    told = settled(study, 32, [0])

    def key(site):
        return SUMS.fingerprint({**told, "models.site": site})

    then = {**{name: told[name] for name in SUMS.keys if name != "models.site"}}
    for site, activation in (("mlp_post", "post"), ("mlp_pre", "pre")):
        before = {SUMS.name: [SUMS.version, {**then, "models.activation": activation}]}
        assert key(site) == fingerprint([before, []])
    assert len({key(site) for site in SITES}) == len(SITES)


def test_a_record_of_another_key_is_read_in_the_words_of_now(residual, tmp_path):
    _, run, _ = residual
    record = read_record(run.store)
    assert record is not None and record["bits"]["models.site"] == "residual"
    del record["bits"]["models.site"], record["configuration"]["models"]["site"]
    record["bits"]["models.activation"] = "pre"
    record["configuration"]["models"]["activation"] = "pre"
    store = Store(str(tmp_path))
    store.put("study.yaml", yaml.safe_dump(record).encode())
    found = read_record(store)
    assert found is not None and found["bits"]["models.site"] == "mlp_pre"
    assert found["configuration"]["models"]["site"] == "mlp_pre"
    assert "models.activation" not in found["bits"]
