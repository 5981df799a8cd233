"""The site of a run, as files: what they hold, and that they are whole or not there."""

import hashlib
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from helpers_site import HOSTILE, catalogue, column, neuron, read, write
from helpers_tiers import tiers
from helpers_whole import copied, damage, whole_run
from hypothesis import given
from hypothesis import strategies as st

import universal_ray
from universal_ray.benchmark.made_up import THRESHOLD, Extent, make
from universal_ray.cli.study import LOCAL
from universal_ray.cli.study import make as make_study
from universal_ray.config.report import Detail
from universal_ray.errors import StorageError
from universal_ray.report.run import PATHS
from universal_ray.report.screen import console
from universal_ray.report.site import details, pack
from universal_ray.report.site.columns import twins
from universal_ray.report.site.gather import NOTHING
from universal_ray.storage.names import ours
from universal_ray.storage.store import Store

EXTENT = Extent(width=12, texts=(*Extent().texts, *HOSTILE))
N = EXTENT.neurons


@pytest.fixture(scope="module")
def made(once):
    """A made-up run and its report."""

    def both(folder):
        make(str(folder), EXTENT)
        write(folder)

    return once("made-up", both)


@pytest.fixture
def run(made, tmp_path):
    """The same, to be changed."""
    return copied(made, tmp_path / "run")


def table(folder, name):
    return pq.read_table(folder / "tables" / f"{name}.parquet")


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "report").rglob("*")
        if path.is_file()
    }


def test_every_number_of_a_table_is_in_the_list(made):
    for name, model in (("neurons", "a"), ("statistics", "b"), ("roles", "c")):
        found = table(made, name).filter(pc.field("model") == model)
        block = next(each for each in catalogue(made)["blocks"] if each["model"] == model)
        listed = {each["name"]: each for each in catalogue(made)["columns"]}
        compared = 0
        for entry in found.schema:
            numeric = pa.types.is_integer(entry.type) or pa.types.is_floating(entry.type)
            if not numeric or listed.get(entry.name, {}).get("table") != name:
                continue
            expected = np.array(found[entry.name].to_pandas(), np.float64)
            values = column(made, entry.name)[block["start"] : block["start"] + N]
            np.testing.assert_array_equal(values, expected.astype(values.dtype), entry.name)
            compared += 1
        assert compared > 5


def test_what_was_not_measured_is_no_zero(made):
    excess = column(made, "excess_corr")
    assert np.isfinite(excess[:N]).all() and np.isnan(excess[N:]).all()
    codes = column(made, "family")
    null = np.array(table(made, "taxonomy")["family"].is_null())
    assert null.any() and ((codes == 0) == null).all()


def test_codes_and_roles_are_those_of_the_tables(made):
    about = {each["name"]: each for each in catalogue(made)["columns"]}
    found = table(made, "taxonomy")["feature"].to_pylist()
    labels = [None, *about["feature"]["labels"]]
    assert [labels[code] for code in column(made, "feature")] == found
    roles = about["roles"]["labels"]
    told = [[role for bit, role in enumerate(roles) if flags >> bit & 1]
            for flags in column(made, "roles")]  # fmt: skip
    expected = table(made, "roles")["roles"].to_pylist()
    assert told == [sorted(each, key=roles.index) for each in expected]
    assert any(told)


def test_neurons_that_share_all_partners_are_marked():
    partners = np.array([[NOTHING, 7, 9], [NOTHING, 7, 9], [NOTHING, 7, 8], [NOTHING, 7, 9],
                         [NOTHING, 5, NOTHING], [NOTHING, 5, NOTHING]])  # fmt: skip
    excess = np.array([0.1, 0.3, 0.9, np.nan, 0.2, 0.2])
    assert twins(partners, excess).tolist() == [1, 0, NOTHING, 1, NOTHING, NOTHING]


def test_mutual_partners_are_counted(made):
    pairs = table(made, "pairs").filter(pc.field("model") == "a").to_pandas()
    expected = pairs.groupby(["layer", "neuron"])["mutual"].sum().to_numpy()
    np.testing.assert_array_equal(column(made, "mutual_partners")[:N], expected)


