"""How the page feels, in Chromium over the demo's texts: its first load, typing, and 1000 hits scrolled."""

import sys

import numpy as np
from playwright.sync_api import Page

from benchmarks.browser import chromium, find_chromium
from benchmarks.serving import serving, temporary_folder
from server.docstrings import collect_docstrings

N_LOADS = 15
QUESTIONS = ("read a zip archive", "count how often each word occurs", "compare two texts line by line")
STEP_PIXELS = 400  # of each frame: a fast wheel

SCROLL = """async step => {
  const frames = [];
  let last = await new Promise(requestAnimationFrame);
  while (scrollY + innerHeight < document.documentElement.scrollHeight - 1) {
    scrollBy(0, step);
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - last);
    last = now;
  }
  return frames;
}"""

LOADED = """() => {
  const all = ["navigation", "resource"].flatMap(type => performance.getEntriesByType(type));
  return [performance.now(), all.reduce((sum, entry) => sum + entry.transferSize, 0), all.length];
}"""


def main(arguments: list[str]) -> None:
    """Print the figures."""
    path = find_chromium()
    if path is None:
        sys.exit("no Chromium was found; Debian: apt-get install chromium")
    with temporary_folder() as data_dir, serving(data_dir) as server, chromium(path) as browser:
        server.add(collect_docstrings()[:1500])
        url = str(server.http.base_url)
        loads = []
        for _ in range(N_LOADS):
            page = browser.new_page()  # with a cache of its own: empty
            page.goto(url, wait_until="commit")
            page.locator("#search-empty p").wait_for()
            loads.append(page.evaluate(LOADED))
            page.close()
        usable_ms, transferred, n_requests = np.median(np.array(loads), axis=0)
        print(f"\nfirst load, medians of {N_LOADS}: usable after {usable_ms:.0f} ms; {transferred / 1000:.0f} kB, "
              f"{n_requests:.0f} requests")  # fmt: skip
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.goto(url)
        print(
            f"from a letter to its hits: {np.median(typed_ms(page)):.0f} ms, 110 of them waiting for the next letter"
        )
        page.get_by_role("button", name="How").click()
        page.get_by_label("Hits").select_option("1000")
        page.locator(".hit").nth(999).wait_for(state="attached")
        frames = np.array(page.evaluate(SCROLL, STEP_PIXELS))
        slow, slowest = np.percentile(frames, 99), frames.max()
        print(f"1000 hits scrolled, {STEP_PIXELS} pixels a frame, {len(frames)} frames: "
              f"median {np.median(frames):.1f} ms, 99 % within {slow:.1f}, all within {slowest:.1f}")  # fmt: skip


def typed_ms(page: Page) -> list[float]:
    """Milliseconds from each letter to the hits that it brings, as the page sees them."""
    page.evaluate("""() => {
      window.took = [];
      let typed = 0;
      document.querySelector("#query").addEventListener("input", () => { typed = performance.now(); });
      new MutationObserver(() => { if (typed) { window.took.push(performance.now() - typed); typed = 0; } })
        .observe(document.querySelector("#hits"), { childList: true });
    }""")
    for question in QUESTIONS:
        page.locator("#query").fill("")
        page.locator("#query").press_sequentially(question, delay=250)
    took: list[float] = page.evaluate("window.took")
    return took
