"""Figures are drawn from tables alone, say just what these say, and are the same bytes always."""

import io
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from helpers_figures import (
    BY_NAME,
    NEURONS,
    TEXTS,
    THRESHOLD,
    checksums,
    data_of,
    source,
    table,
)
from helpers_site import HOSTILE, catalogue, write
from helpers_tiers import tiers
from helpers_whole import copied, damage, whole_run
from matplotlib.figure import Figure as Page

from universal_ray.report.figures import docs, paint
from universal_ray.report.figures.draw import KINDS, drawn
from universal_ray.report.figures.figure import CHAPTERS
from universal_ray.report.figures.registry import FIGURES, PAPER
from universal_ray.report.figures.source import SCHEMAS, NotDrawn, Source
from universal_ray.report.run import PATHS
from universal_ray.storage.names import ours
from universal_ray.storage.reasons import NOT_MEASURED, needs

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
FEW = ("densities", "spread", "logit_effects", "subset_tokens")
LARGEST = 2_000_000


def svg(figure, data):
    with paint.settings():
        page = Page()
        figure.draw(data, page)
        return paint.svg(page)


@pytest.fixture(scope="module")
def every():
    """What all figures draw of tables that allow them, and what is said below."""
    return {name: figure.data(source().of("a")) for name, figure in BY_NAME.items()}


@pytest.fixture(scope="module")
def pictures(every):
    return {name: svg(BY_NAME[name], made.data) for name, made in every.items()}


@pytest.fixture(scope="module")
def some():
    """Two with all of their files."""
    two = BY_NAME["densities"], BY_NAME["subset_tokens"]
    return {each.name: each for each in drawn(two, source())}


# Files


def test_every_figure_is_drawn_where_its_tables_allow_it(every, pictures, some):
    assert set(pictures) == set(BY_NAME)
    for name, content in pictures.items():
        assert 0 < len(content) < LARGEST, name
        assert 0 < len(paint.csv(every[name].data)) < LARGEST, name
        assert all(ours(f"report/figures/{name}.{kind}") for kind in KINDS)
    for name, each in some.items():
        assert tuple(each.files) == KINDS and each.reason == ""
        assert each.caption == every[name].caption and each.files["svg"] == pictures[name]
        assert each.files["pdf"].startswith(b"%PDF") and b"CreationDate" not in each.files["pdf"]


def test_every_caption_has_a_number_and_what_universal_means(every):
    for name, made in every.items():
        assert "n = " in made.caption or "n: " in made.caption, name
        if "universal" in made.caption.lower() or "●" in made.caption:
            assert f"{THRESHOLD:g}" in made.caption, name


@pytest.mark.thorough
def test_the_same_tables_make_the_same_bytes_in_another_process(tmp_path):
    """In another time zone, language and order of sets, and beside other settings of the user's."""
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsvg.fonttype: none\naxes.grid: True\n")
    told = f"import json, helpers_figures as h; print(json.dumps(h.checksums(*{FEW})))"
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{ROOT}/tests/report", "TZ": "Asia/Tokyo",
        "PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path), "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True,
                           text=True, check=True)  # fmt: skip
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found == checksums(*FEW) and len(found) == 3 * len(FEW)


@pytest.mark.thorough
def test_several_processes_draw_the_same_figures_in_their_order():
    """One is of no model, and one is not drawn: its reason comes in its place."""
    chosen = [BY_NAME[name] for name in ("densities", "layers", "persistence", "subset_tokens")]
    both = [list(drawn(chosen, source(), processes)) for processes in (1, 3)]
    assert [each.name for each in both[1]] == [each.name for each in both[0]]
    assert [each.files for each in both[1]] == [each.files for each in both[0]]
    assert [each.reason for each in both[1]] == [each.reason for each in both[0]]


@pytest.mark.parametrize(
    "name",
    tiers(["densities", "depth", "alphabet", "sweeps", "subset_tokens"],
          ["densities", "subset_tokens"]),
)  # fmt: skip
def test_what_is_drawn_is_what_the_csv_holds(every, pictures, name):
    """A figure that is drawn of its CSV is the same figure."""
    data = every[name].data
    texts = data.select_dtypes(exclude=["number", "bool"]).columns
    read = pd.read_csv(
        io.BytesIO(paint.csv(data)), dtype=dict.fromkeys(texts, str), keep_default_na=False,
        na_values={each: [""] for each in data.columns.difference(texts)},
    )  # fmt: skip
    unquoted = {each: read[each].str.replace(r"^'(?=[=+\-@])", "", regex=True) for each in texts}
    assert svg(BY_NAME[name], read.assign(**unquoted)) == pictures[name]