def test_the_front_page_counts_what_the_table_has(made):
    (page,) = catalogue(made)["pages"]
    excess = np.array(table(made, "neurons")["excess_corr"])
    told = {each["threshold"]: each["count"] for each in page["counts"]}
    assert told == {each: int((excess > each).sum()) for each in (0.4, 0.45, THRESHOLD)}
    assert [sum(each) for each in page["histograms"]["excess"].values()][1:] == [N, N]
    assert [row["above"]["0.4"] for row in page["by_layer"]] == [
        int((row > 0.4).sum()) for row in excess.reshape(EXTENT.layers, EXTENT.width)
    ]
    assert page["strongest"][0] == int(excess.argmax())


def test_the_excess_of_a_rotated_model_is_one_draw_less_the_others(made):
    pairs = table(made, "pairs").filter(pc.field("model") == "a")
    draws = np.array(pairs["baseline_draws"].to_pylist()).reshape(2, N, -1)
    apart = (draws[:, :, 0] - draws[:, :, 1:].mean(2)).mean(0)
    told = catalogue(made)["pages"][0]["histograms"]["excess"]
    np.testing.assert_array_equal(told["chance"], np.histogram(apart, told["edges"])[0])


def shown_tokens(folder):
    """Places of neurons by the text of the tokens that their largest windows are shown for."""
    texts = table(folder, "vocabulary")["text"].to_pylist()
    found = {}
    for row in table(folder, "examples").to_pylist():
        if row["kind"] == "top":
            place = row["layer"] * EXTENT.width + row["neuron"]
            text = texts[row["token_ids"][row["focus"] - row["start"]]]
            found.setdefault(text, set()).add(place)
    return found


def test_tokens_lead_to_the_neurons_that_have_them(made):
    content, (starts,) = read(made / "report" / "data" / "tokens.js")
    entries = np.concatenate([
        read(made / "report" / "data" / f"tokens-{number}.js")[1][0]
        for number in range(len(content["files"]) - 1)
    ])
    statistics = table(made, "statistics").to_pylist()
    ways = (("token_mean_token", "token_max_token"), ("vocab_top_token",), ("vocab_bottom_token",))
    shown_for = shown_tokens(made)
    for number, text in enumerate(content["texts"]):
        expected = {
            place * 4 + way
            for place, row in enumerate(statistics)
            for way, names in enumerate(ways)
            if any(text in row[name] for name in names)
        }
        expected |= {place * 4 for place in shown_for.get(text, ())}
        assert set(entries[int(starts[number]) : int(starts[number + 1])].tolist()) == expected
    assert set(HOSTILE) <= set(content["texts"])


def test_a_neurons_page_has_its_rows_of_every_table(made):
    place = int(column(made, "excess_corr")[:N].argmax())
    layer, at = divmod(place, EXTENT.width)
    rows = neuron(made, place)
    assert rows is not None
    for name in ("neurons", "statistics", "taxonomy", "roles", "pairs", "features"):
        found = table(made, name).filter(
            (pc.field("model") == "a") & (pc.field("layer") == layer) & (pc.field("neuron") == at)
        )
        assert len(rows[name]) == found.num_rows > 0
        for told, row in zip(rows[name], found.to_pylist(), strict=True):
            for key, value in told.items():
                if isinstance(value, float):
                    assert value == pytest.approx(row[key], rel=1e-5)
                elif isinstance(value, list) and value and isinstance(value[0], float):
                    np.testing.assert_allclose(value, row[key][: len(value)], rtol=1e-3)
                elif isinstance(value, list):
                    assert value == row[key][: len(value)]
                else:
                    assert value == row[key]
    assert len(rows["statistics"][0]["histogram"]) == 257


def levels(folder):
    return read(folder / "report" / "data" / "levels.js")[1][0]


