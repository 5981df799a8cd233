"""The two pictures of the README: `python -m universal_ray.report.site.pictures RUN FOLDER`.

They are of the site of a run as a browser shows it, in light colours.
"""

import shutil
import sys
from pathlib import Path

from universal_ray.errors import MissingError
from universal_ray.report.run import Run, open
from universal_ray.report.site.write import write

WIDTH, HEIGHT = 1180, 1060
PICTURES = {"overview.png": "#/", "neuron.png": None}
"""What each shows; None is the strongest neuron of the first reference model."""


def take(run: Run, folder: Path) -> list[Path]:
    """Write the pictures into a folder. Raises MissingError where there is no browser."""
    path = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        raise MissingError(
            "pictures of the site are taken by Debian's chromium through the package playwright: "
            "install both"
        )
    page = write(run)
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        visit = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", device_scale_factor=2
        )
        for name, address in PICTURES.items():
            visit.goto("about:blank")
            visit.goto(f"file://{page}{address or '#/list?sort=-excess_corr'}")
            visit.wait_for_selector("html[data-shown]", state="attached")
            if address is None:
                visit.locator("table.neurons tbody th a").first.click()
                visit.wait_for_selector("article.neuron")
            visit.wait_for_selector(".canvas svg")
            visit.screenshot(path=str(folder / name))
        browser.close()
    return [folder / name for name in PICTURES]


if __name__ == "__main__":
    for picture in take(open(sys.argv[1]), Path(sys.argv[2])):
        print(picture)