def test_the_users_own_settings_stay():
    before = dict(matplotlib.rcParams)
    svg(BY_NAME["depth"], data_of("depth"))
    assert dict(matplotlib.rcParams) == before


def test_hostile_texts_are_shapes_in_a_picture_and_no_formulas_in_a_csv(pictures, some):
    for name, content in pictures.items():
        root = ElementTree.fromstring(content.decode())
        tags = {element.tag.removeprefix(SVG) for element in root.iter() if SVG in element.tag}
        assert tags <= {"svg", "metadata", "defs", "style", "g", "path", "use", "clipPath", "rect",
                        "image"}, name  # fmt: skip
        for element in root.iter():
            for key, value in element.attrib.items():
                assert not key.startswith("on"), name
                if key.endswith("href"):
                    assert value.startswith(("#", "data:image/png;base64,")), name
    cells = pd.read_csv(io.BytesIO(some["subset_tokens"].files["csv"]), dtype=str,
                        keep_default_na=False)  # fmt: skip
    assert set(cells["subset"]) == {"'=one"}
    texts = set(cells["text"])
    assert {"'=cmd|' /C calc'!A0", "'-1"} & texts and texts <= {*TEXTS, *(f"'{t}" for t in TEXTS)}


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\u202eevil", "U+202Eevil"), ("a\u0000b", "aU+0000b"), ("$x^2$", "$x^2$"),
     ("␣" * 9, "␣×9"), ("\u05d0", "U+05D0"), ("\u6f22", "U+6F22"), ("x" * 4, "xxxx"),
     ("abcdefghij" * 4, "abcdefghijabcdefghijabcdefghi…"), ("\ud800", "U+D800")],
)  # fmt: skip
def test_every_character_is_seen(text, shown):
    assert paint.shown(text) == shown


def test_titles_axes_and_ticks_say_another_word_and_numbers_stay():
    page = Page()
    panel = page.subplots()
    panel.set_title("pre-activation: mean", loc="left")
    panel.set_xlabel("pre-activation")
    panel.set_yticks([0, 1], ["pre-activation: mean", "input bias"])
    paint.rename(page, "pre-activation", "value")
    page.canvas.draw()
    assert panel.get_xlabel() == "value" and panel.get_xticklabels()[0].get_text() == "0.0"
    assert panel.get_title(loc="left") == "value: mean"
    assert [each.get_text() for each in panel.get_yticklabels()] == ["value: mean", "input bias"]


def test_units_with_one_value_are_drawn_by_it():
    whole = source()
    latents = replace(whole, summary={**whole.summary, "site": "sae", "unit_kind": "latent"})
    (of_neurons,), (told,) = (drawn([BY_NAME["words"]], each) for each in (whole, latents))
    assert of_neurons.files["svg"] != told.files["svg"]
    assert not re.search("activation function|[Pp]re-activation|neurons? ", told.caption)
    of_both, of_one = (BY_NAME["positions"].data(each.of("a")) for each in (whole, latents))
    assert "activation function" in of_both.caption and "pre_mean" in of_both.data
    assert "activation function" not in of_one.caption
    assert "post_mean" in of_one.data and "pre_mean" not in of_one.data


def test_one_other_model_is_not_models():
    whole = source()
    alone = {name: found.filter(pc.equal(found["other"], "b")) if "other" in found.column_names
             else found for name, found in whole.tables.items()}  # fmt: skip
    for name in ("depth", "similarity", "best_layers"):
        assert "2 other models," in BY_NAME[name].data(whole.of("a")).caption
        assert "1 other model," in BY_NAME[name].data(replace(whole, tables=alone).of("a")).caption


