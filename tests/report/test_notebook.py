"""The notebooks of `examples`, what one of them reads of a run, and the windows that it shows."""

import doctest
import json
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from helpers_whole import whole_run
from nbclient import NotebookClient

import universal_ray
from universal_ray.errors import ConfigurationError
from universal_ray.report.windows import Window

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = ("read_a_run", "correlate_arrays")
MOST_BYTES = 60_000
TELL = {"read_a_run": """import json
print(json.dumps({name: frame.reset_index().to_dict("list") for name, frame in {
    "ten": ten, "fires": fires, "partners": partners, "logits": logits, "together": together,
}.items()}))""", "correlate_arrays": """import json
x, y = (torch.cat(each).double() for each in zip(*batches("neurons"), strict=True))
r = torch.corrcoef(torch.cat([x, y], 1).T)[:1024, 1024:]
print(json.dumps({
    "ten": ten.to_dict("list"), "excess": excess.to_dict(),
    "best": r.amax(1).tolist(), "partner": r.argmax(1).tolist(),
}))"""}
"""What each is asked at its end."""


@pytest.fixture(scope="module")
def made(once):
    """The directory of a finished run."""
    return Path(whole_run(once)[0].run.dir)


def rows(directory: Path, name: str, **where: Any) -> list[dict[str, Any]]:
    found = pq.read_table(directory / "tables" / f"{name}.parquet")
    for column, value in where.items():
        found = found.filter(pc.field(column) == value)
    return found.to_pylist()


@pytest.fixture
def told(request, made, monkeypatch, tmp_path):
    """What a notebook tells at its end, once it has run."""
    monkeypatch.setenv("UNIVERSAL_RAY_RUN", str(made))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # keeps a history
    notebook = nbformat.read(EXAMPLES / f"{request.param}.ipynb", 4)
    notebook.cells.append(nbformat.v4.new_code_cell(TELL[request.param]))
    where = {"metadata": {"path": str(EXAMPLES)}}
    NotebookClient(notebook, timeout=120, startup_timeout=120, resources=where).execute()
    outputs = [each for cell in notebook.cells if cell.cell_type == "code"
               for each in cell.outputs]  # fmt: skip
    told = json.loads(outputs.pop().text)
    assert {each.output_type for each in outputs} == {"execute_result"}, outputs
    return told


@pytest.mark.thorough
@pytest.mark.parametrize("told", ["correlate_arrays"], indirect=True)
def test_the_notebook_of_matrices_shows_what_float64_has(told):
    ten = told["ten"]
    units = [int(name.partition(".")[2]) for name in ten["id"]]
    assert ten["max_neuron"] == [told["partner"][unit] for unit in units]
    assert ten["max_corr"] == pytest.approx([told["best"][unit] for unit in units], abs=1e-6)
    neurons, residual = (told["excess"][name] for name in ("neurons", "residual stream"))
    assert residual["share above 0.2"] < 0.05 < 0.2 < neurons["share above 0.2"]