def test_what_stands_out_is_told_in_full_and_the_rest_while_it_fits(run):
    told = levels(run)
    pairs = table(run, "pairs").to_pandas()
    universal = set(np.flatnonzero(column(run, "is_universal") == 1))
    start = {each["model"]: each["start"] for each in catalogue(run)["blocks"]}
    place = pairs.model.map(start) + pairs.layer * EXTENT.width + pairs.neuron
    partner = pairs.other.map(start) + pairs.max_layer * EXTENT.width + pairs.max_neuron
    chosen = universal | set(partner[place.isin(universal)])
    chosen |= set(np.flatnonzero(column(run, "roles")))
    labels = next(e["labels"] for e in catalogue(run)["columns"] if e["name"] == "status")
    chosen |= set(np.flatnonzero(column(run, "status") == labels.index("member") + 1))
    assert set(np.flatnonzero(told == 2)) == chosen and (told >= 1).all()
    write(run, everything=True)
    assert (levels(run) == 2).all()


@pytest.mark.thorough
@pytest.mark.parametrize("aim", [0.95, 3.0])
def test_the_site_stays_within_its_megabytes(tmp_path, monkeypatch, aim):
    """However far off the estimate is."""
    monkeypatch.setattr(details, "_AIM", aim)
    folder = tmp_path / "run"
    make(str(folder), replace(EXTENT, width=24))
    megabytes = 0.36
    write(folder, megabytes=megabytes)
    size = sum(path.stat().st_size for path in folder.glob("report/**/*") if path.is_file())
    assert 0.7e6 * megabytes < size <= 1e6 * megabytes
    told, universal = levels(folder), column(folder, "is_universal") == 1
    assert (told[universal] == 2).all() and (told == 0).any()
    assert not any("report.megabytes" in each for each in catalogue(folder)["missing"])


def test_where_the_list_alone_is_larger_the_page_says_so(run):
    write(run, megabytes=0.05)
    assert not levels(run).any()
    (told,) = catalogue(run)["missing"]
    size = sum(path.stat().st_size for path in run.glob("report/**/*") if path.is_file()) / 1e6
    said = re.fullmatch(r"report\.megabytes is 0\.05, of which .* take ([\d.]+): raise it .*", told)
    assert said and 0.05 < size <= float(said[1]) + 0.05