def test_what_is_nearly_always_zero_is_drawn_on_logarithmic_heights():
    whole = source()
    assert "logarithmic" not in BY_NAME["words"].data(whole.of("a")).caption
    rows = whole.tables["conditional"].to_pandas()
    sparse = np.zeros(257, dtype=np.int64)
    sparse[100], sparse[101:110] = 10_000, 1
    rows["histogram"] = [None if each is None else sparse for each in rows["histogram"]]
    tables = {**whole.tables, "conditional": pa.Table.from_pandas(
        rows, whole.tables["conditional"].schema, preserve_index=False)}  # fmt: skip
    made = BY_NAME["words"].data(replace(whole, tables=tables).of("a"))
    page = Page()
    BY_NAME["words"].draw(made.data, page)
    assert made.caption.endswith("Heights are logarithmic.")
    assert {panel.get_yscale() for panel in page.axes if panel.lines or panel.patches} == {"log"}


# What is not there


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_a_figure_without_its_table_is_a_sentence(figure):
    whole = source()
    for name in figure.tables:
        tables = {each: values for each, values in whole.tables.items() if each != name}
        path = PATHS.get(name)
        missing = [f"{path} was cut."] if path else []
        summary = whole.summary if path else {}
        kept = Source(tables, summary, missing)
        (told,) = drawn([figure], kept)
        if (figure.name, name) == ("ablations", "interventions"):
            continue  # it says why there is none
        assert told.reason[0].isupper() and told.reason.endswith(".")
        if path:
            assert told.reason == f"Its table {path} was cut."


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_a_figure_needs_no_table_that_it_does_not_name(figure):
    whole = source()
    tables = {name: table for name, table in whole.tables.items() if name in figure.tables}
    summary = whole.summary if "summary" in figure.tables else {}
    assert len(figure.data(Source(tables, summary).of("a")).data)


def without_values(name, column):
    """The planted tables, but for one column that has no value."""
    whole = source()
    table = whole.tables[name]
    place, kind = table.column_names.index(column), SCHEMAS[name].field(column).type
    changed = table.set_column(place, column, pa.nulls(table.num_rows, kind))
    return Source({**whole.tables, name: changed}, whole.summary)


@pytest.mark.parametrize("most", tiers([1, None], [1]))
@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_what_may_have_no_value_is_left_out_or_a_reason(figure, most):
    """A column of each of its tables after the other: the first alone, or all."""
    sources = []
    for name in figure.tables:
        if name == "summary":
            continue
        may_be_null = [
            column for column in source().tables[name].column_names
            if {b"null", b"needs"} & (SCHEMAS[name].field(column).metadata or {}).keys()
        ]  # fmt: skip
        sources += [without_values(name, column) for column in may_be_null[:most]]
        empty = {**source().tables, name: source().tables[name].slice(0, 0)}
        sources.append(Source(empty, source().summary))
    for each in sources:
        try:
            made = figure.data(each.of("a"))
        except NotDrawn as told:
            assert str(told)
        else:
            assert len(made.data) and made.caption


def test_a_column_of_another_version_is_named():
    whole = source()
    for change in (
        lambda found: found.drop_columns(["max_layer"]),
        lambda found: found.set_column(
            found.column_names.index("max_layer"), "max_layer", pa.array(["x"] * found.num_rows)
        ),
    ):
        tables = {**whole.tables, "pairs": change(whole.tables["pairs"])}
        (told,) = drawn([BY_NAME["depth"]], Source(tables, whole.summary))
        assert told.reason == ("The column max_layer of pairs.parquet is not there or of another "
                               "type, so the table is of another version.")  # fmt: skip


def test_too_few_neurons_are_no_distribution():
    whole = source()
    tables = {**whole.tables, "neurons": whole.tables["neurons"].slice(0, 4)}
    (told,) = drawn([BY_NAME["densities"]], Source(tables, whole.summary))
    assert told.reason == "It takes 10 neurons with a correlation, and there are 4."


def test_why_nothing_was_measured_is_what_the_table_says():
    whole = source()
    rows = {"model": ["a"], "layer": [None], "head": [None], "histogram": [None],
            "null_histogram": [None], "null_reason": ["it has no first token"]}  # fmt: skip
    tables = {**whole.tables, "heads": table("heads", rows)}
    (told,) = drawn([BY_NAME["head_scores"]], Source(tables))
    assert told.reason == "It has no first token."
    one = whole.tables["interventions"].slice(0, 1)
    (told,) = drawn([BY_NAME["sweeps"]], Source({**whole.tables, "interventions": one}))
    assert told.reason == "Neurons were held at one value alone (roles.sweep)."


