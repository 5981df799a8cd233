"""The site in a real browser, from a folder, without a network."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pytest
from helpers_site import HOSTILE, catalogue, column, write

from universal_ray.benchmark import made_up
from universal_ray.benchmark.made_up import Extent, make
from universal_ray.report.figures.registry import FIGURES
from universal_ray.storage.reasons import needs

pytestmark = pytest.mark.browser
EXTENT = Extent(texts=(*Extent().texts, *HOSTILE))
N = EXTENT.neurons
PAGES = ("#/", "#/list", "#/list?q=self&sort=kurt&kurt=0..", "#/neuron/a:0.1", "#/neuron/b:1.2",
         "#/compare?with=a:0.1,a:1.2", "#/figures")  # fmt: skip
SOME = [each for each in FIGURES if each.name in ("depth", "persistence")]
"""A figure that can be drawn, and one that cannot."""
MODES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"}, "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 400, "height": 800}},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(once):
    def both(folder):
        make(str(folder), EXTENT)
        write(folder, figures=SOME)

    return once("made-up-for-a-browser", both)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if "CI" in os.environ:
            pytest.fail("there is no chromium: .ci/run installs it")
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


class Visit:
    """A page of the report, and all that it asked for or complained of."""

    def __init__(self, browser: Any, folder: Path, **options: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **options)
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        self.root = f"file://{folder}/report/"
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(unquote(request.url)))
        self.page.on("console", lambda told: self.complaints.append(told.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, address: str) -> Any:
        self.page.goto("about:blank")
        self.page.goto(f"{self.root}index.html{address}")
        return self.shown(address)

    def shown(self, address: str) -> Any:
        """Once the page of an address is drawn."""
        self.page.wait_for_selector(f'html[data-shown="{address}"]', state="attached")
        return self.page

    def text(self, selector: str) -> str:
        return " ".join(self.page.inner_text(selector).split())

    def ids(self) -> list[str]:
        """Neurons of the list, as they stand on its page."""
        return self.page.locator("table.neurons tbody th a:first-child").all_inner_texts()


@pytest.fixture
def visit(browser, made) -> Iterator[Visit]:
    found = Visit(browser, made)
    yield found
    found.context.close()
    assert found.complaints == []
    assert [each for each in found.asked if each != "about:blank"
            and not each.startswith((found.root, "data:", "blob:"))] == []  # fmt: skip


def id_of(place: int) -> str:
    model, within = divmod(int(place), N)
    return "{}:{}.{}".format(EXTENT.models[model], *divmod(within, EXTENT.width))


def test_it_opens_from_a_folder_and_asks_nothing_else(visit):
    for address in PAGES:
        page = visit.open(address)
        assert page.locator("h1").count() == 1 and not page.locator("p.wait").count()


def test_the_front_page_says_how_many_are_universal(visit, made):
    visit.open("#/")
    excess = column(made, "excess_corr")[:N]
    many = int((excess > 0.5).sum())
    assert visit.text("h1") == f"{many} of {N} neurons are universal"
    told = visit.page.locator(".cliff .many").all_inner_texts()
    assert told == [str(int((excess > each).sum())) for each in (0.5, 0.45, 0.4)]


def test_units_that_are_no_neurons_are_called_what_they_are(browser, tmp_path, monkeypatch):
    told, values = made_up.summary, made_up._values
    units = {"site": "residual", "unit_kind": "dimension", "chance": "shifted"}
    monkeypatch.setattr(made_up, "summary", lambda *given: told(*given) | units)
    monkeypatch.setattr(made_up, "_values", lambda entry, rows, *given: pa.nulls(rows, entry.type)
                        if "weights" in needs(entry) else values(entry, rows, *given))  # fmt: skip
    make(str(tmp_path), Extent(models=("a", "b"), layers=1, width=8))
    write(tmp_path, everything=True)
    visit = Visit(browser, tmp_path)
    visit.open("#/")
    assert visit.text("h1").endswith("of 8 dimensions are universal")
    said = "What tables call a neuron is a dimension here, the unit of the site residual."
    assert said in visit.text("p.lead")
    assert "than its best match would beside other text" in visit.text("p.lead")
    for address in ("#/", "#/list", "#/neuron/a:0.1"):
        visit.open(address)
        assert "shifted" in visit.text("main") and "rotat" not in visit.text("main")
        told = visit.page.locator("nav, h1, h2, h3, th, caption, figcaption, figure text")
        assert not re.search(r"neurons?\b(?!\.parquet)", " ".join(told.all_text_contents()), re.I)
    visit.open("#/list")
    assert visit.text(".summary").startswith("16 of 16 dimensions")
    visit.open("#/neuron/a:0.1")
    assert visit.text("p.signs").startswith("dimension ")
    heads = visit.page.locator("h2").all_inner_texts()
    assert "What it fires on" in heads and "Value" in visit.page.locator("h3").all_inner_texts()
    assert "Promotes" not in visit.text("main")
    visit.context.close()
    assert visit.complaints == []


def test_every_link_of_every_page_leads_somewhere(visit, made):
    seen, left = set(), ["#/"]
    while left and len(seen) < 60:
        address = left.pop(0)
        page = visit.open(address)
        seen.add(address)
        assert visit.text("h1") not in ("", "This cannot be shown", "No such neuron")
        found = page.eval_on_selector_all("a[href]", "all => all.map(a => a.getAttribute('href'))")
        assert all((made / "report" / each).is_file() for each in found if each[0] != "#")
        here = [each for each in dict.fromkeys(found) if each[0] == "#"]
        left += [each for each in here if each not in seen | {"#main", *left}]


def test_the_gallery_has_pictures_with_their_captions_and_files_and_says_what_is_not_drawn(
    visit, made
):
    page = visit.open("#/list")
    page.keyboard.press("f")
    page = visit.shown("#/figures")
    told = {each["name"]: each for each in catalogue(made)["figures"]}
    (picture,) = page.locator("figure img").all()
    picture.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('figure img').naturalWidth > 0")
    assert picture.get_attribute("alt") == told["depth"]["caption"]
    assert told["depth"]["caption"] in visit.text("figure figcaption")
    assert [each.get_attribute("href") for each in page.locator("figure .links a").all()] == [
        f"figures/depth.{kind}" for kind in ("svg", "pdf", "csv")
    ]
    assert told["persistence"]["reason"] in visit.text("main")
    assert "Figures 2c; 12c; 13c" in visit.text("figure h3")


def test_hostile_tokens_are_shown_and_never_run(visit, made):
    texts = set()
    for address in ("#/list?q=hurt", "#/list?q=evil", "#/list?q=cmd", "#/neuron/a:0.3"):
        page = visit.open(address)
        assert page.evaluate("window.hurt") is None and not page.locator("main img").count()
        texts |= set(page.locator(".token").all_text_contents())
    for shown in ("</script><script>window.hurt·=·1</script>", "U+202Eevil",
                  "<img·src=x·onerror='window.hurt·=·2'>", "=cmd|'·/C·calc'!A0"):  # fmt: skip
        assert shown in texts
    page = visit.open("#/list?q=%3Cimg%20src=x%20onerror=window.hurt=4%3E&model=%3Cb%3E")
    page = visit.open("#/neuron/%3Cimg%20src=x%20onerror=window.hurt=5%3E")
    assert visit.text("h1") == "No such neuron" and page.evaluate("window.hurt") is None


def test_the_list_is_in_the_order_of_any_number(visit, made):
    for name, down in (("kurt", True), ("kurt", False), ("null_share", True)):
        visit.open(f"#/list?sort={'-' if down else ''}{name}")
        values = column(made, name).astype(float)
        places = np.argsort(-values if down else values, kind="stable")[:50]
        assert visit.ids() == [id_of(place) for place in places]


def test_filters_leave_what_passes(visit, made):
    page = visit.open("#/list")
    page.select_option("#filter-model", "a")
    visit.shown("#/list?model=a")
    page.select_option("#filter-layer", "1")
    visit.shown("#/list?model=a&layer=1")
    page.select_option("#filter-add", "kurt")
    visit.shown("#/list?model=a&layer=1&kurt=..")
    page.get_by_label("kurtosis, at least").fill("0.5")
    page.keyboard.press("Enter")
    page = visit.shown("#/list?model=a&layer=1&kurt=0.5..")
    kurt = column(made, "kurt")
    here = np.arange(N // 2, N)
    expected = here[kurt[here] >= 0.5]
    assert visit.text(".summary").startswith(f"{len(expected)} of {3 * N} neurons")
    assert set(visit.ids()) <= {id_of(place) for place in expected}
    unmeasured = int(np.isnan(kurt[here]).sum())
    assert f"{unmeasured} left out: what is filtered by was not measured" in visit.text(".summary")
    labels = next(e["labels"] for e in catalogue(made)["columns"] if e["name"] == "family")
    page = visit.open("#/list?family=syntax")
    many = int((column(made, "family") == labels.index("syntax") + 1).sum())
    assert visit.text(".summary").startswith(f"{many} of")


def test_what_is_not_measured_is_told_apart_from_zero(visit):
    page = visit.open("#/list?model=b")
    cell = page.locator("table.neurons tbody tr").first.locator("td.bar")
    assert cell.inner_text().split()[1:] == ["not", "measured"]
    assert cell.locator("[title]").get_attribute("title") == (
        "not measured: its model is no reference"
    )


def test_a_search_finds_tokens_and_neurons(visit, made):
    page = visit.open("#/")
    for text, name in (("1.5", "a:1.5"), ("L1/N6", "a:1.6"), ("c:0.7", "c:0.7")):
        page.fill("#query", text)
        page.press("#query", "Enter")
        visit.shown(f"#/neuron/{name.replace(':', '%3A')}")
        assert visit.text("h1").startswith(name)
    page.fill("#query", "self")
    page.press("#query", "Enter")
    visit.shown("#/list?q=self&sort=-excess_corr")
    assert "2 tokens" in visit.text(".summary")
    page = visit.open("#/list?q=nothing+like+this")
    assert "no such token" in visit.text(".summary") and "No neuron passes" in visit.text("main")


def test_keys_do_what_the_help_says(visit):
    page = visit.open("#/list?model=a")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.textContent") == visit.ids()[1]
    page.keyboard.press("p")
    assert page.locator("#pins").inner_text() == "1"
    page.keyboard.press("Enter")
    page.wait_for_selector("article.neuron")
    second = visit.text("h1")
    page.keyboard.press("j")
    page.locator(".position", has_text="3 of").wait_for()
    page.keyboard.press("p")
    assert page.locator("#pins").inner_text() == "2"
    page.keyboard.press("k")
    page.locator(".position", has_text="2 of").wait_for()
    assert visit.text("h1") == second
    page.keyboard.press("c")
    page.wait_for_selector("article.compare")
    assert page.locator(".side").count() == 2
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.press("Tab")
    page.keyboard.press("?")
    assert page.locator("dialog[open] dt").all_inner_texts()[0] == "/"
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.keyboard.press("o")
    page.wait_for_selector("article.front")
    page.keyboard.press("r")
    page.wait_for_selector("article.neuron")
    page.keyboard.press("l")
    page.wait_for_selector("article.list")


def test_single_keys_can_be_turned_off(visit):
    page = visit.open("#/")
    page.click("#keys")
    page.get_by_label("single keys do something").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("l")
    page.wait_for_timeout(300)
    assert page.evaluate("location.hash") == "#/"


def test_the_list_is_saved_as_it_is_shown(visit, made):
    page = visit.open("#/list?model=a&excess_corr=0.3..&sort=-excess_corr")
    with page.expect_download() as download:
        page.get_by_role("button", name="as CSV").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    excess = column(made, "excess_corr")[:N]
    assert len(lines) == 1 + (excess >= np.float32(0.3)).sum()
    head, first = lines[0].split(","), lines[1].split(",")
    told = dict(zip(head, first, strict=False))
    assert float(told["excess_corr"]) == pytest.approx(excess.max(), rel=1e-6)
    assert not [cell for line in lines[1:] for cell in line.split(",") if cell.startswith('"=')]


def test_a_page_is_drawn_again_from_its_address(visit):
    for address in ("#/list?model=a&kurt=..0.7&sort=skew&page=2", "#/neuron/a%3A0.4"):
        first = visit.open(address).inner_text("main")
        assert visit.open(address).inner_text("main") == first
        assert len(first) > 200


@pytest.mark.parametrize("mode", MODES)
def test_nothing_keeps_anyone_out(browser, made, mode):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = Visit(browser, made, bypass_csp=True, **MODES[mode])
    for address in PAGES:
        page = found.open(address)
        for details in page.locator("details > summary:visible").all()[:4]:
            details.click()
        told = axe.run(page)
        assert told.violations_count == 0, f"{address}\n{told.generate_report()}"
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= page.viewport_size["width"]
    found.context.close()