@pytest.mark.parametrize(
    ("name", "kind"),
    tiers(
        [("neurons", "gone"), ("pairs", "bit"), ("statistics", "half"), ("features", "gone"),
         ("taxonomy", "empty"), ("roles", "gone"), ("interventions", "bit")],
        [("neurons", "gone"), ("statistics", "half")],
    ),
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_named_and_the_rest_is_drawn(run, name, kind):
    damage(run / "tables" / f"{name}.parquet", kind)
    shutil.rmtree(run / "report")
    write(run)
    told = catalogue(run)
    (sentence,) = told["missing"]
    assert sentence.count(f"{name}.parquet") == 1 and sentence.startswith(f"tables/{name}.parquet ")
    assert set(told["tables"]) == set(PATHS) - {name}
    assert len(told["blocks"]) == 3 and told["neurons"] == 3 * N


def test_without_a_summary_the_tables_are_drawn(run):
    damage(run / "tables" / "summary.json", "half")
    shutil.rmtree(run / "report")
    write(run)
    told = catalogue(run)
    assert told["pages"][0]["measured"] == N and len(told["missing"]) == 1


def test_a_table_of_another_version_is_named(run):
    store = Store(str(run))
    other = table(run, "taxonomy").drop_columns(["layer"])
    receipt = store.put_table("tables/taxonomy.parquet", other, 100)
    marker = store.get_json("tables/done.json")
    marker["files"] = [vars(receipt) if each["path"] == receipt.path else each
                       for each in marker["files"]]  # fmt: skip
    store.put_json("tables/done.json", marker)
    write(run)
    (sentence,) = catalogue(run)["missing"]
    assert "it has no column layer, so it is of another version" in sentence


def test_a_run_without_tables_says_so(run):
    shutil.rmtree(run / "tables")
    write(run)
    told = catalogue(run)
    assert told["neurons"] == 0 and told["pages"] == [] and len(told["missing"]) > 10


def test_the_same_tables_are_not_drawn_again(run):
    before = {path: path.stat().st_mtime_ns for path in run.glob("report/**/*")}
    write(run)
    assert {path: path.stat().st_mtime_ns for path in run.glob("report/**/*")} == before
    (run / "report" / "data" / "levels.js").unlink()
    write(run)
    assert (run / "report" / "data" / "levels.js").exists()
    make(str(run), Extent(models=EXTENT.models[:2], width=8, seed=1))
    write(run)
    told = hashes(run)
    assert catalogue(run)["neurons"] == 2 * 16
    listed = {each["path"] for each in Store(str(run)).get_json("report/done.json")["files"]}
    assert listed == told.keys() - {"report/done.json"}


def test_the_same_tables_make_the_same_bytes(made, tmp_path):
    make(str(tmp_path), EXTENT)
    write(tmp_path)
    assert hashes(tmp_path) == hashes(made)


@pytest.mark.parametrize("moves", tiers([0, 5], [5]))
def test_a_report_is_never_half_written(run, monkeypatch, moves):
    page = run / "report" / "index.html"
    make(str(run), Extent(width=8, seed=2))
    left, move = [moves], Store.move

    def dying(self, path, new):
        if not left[0]:
            raise StorageError("the disk is gone")
        left[0] -= 1
        move(self, path, new)

    monkeypatch.setattr(Store, "move", dying)
    with pytest.raises(StorageError):
        write(run)
    assert not page.exists()
    monkeypatch.setattr(Store, "move", move)
    write(run)
    assert page.exists() and not list((run / "report" / "unfinished").rglob("*.js"))


def test_what_cannot_be_drawn_leaves_the_report_before(run, monkeypatch):
    before = hashes(run)
    make(str(run), Extent(width=8, seed=2))
    monkeypatch.setattr(pack.gzip, "compress", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(run)
    assert hashes(run) == before


def test_every_file_of_a_report_bears_a_name_of_ours(made):
    assert all(ours(path) for path in hashes(made)) and len(hashes(made)) > 10


def test_text_of_the_corpus_is_in_no_page_nor_source(made):
    for path in (made / "report").rglob("*"):
        if path.suffix in (".js", ".html", ".css"):
            text = path.read_text(encoding="utf-8")
            assert not [each for each in HOSTILE if each in text and len(each) > 1], path


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers(1, 8))
def test_rounded_numbers_are_the_nearest_decimal(value, digits):
    found = float(pack.rounded(np.array([value]), digits)[0])
    assert found == pytest.approx(float(f"{value:.{digits}g}"), rel=1e-12, abs=0)
    if 1e-9 < abs(value) < 1e15:
        assert len(repr(found)) <= len(repr(float(f"{value:.{digits}g}")))


def test_numbers_that_are_none_are_null():
    told = pack.plain({"a": float("nan"), 3: [np.float32(0.1), np.int64(2), float("inf")]})
    assert told == {"a": None, "3": [0.1, 2, "inf"]}


def test_a_run_is_opened_by_its_address(run):
    assert write(run) == run / "report" / "index.html"
    assert universal_ray.open(run).tables


def test_a_run_ends_with_its_site(once, tmp_path):
    study, copies = whole_run(once)
    study.run.dir = str(copied(copies[-1], tmp_path / "run"))
    page = make_study(study, ["report"], console(), LOCAL)
    assert page == f"{tmp_path}/run/report/index.html"
    told = catalogue(tmp_path / "run")
    assert told["missing"] == [] and told["pages"][0]["measured"] == 64
    before = hashes(tmp_path / "run")
    assert make_study(study, ["report"], console(), LOCAL) == page
    assert hashes(tmp_path / "run") == before
    study.report.detail = Detail.all
    make_study(study, ["report"], console(), LOCAL)
    assert (levels(tmp_path / "run") == 2).all()
    assert make_study(study, ["roles"], console(), LOCAL) is None