@pytest.mark.parametrize("name", ["firing", "redundancy", "logit_moments", "logit_skew"])
def test_what_units_lack_is_why_a_figure_is_not_drawn(name):
    whole = source()
    statistics = whole.tables["statistics"]
    for place, column in enumerate(statistics.schema):
        if "weights" in needs(SCHEMAS["statistics"].field(column.name)):
            nothing = pa.nulls(len(statistics), column.type)
            statistics = statistics.set_column(place, column.name, nothing)
    reasons = pa.array([[("weights", "it has none")]] * len(statistics), NOT_MEASURED.type)
    for told, reason in (
        (statistics.append_column(NOT_MEASURED, reasons), "was not measured: it has none."),
        (statistics.append_column(NOT_MEASURED, pa.nulls(len(statistics), NOT_MEASURED.type)),
         "has no value."),
    ):  # fmt: skip
        (found,) = drawn([BY_NAME[name]], Source({**whole.tables, "statistics": told},
                                                 whole.summary))  # fmt: skip
        assert found.reason.endswith(reason) and not found.files


def test_one_draw_of_the_baseline_is_compared_with_none():
    whole = source()
    pairs = whole.tables["pairs"].to_pydict()
    pairs["baseline_draws"] = [each[:1] for each in pairs["baseline_draws"]]
    tables = {**whole.tables, "pairs": table("pairs", pairs)}
    (told,) = drawn([BY_NAME["baseline_draws"]], Source(tables, whole.summary))
    assert told.reason.startswith("One baseline was drawn")


def test_every_reference_model_has_figures_of_its_own():
    whole = source()
    neurons = whole.tables["neurons"]
    other = neurons.set_column(0, "model", pa.array(["b"] * NEURONS))
    both = Source({"neurons": pa.concat_tables([neurons, other])}, whole.summary)
    found = list(drawn([BY_NAME["spread"], BY_NAME["layers"]], both))
    assert [(each.name, each.reference) for each in found] == [
        ("spread", "a"), ("spread-2", "b"), ("layers", ""),
    ]  # fmt: skip
    assert ours("report/figures/spread-2.svg")


# The list, the documentation, the site


def test_every_figure_of_the_paper_is_drawn_or_has_a_reason():
    assert [told.number for told in PAPER] == list(range(1, 27))
    numbers = {number for figure in FIGURES for number in figure.paper}
    assert numbers <= {told.number for told in PAPER}
    assert all(told.number in numbers or told.lacking for told in PAPER)
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    assert {figure.chapter for figure in FIGURES} == set(CHAPTERS)
    for figure in FIGURES:
        assert set(figure.tables) <= {*PATHS, "summary"} and figure.tables


def test_the_documentation_is_made_from_the_list():
    told = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    assert told == docs.page()
    assert all(f"\n| {number} | " in told for number in range(1, 27))
    assert all(f"`{figure.name}`" in told for figure in FIGURES)


def test_the_site_has_the_figures_and_why_others_are_not_there(once, tmp_path):
    run = copied(whole_run(once)[1][-1], tmp_path / "run")
    names = ("depth", "sweeps", "persistence")
    chosen = [BY_NAME[name] for name in names]
    damage(run / "tables" / "interventions.parquet", "half")
    write(run, figures=chosen)
    told = {each["name"]: each for each in catalogue(run)["figures"]}
    assert set(told) == set(names)
    assert told["depth"]["paper"] == ["2c", "12c", "13c"]
    assert told["depth"]["tables"] == ["pairs.parquet"]
    assert told["sweeps"]["reason"].startswith("Its table tables/interventions.parquet ")
    assert "models.revisions" in told["persistence"]["reason"]
    files = {path.name for path in (run / "report" / "figures").iterdir()}
    assert files == {f"depth.{kind}" for kind in KINDS}
    write(run)
    assert not list((run / "report" / "figures").iterdir())
    assert catalogue(run)["figures"] == [] and HOSTILE