@pytest.mark.thorough
@pytest.mark.parametrize("told", ["read_a_run"], indirect=True)
def test_the_notebook_shows_what_the_tables_have(made, told):
    neurons = [each for each in rows(made, "neurons") if each["excess_corr"] is not None]
    neurons.sort(key=lambda each: -each["excess_corr"])
    ids = [each["id"] for each in neurons[:10]]
    assert told["ten"]["id"] == told["fires"]["index"] == told["partners"]["id"] == ids
    assert told["ten"]["excess_corr"] == [each["excess_corr"] for each in neurons[:10]]
    texts = {each["token_id"]: each["text"] for each in rows(made, "vocabulary")}
    for at, name in enumerate(ids):
        (words,) = rows(made, "descriptions", id=name)
        assert told["ten"]["score"][at] == pytest.approx(words["score"], nan_ok=True)
        top = next(each for each in rows(made, "examples", id=name) if each["kind"] == "top")
        focus = texts[top["token_ids"][top["focus"] - top["start"]]].replace("␣", " ")
        assert f"«{focus}»" in told["fires"]["text"][at]
        (pair,) = rows(made, "pairs", id=name)
        partner = f"{pair['max_layer']}.{pair['max_neuron']} ({pair['max_corr']:.2f})"
        assert told["partners"][pair["other"]][at] == partner
        (weights,) = rows(made, "statistics", id=name)
        for way, column in (("promotes", "vocab_top_token"), ("suppresses", "vocab_bottom_token")):
            assert told["logits"][way][at] == " ".join(weights[column][:6])
    first = next(each for each in rows(made, "examples", id=ids[0]) if each["kind"] == "top")
    shown = np.array(first["quantised"]) * first["scale"]
    np.testing.assert_array_equal(told["together"][ids[0]], shown)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_is_kept_with_what_it_shows_and_light(name):
    path = EXAMPLES / f"{name}.ipynb"
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert [each.output_type for each in cell.outputs] == ["execute_result"]
    if name == "read_a_run":
        assert "('correlations', 'profile', 'roles', 'report')" in str(code[0].outputs)
    assert path.stat().st_size < MOST_BYTES


def test_windows_are_those_of_the_table(made):
    run = universal_ray.open(made)
    table = [each for name in ("a:0.3", "a:1.5") for each in rows(made, "examples", id=name)]
    found = run.windows("a:1.5", "a:0.3")
    texts = {each["token_id"]: each["text"] for each in rows(made, "vocabulary")}
    assert len(found) == len(table) > 4
    read = set()
    for window, row in zip(found, table, strict=True):
        for name in ("kind", "rank", "row", "start"):
            assert getattr(window, name) == row[name]
        assert window.neuron == row["id"]
        assert window.tokens == tuple(texts[each] for each in row["token_ids"])
        assert window.activations[window.focus] == pytest.approx(
            row["activation"], abs=row["scale"] / 2
        )
        (partner,) = row["partners"]
        frame, values = window.to_pandas(), window.partners[partner]
        read.add(values is not None)
        if values is None:
            assert row["partner_quantised"] is None and frame[partner].isna().all()
        else:
            expected = np.array(row["partner_quantised"][0]) * row["partner_scales"][0]
            np.testing.assert_array_equal(values, expected)
            np.testing.assert_array_equal(frame[partner], values)
    assert read == {True, False}
    top = run.windows("a:0.3", "a:1.5", kind="top")
    assert [str(each) for each in top] == [str(each) for each in found if each.kind == "top"]


def test_rows_of_some_neurons_are_those_of_the_whole_table(made):
    run = universal_ray.open(made)
    found = run.table("features", ["rank", "feature"], neurons=["b:1.5", "a:0.3"])
    assert found.column_names == ["rank", "feature"]
    expected = [*rows(made, "features", id="a:0.3"), *rows(made, "features", id="b:1.5")]
    assert found.to_pylist() == [{name: each[name] for name in found.column_names}
                                 for each in expected]  # fmt: skip
    assert run.table("statistics", neurons=[]).num_rows == 0


def test_a_neuron_that_is_none_or_is_not_told_of_is_refused(made):
    run = universal_ray.open(made)
    with pytest.raises(ConfigurationError, match=r"^a:7\.1 is no neuron of .*: they are named as "):
        run.table("features", neurons=["a:0.1", "a:7.1"])
    with pytest.raises(ConfigurationError, match=r"the table bank of .* is not of neurons"):
        run.table("bank", neurons=["a:0.1"])
    with pytest.raises(ConfigurationError, match=r"b:0\.1 has no window in .*no reference"):
        run.windows("a:0.1", "b:0.1")
    with pytest.raises(ConfigurationError, match=r"did you mean top \(of top, bottom, "):
        run.windows("a:0.1", kind="tops")


def test_the_examples_of_windows_do_what_they_say(made, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/tiny").symlink_to(made)
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for each in (universal_ray.Run.windows, Window):
        (example,) = doctest.DocTestFinder(recurse=False).find(each, "windows", globs={})
        assert example.examples and runner.run(example).failed == 0

