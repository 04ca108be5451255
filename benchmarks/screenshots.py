"""Pictures of the page over the demo's texts: phone and desktop, light and dark, and the README's own.

`python -m benchmarks screenshots` writes docs/page.png; with --all FOLDER it writes every view there as well.
"""

import argparse
import time
from pathlib import Path

from playwright.sync_api import Browser, Page

from benchmarks.browser import chromium, find_chromium
from benchmarks.serving import Server, serving, temporary_folder
from server.docstrings import collect_docstrings

README_PICTURE = Path(__file__).parent.parent / "docs" / "page.png"
QUESTION = "wait until several threads have all reached the same point"
WIDTHS = {"desktop": (1100, 780), "phone": (390, 844)}
SCHEMES = ("light", "dark")


def main(arguments: list[str]) -> None:
    """Store the demo's texts, measure, and take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks screenshots", description=__doc__)
    parser.add_argument(
        "--all", type=Path, metavar="FOLDER", help="write every view, at both widths, in both schemes"
    )
    parser.add_argument("--modules", nargs="*", help="only docstrings of these modules: faster")
    options = parser.parse_args(arguments)
    path = find_chromium()
    if path is None:
        parser.error("no Chromium was found; Debian: apt-get install chromium")
    documents = collect_docstrings()
    if options.modules:
        documents = [each for each in documents if each["metadata"]["module"] in options.modules]
    with (
        temporary_folder() as data_dir,
        serving(data_dir, index__gauge_share=1) as server,
        chromium(path) as browser,
    ):
        server.add(documents)
        take_readme(browser, server)
        print(f"{README_PICTURE}: {README_PICTURE.stat().st_size:,} bytes", flush=True)
        if options.all:
            measure(server)
            options.all.mkdir(parents=True, exist_ok=True)
            for width, size in WIDTHS.items():
                for scheme in SCHEMES:
                    take_all(browser, server, size, scheme, options.all / f"{width}-{scheme}")


def measure(server: Server) -> None:
    """Have the server measure its recall, for the plot in the collection's view."""
    identifier = server.http.post("/evaluate", json={}).json()["job"]["id"]
    while server.http.get(f"/jobs/{identifier}").json()["status"] == "running":
        time.sleep(0.5)


def opened(browser: Browser, server: Server, size: tuple[int, int], scheme: str) -> Page:
    """A page of its own, with the question asked and answered."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(str(server.http.base_url))
    page.locator("#query").fill(QUESTION)
    page.locator(".hit").first.wait_for()
    return page


def take_readme(browser: Browser, server: Server) -> None:
    """The search with its first result explained."""
    page = opened(browser, server, (820, 860), "light")
    page.locator(".title").first.click()
    page.locator(".title").first.blur()
    page.screenshot(path=README_PICTURE)
    page.close()


def take_all(browser: Browser, server: Server, size: tuple[int, int], scheme: str, name: Path) -> None:
    """Every view, whole."""
    page = opened(browser, server, size, scheme)
    page.screenshot(path=f"{name}-search.png")
    page.locator(".title").first.click()
    page.get_by_role("button", name="How").click()
    page.get_by_role("button", name="Filter", exact=True).click()
    page.screenshot(path=f"{name}-why.png", full_page=False)
    page.locator(".why").first.scroll_into_view_if_needed()
    page.screenshot(path=f"{name}-why-drawings.png")
    page.get_by_role("link", name="Add", exact=True).click()
    page.get_by_label("Text", exact=True).fill("The spare key to the garden shed is under the flower pot.")
    page.get_by_role("button", name="Add this text").click()
    page.get_by_text("Done:").first.wait_for()
    page.screenshot(path=f"{name}-add.png", full_page=True)
    page.get_by_role("link", name="Collection").click()
    page.locator("#curve svg").wait_for()
    page.screenshot(path=f"{name}-collection.png", full_page=True)
    page.close()
