"""The site of a run that is made up: how large it is, how long it takes to make, and how fast a
browser shows its list, filters it and opens a neuron.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from universal_ray.benchmark.made_up import Extent, make
from universal_ray.report.run import Run
from universal_ray.report.site.write import write

SMALL = Extent(models=("a", "b"), layers=6, width=3072)
"""As many neurons as GPT-2 small has."""
LARGE = Extent(models=("a", "b", "c", "d", "e"), layers=24, width=4096, lists=64)
"""As many as five of GPT-2 medium; histograms are cut to 64 bins, so that the tables fit a disk."""
_VISITS = {
    "seconds_to_filter": "#/list?model=a&excess_corr=0.3..&kurt=0.5..&sort=-kurt",
    "seconds_to_sort": "#/list?sort=skew",
    "seconds_to_open_a_neuron": "#/neuron/a%3A1.17",
}
_GO = """async (address) => {
  const start = performance.now();
  const shown = new Promise((found) => new MutationObserver(() => {
    if (document.documentElement.dataset.shown === address) found();
  }).observe(document.documentElement, { attributes: true }));
  location.hash = address;
  await shown;
  return (performance.now() - start) / 1000;
}"""


def measured(extent: Extent) -> dict[str, Any]:
    """One row of the benchmark; None for what needs a browser where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        store = make(folder, extent)
        began = time.monotonic()
        page = Path(write(Run(store)))
        made = time.monotonic() - began
        sizes = [path.stat().st_size for path in page.parent.rglob("*") if path.is_file()]
        listed = [path.stat().st_size for path in page.parent.glob("data/index-*")]
        return {
            "neurons": extent.neurons * len(extent.models),
            "megabytes": sum(sizes) / 1e6,
            "megabytes_of_the_list": sum(listed) / 1e6,
            "seconds_to_make": made,
            **_in_a_browser(page),
        }


def _in_a_browser(page: Path) -> dict[str, float | None]:
    path = shutil.which("chromium")
    names = ("seconds_to_first_list", *_VISITS)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return dict.fromkeys(names)
    if path is None:
        return dict.fromkeys(names)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        visit = browser.new_page()
        visit.set_default_timeout(120_000)
        began = time.monotonic()
        visit.goto(f"file://{page}#/list")
        visit.wait_for_selector('html[data-shown="#/list"]', state="attached")
        found: dict[str, float | None] = {"seconds_to_first_list": time.monotonic() - began}
        for name, address in _VISITS.items():
            visit.evaluate(_GO, address)  # its columns are loaded
            visit.evaluate(_GO, "#/list")
            found[name] = visit.evaluate(_GO, address)
            visit.evaluate(_GO, "#/list")
        browser.close()
    return found
