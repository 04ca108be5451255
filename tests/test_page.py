"""The page at /, in a real browser against the real server with the bundled model."""

import json
import os
import re
from collections import Counter
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import clustered, kept_port, serving, until
from playwright.sync_api import expect

from benchmarks.browser import chromium, find_chromium
from server.catalog import Catalog
from server.docstrings import collect_docstrings

FIRST_LOAD_BYTES = 150_000
PATIENCE_MS = 60_000  # for what the server encodes meanwhile, on a loaded machine

HARMFUL = (
    "<img src=x onerror=\"document.title='harmed'\"><script>document.title='harmed'</script> harmful markup"
)


@pytest.fixture(scope="module")
def browser():
    path = find_chromium()
    if path is None:
        why = "no Chromium is installed (Debian: apt-get install chromium)"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(why)
        pytest.skip(why)
    with chromium(path) as running:
        yield running


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory):
    """The server with some docstrings of Python's standard library; not started where there is no browser."""
    with serving(tmp_path_factory.mktemp("page"), index__gauge_share=1) as server:
        documents = collect_docstrings(MODULES)
        documents += [
            {"id": "harmful", "text": HARMFUL, "metadata": {"year": 2021, "draft": True}},
            {"id": "notes/otter.md", "text": "Sea otters hold hands while they sleep.",
             "metadata": {"title": "On otters", "year": 2024, "written": "2024-05-01"}},
        ]  # fmt: skip
        server.http.post("/documents", json={"documents": documents}).raise_for_status()
        server.n_documents = len(documents)
        server.n_of = Counter(each["metadata"].get("module") for each in documents)
        yield server
        server.stop()


MODULES = {
    "zipfile",
    "tarfile",
    "threading",
    "collections",
    "tempfile",
    "difflib",
    "functools",
    "csv",
    "json",
}


@pytest.fixture
def open_page(browser):
    """`open_page(url)`: a page of its own. At the end: no error on its console, no request to another host."""
    contexts = []

    def opened(url, **options):
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: page.said.append(f"error: {error}"))
        context.on("request", lambda request: page.asked.append(request.url))
        contexts.append((context, page, urlsplit(url).netloc))
        page.goto(url)
        return page

    yield opened
    for context, page, host in contexts:
        context.close()
        assert {urlsplit(url).netloc for url in page.asked if not url.startswith(("blob:", "data:"))} == {
            host
        }
        unexpected = [
            said for said in page.said if said.startswith("error") and "Failed to load resource" not in said
        ]
        assert unexpected == [], "an answer that is no success is named by the browser itself; nothing else"


@pytest.fixture
def page(site, open_page):
    return open_page(site.url)


def hits(page):
    return page.locator("#hits .hit")


def search(page, words):
    page.locator("#query").fill(words)
    expect(page.locator("#count")).to_contain_text("hit")
    return hits(page)


def drop(page, files):
    """Drop files on the page, as a person does: {path: content}."""
    transfer = page.evaluate_handle(
        """files => {
          const transfer = new DataTransfer();
          for (const [path, content] of files) transfer.items.add(new File([Uint8Array.from(content)], path));
          return transfer;
        }""",
        [(path, list(content)) for path, content in files.items()],
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#drop-here")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(page.locator("#drop-here")).to_be_hidden()


def check_axe(page):
    found = Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found
            if each["impact"] in ("serious", "critical")] == []  # fmt: skip


pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)


def test_hits_come_as_one_types_with_the_words_marked(page, site):
    page.locator("#query").press_sequentially("waiting for several threads")
    first = hits(page).first
    expect(first.locator(".title")).to_have_text(re.compile(r"^threading\."))
    words = {word.lower() for word in page.locator("#hits mark").all_text_contents()}
    assert {"threads", "wait"} <= words <= {
        "wait", "waits", "waited", "waiting", "several", "thread", "threads", "threading"
    }  # fmt: skip
    expect(page.locator("#count")).to_contain_text(f"20 hits of {site.n_documents} documents")
    expect(page.locator(".legend")).to_contain_text("second pass")
    assert page.locator(".bar .stage.encode").bounding_box()["width"] > 2
    assert page.url.endswith("#search?q=waiting+for+several+threads")


def test_an_overtaken_search_is_cancelled_and_never_shown(page):

    def hold(route):
        if '"query":"otters"' not in route.request.post_data:
            route.continue_()  # the other is never answered: only cancelling ends it

    page.route("**/search", hold)
    failed = []
    page.on("requestfailed", lambda request: failed.append((request.post_data, request.failure)))
    with page.expect_request("**/search"):
        page.locator("#query").fill("otters")
    search(page, "read a zip archive")
    expect(hits(page).first.locator(".title")).to_contain_text("zipfile")
    assert [(json.loads(body)["query"], why) for body, why in failed] == [("otters", "net::ERR_ABORTED")]


def test_the_address_brings_the_question_back(site, open_page):
    page = open_page(f"{site.url}/#search?q=sea+otters")
    expect(hits(page).first.locator(".title")).to_have_text("On otters")
    expect(page.locator("#query")).to_have_value("sea otters")


def test_markup_in_a_document_stays_text(page):
    search(page, "harmful markup")
    expect(hits(page).first.locator(".passage")).to_contain_text("<img src=x onerror=")
    assert page.title() == "twopass"
    assert page.locator("#hits img, #hits script").count() == 0


def test_filters_are_built_from_the_fields_that_there_are(page, site):
    search(page, "read")
    page.get_by_role("button", name="Filter", exact=True).click()
    form = page.locator("#filter-form")
    fields = form.get_by_label("Field").locator("option").all_text_contents()
    assert fields[:2] == ["kind", "module"] and {"year", "draft", "title", "written"} <= set(fields)
    form.get_by_label("Field").select_option("module")
    form.get_by_label("Value").fill("csv")
    form.get_by_role("button", name="Add").click()
    expect(page.locator("#conditions")).to_have_text("module is csv ×")
    expect(hits(page)).to_have_count(site.n_of["csv"])
    assert all(title.startswith("csv") for title in page.locator(".title").all_text_contents())
    page.get_by_role("button", name="Remove the filter module is csv").click()
    expect(hits(page)).to_have_count(20)


def test_a_filter_knows_numbers_dates_and_what_is_there(page):
    search(page, "anything at all")
    for path, operator, value, left in (
        ("year", "$gte", "2022", ["On otters"]),
        ("written", "$lte", "2024-12-31", ["On otters"]),
        ("draft", "$eq", "true", ["harmful"]),
        ("title", "exists", None, ["On otters"]),
    ):
        page.get_by_role("button", name="Filter", exact=True).click()
        form = page.locator("#filter-form")
        form.get_by_label("Field").select_option(path)
        form.get_by_label("Condition").select_option(operator)
        if path == "draft":
            form.get_by_label("Value").select_option(value)
        elif value:
            form.get_by_label("Value").fill(value)
        form.get_by_role("button", name="Add").click()
        expect(page.locator(".title")).to_have_text(left)
        page.locator(".condition").click()
        expect(hits(page)).to_have_count(20)


def test_metadata_of_a_hit_narrow_the_search(page):
    search(page, "sea otters")
    hits(page).first.get_by_role("button", name="year 2024").click()
    expect(page.locator(".title")).to_have_text(["On otters"])


def test_why_tells_what_the_server_explains(page, site):
    search(page, "read a zip archive")
    wanted = {"query": "read a zip archive", "k": 20, "include": ["explain"]}
    by_both = site.http.post("/search", json=wanted).json()["hits"][0]
    hits(page).first.locator(".title").click()
    expect(hits(page).first.locator(".why")).to_contain_text(
        re.compile(rf"{by_both['explain']['words']['rank']}(st|nd|rd|th) by words.* and 1st by both")
    )
    page.get_by_role("switch", name="Exact words too").uncheck()
    told = site.http.post("/search", json={**wanted, "hybrid": False}).json()["hits"][1]["explain"]
    expect(page.locator("#count")).not_to_contain_text("words")
    second = hits(page).nth(1)
    second.locator(".title").click()
    growth, ranks = second.locator("figure svg").all()
    assert growth.get_attribute("aria-label") == "Score by dimensions: " + ", ".join(
        f"{score:.3f} at {length}" for length, score in told["scores"].items()
    )
    assert (
        ranks.get_attribute("aria-label")
        == f"Rank {told['prefix_rank']} after the first pass, 2 after the second"
    )
    expect(second.locator("figcaption").first).to_contain_text(
        f"Its first 64 dimensions alone score {told['scores']['64']:.3f}"
    )
    second.locator(".title").click()
    expect(second.locator(".why")).to_be_hidden()


def test_recall_is_told_beside_the_count_and_an_answer_can_be_proved(page, site):
    searches = [{"query": f"files number {n}", "hybrid": False} for n in range(9)]
    for _ in range(3):
        site.http.post("/search/batch", json={"searches": searches}).raise_for_status()
    # The gauge looks at them when the server is idle.
    page.wait_for_function(
        "async () => (await (await fetch('stats')).json()).gauge.checked >= 20", polling=200
    )
    search(page, "temporary files")
    page.reload()
    expect(page.locator("#count")).to_contain_text(
        re.compile(r"measured recall (1\.000|0\.\d{3}) ± 0\.\d{3}")
    )
    page.get_by_role("button", name="Prove it").click()
    expect(page.locator("#count")).to_contain_text("proved exact")


def test_modes_oversampling_and_words_are_sent(page):
    search(page, "zip")
    words = page.get_by_role("switch", name="Exact words too")
    expect(words).to_be_checked()  # as the server has it
    page.get_by_role("button", name="How").click()
    with page.expect_request("**/search") as asked:
        page.get_by_text("Everything").click()
    assert asked.value.post_data_json["mode"] == "exact"
    expect(words).not_to_be_checked()
    page.get_by_label("Candidates for each hit").fill("32")
    with page.expect_request("**/search") as asked:
        page.get_by_label("Candidates for each hit").blur()
    assert asked.value.post_data_json["oversample"] == 32
    with page.expect_request("**/search") as asked:
        words.check()
    assert asked.value.post_data_json["hybrid"] is True


def test_files_that_are_dropped_are_added_and_others_named(page, site):
    drop(page, {
        "badger.md": b"# Badgers\n\nBadgers dig setts under old oaks.",
        "page.html": b"<title>Herons</title><script>no()</script><p>Herons wade<p>in shallow water",
        "people.csv": b"name;age\nAda;36\n\"Grace; H.\";85\n",
        "more.jsonl": b'{"id": "newt", "text": "Newts breathe through their skin."}\nnot json\n',
        "mail.eml": b"From: a@example.org\r\nSubject: =?utf-8?Q?Caf=C3=A9?=\r\n\r\nMeet me at noon.\r\n",
        "empty.txt": b"", "junk.txt": b"a\0b", "latin.txt": b"caf\xe9", "report.pdf": b"%PDF-1.7",
    })  # fmt: skip
    card = page.locator("#additions .card").first
    expect(card.locator(".state")).to_contain_text("Done: 6 created")
    card.locator("summary").click()
    assert card.locator("li").all_inner_texts() == [
        "more.jsonl, line 2 is not JSON",
        "empty.txt is empty",
        "junk.txt is binary, not text",
        "latin.txt is not UTF-8; save it as UTF-8",
        "report.pdf can’t be read here; the command “twopass ingest” reads it",
    ]
    stored = {
        name: site.http.get(f"/documents/{name}").json()
        for name in ("badger.md", "page.html", "people.csv%233", "newt", "mail.eml")
    }
    assert stored["badger.md"]["metadata"] == {"path": "badger.md", "title": "Badgers"}
    assert (stored["page.html"]["text"], stored["page.html"]["metadata"]["title"]) == (
        "Herons wade\n\nin shallow water", "Herons",
    )  # fmt: skip
    assert stored["people.csv%233"]["text"] == "name: Grace; H.\nage: 85"
    assert stored["people.csv%233"]["metadata"] == {"path": "people.csv", "name": "Grace; H.", "age": 85}
    assert stored["newt"]["metadata"] == {"path": "more.jsonl"}
    assert stored["mail.eml"]["metadata"] == {
        "path": "mail.eml", "title": "Café", "from": "a@example.org",
    }  # fmt: skip
    card.get_by_role("link", name="Search").click()
    search(page, "animals that burrow below trees")
    expect(hits(page).first.locator(".title")).to_have_text("Badgers")


def test_a_folder_that_is_dropped_is_read_with_all_below_it(page, site, tmp_path):
    """The browser itself is handed the folder, as by a file manager: no script can make such an event."""
    for path, text in {
        "diary/monday.txt": "The otter came to the pond.",
        "diary/old/sunday.md": "# Rain\n\nIt poured, and the newt was glad.",
        "diary/old/older/photo.jpg": "\0",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    browser = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(tmp_path / "diary")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
    card = page.locator("#additions .card").first
    expect(card.locator(".state")).to_contain_text("Done: 2 created")
    card.locator("summary").click()
    assert card.locator("li").all_inner_texts() == [
        "diary/old/older/photo.jpg .jpg can’t be read; save it as text or HTML"
    ]
    found = [
        site.http.get(f"/documents/{name}").json() for name in ("diary/monday.txt", "diary/old/sunday.md")
    ]
    assert [each["metadata"] for each in found] == [
        {"path": "diary/monday.txt"}, {"path": "diary/old/sunday.md", "title": "Rain"},
    ]  # fmt: skip


def test_a_document_that_the_server_refuses_is_named_and_the_others_are_kept(page, site):
    lines = [
        {"id": "fine-1", "text": "one"},
        {"id": "x" * 600, "text": "two"},
        {"id": "fine-2", "text": "three"},
    ]
    drop(page, {"lines.jsonl": "\n".join(map(json.dumps, lines)).encode()})
    card = page.locator("#additions .card").first
    expect(card.locator(".state")).to_contain_text("Done: 2 created")
    expect(card.locator("summary")).to_have_text("1 thing skipped")
    assert site.http.get("/documents/fine-2").status_code == 200


def test_a_pasted_text_is_found(page):
    page.get_by_role("link", name="Add", exact=True).click()
    page.get_by_label("Text", exact=True).fill("The spare key to the garden shed is under the flower pot.")
    page.get_by_label("Title").fill("Where the key is")
    page.get_by_role("button", name="Add this text").click()
    expect(page.locator("#additions .state").first).to_contain_text("Done: 1 created")
    page.get_by_role("link", name="Search", exact=True).first.click()
    search(page, "how do I open the garden house")
    expect(hits(page).first.locator(".title")).to_have_text("Where the key is")


def test_a_measurement_is_watched_and_drawn(page, site):
    page.get_by_role("link", name="Collection").click()
    expect(page.locator("#facts")).to_contain_text("bundled")
    page.get_by_role("button", name="Measure now").click()
    expect(page.locator("#measuring progress")).to_be_visible()
    expect(page.locator("#curve svg")).to_be_visible()
    (job,) = [each for each in site.http.get("/jobs").json()["jobs"] if each["type"] == "evaluate"]
    recall = job["result"]["serving"]["recall"]["mean"]
    expect(page.locator("#curve p").first).to_contain_text(f"recall@10 {recall:.3f} ±")
    page.locator("#curve summary").click()
    assert page.locator("#curve tbody tr").count() == len(job["result"]["curve"]["forms"])


def test_measurements_are_drawn_over_time_after_a_restart_too(tmp_path, open_page):
    settings = {"encoder__model": "none", "encoder__dim": 16, "index__gauge_share": 1}
    vectors = clustered(60, 16, seed=1).tolist()
    with serving(tmp_path, **settings) as server:
        documents = [{"id": str(n), "vector": each} for n, each in enumerate(vectors)]
        server.http.post("/documents", json={"documents": documents}).raise_for_status()
        page = open_page(f"{server.url}/#collection")
        place = page.locator("#recall-history")
        expect(place).to_contain_text("“Measure now” makes a beginning")
        page.get_by_role("button", name="Measure now").click()
        expect(place).to_contain_text(re.compile(r"Last measured .*: recall 1\.000 ± 0\.060, on 60 stored"))
        server.http.post("/search", json={"vector": vectors[0]}).raise_for_status()
        until(lambda: len(server.http.get("/stats/recall").json()["points"]) >= 2)
        server.stop()
    with Catalog(tmp_path / "collections" / "default" / "catalog.sqlite3") as catalog:
        (evaluation, _) = catalog.recall.newest()
        other = json.dumps({**json.loads(evaluation.first_pass), "codec": "pq4"})
        catalog.recall.add(replace(evaluation, first_pass=other, found=0.985 * evaluation.searches))
    with serving(tmp_path, **settings) as server:
        page = open_page(f"{server.url}/#collection")
        place = page.locator("#recall-history")
        expect(place.locator(".evaluation path")).to_have_count(2)
        expect(place.locator(".gauge .few circle")).to_have_count(1)
        assert (
            place.locator(".change title").text_content().startswith("another first pass: pq4, 16 dimensions")
        )
        assert place.locator("svg text").all_text_contents()[:2] == [
            "0.970",
            "0.980",
        ]  # the interval goes on below
        expect(place.locator("svg")).to_have_accessible_name(
            re.compile(
                r"^Recall over time: 3 measurements from .*, between 0\.985 and 1\.000; the table below"
            )
        )
        assert place.locator(".gauge title").text_content().partition(", 1 live")[2] == (
            " search: recall 1.000 ± 0.793, 1.000 among the candidates; 60 passages; float32, 16 dimensions, "
            "8 candidates a hit"
        )
        expect(page.locator("#jobs")).to_contain_text("None since the server started")
        place.locator("summary").click()
        told = place.locator("tbody tr").all_inner_texts()
        assert ["live" in each for each in told] == [False, True, False]  # the newest first
        assert "0.985 ±" in told[0] and "pq4" in told[0]
        check_axe(page)
        server.stop()


def test_a_job_is_paused_and_cancelled(page, site):
    lines = b"\n".join(
        json.dumps({"id": f"many-{n}", "text": f"a text with the number {n}"}).encode() for n in range(5000)
    )
    headers = {"content-type": "application/x-ndjson"}
    job = site.http.post("/documents?wait=false", content=lines, headers=headers).json()["job"]
    page.get_by_role("link", name="Collection").click()
    row = page.locator(f"[data-id='{job['id']}']")
    row.get_by_role("button", name="Pause").click()
    expect(row.locator(".state")).to_have_text(re.compile("^paused"))
    row.get_by_role("button", name="Cancel").click()
    expect(row.locator(".state")).to_have_text(re.compile("^cancelled"))
    assert site.http.get(f"/jobs/{job['id']}").json()["status"] == "cancelled"


def test_a_snapshot_is_taken_and_downloaded(page, site):
    page.get_by_role("link", name="Collection").click()
    page.get_by_role("button", name="Take a snapshot").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    (snapshot,) = site.http.get("/snapshots").json()["snapshots"]
    assert download.value.suggested_filename == snapshot["name"]
    assert download.value.path().stat().st_size == snapshot["bytes"]


def test_everything_is_reached_by_keys_alone(page):
    page.locator("body").press("/")
    keys = page.keyboard
    keys.type("sea otters")
    expect(hits(page).first.locator(".title")).to_have_text("On otters")
    focused = page.locator(":focus")
    keys.press("ArrowDown")
    expect(focused).to_have_text("On otters")
    keys.press("Enter")
    expect(hits(page).first.locator(".why")).to_be_visible()
    keys.press("ArrowDown")
    expect(focused).to_have_text(hits(page).nth(1).locator(".title").inner_text())
    keys.press("ArrowUp")
    keys.press("l")
    expect(page.locator("#count")).to_contain_text("like notes/otter.md")
    expect(focused).to_have_class("title")
    keys.press("Escape")
    expect(focused).to_have_attribute("id", "query")
    for name in ("Exact words too", "Filter", "How", "Keys"):
        keys.press("Tab")
        expect(focused).to_have_accessible_name(name)
    keys.press("Enter")
    expect(page.locator("#keys-dialog")).to_be_visible()
    keys.press("Escape")
    expect(page.locator("#keys-dialog")).to_be_hidden()


def test_an_error_says_what_to_do(brought, open_page):
    page = open_page(brought.url)
    page.locator("#query").fill("words")
    problem = page.locator("#search-problem")
    expect(problem).to_contain_text("There is no model to encode text")
    expect(problem).to_contain_text("TWOPASS_ENCODER__MODEL=bundled")


@pytest.fixture
def kept_for_us():
    with kept_port() as port:
        yield port


def test_a_key_is_asked_for_kept_in_the_tab_alone_and_sent(tmp_path, open_page, kept_for_us):
    """And the page goes on by itself when a server that went away is back."""
    settings = {
        "encoder__model": "none", "encoder__dim": 8, "server__api_key": "a-key", "server__port": kept_for_us,
    }  # fmt: skip
    with serving(tmp_path, **settings) as server:
        page = open_page(f"{server.url}/#collection")
        dialog = page.locator("#key-dialog")
        expect(dialog).to_contain_text("this server asks for a key and none was sent")
        dialog.get_by_label("Key").fill("wrong")
        dialog.get_by_role("button", name="Use it").click()
        expect(dialog).to_contain_text("the key is wrong")
        dialog.get_by_label("Key").fill("a-key")
        dialog.get_by_label("Key").press("Enter")
        expect(page.locator("#facts")).to_contain_text("Documents0")
        kept = page.evaluate("[{...sessionStorage}, {...localStorage}, document.cookie]")
        assert kept == [{"twopass.key": "a-key"}, {}, ""]
        page.goto(f"{server.url}/docs")
        expect(page.locator("#swagger-ui")).to_contain_text("/search")
        page.goto(f"{server.url}/#search")
        expect(page.locator("#search-empty")).to_contain_text("Nothing is stored yet")
        server.stop()
        page.locator("#query").fill("anybody there?")
        expect(page.locator("#offline")).to_contain_text("twopass serve")
    with serving(tmp_path, **settings) as server:
        expect(page.locator("#offline")).to_be_hidden()
        expect(page.locator("#search-problem")).to_contain_text("There is no model")
        server.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(site, open_page, scheme):
    page = open_page(site.url, color_scheme=scheme, reduced_motion="reduce")

    search(page, "read a zip archive")
    hits(page).first.locator(".title").click()
    page.get_by_role("button", name="How").click()
    page.get_by_role("button", name="Filter", exact=True).click()
    check_axe(page)
    for view in ("Add", "Collection"):
        page.get_by_role("link", name=view, exact=True).click()
        expect(page.locator(f"#{view.lower()}-title")).to_be_visible()
        check_axe(page)
    page.get_by_role("button", name="Enter a key").click()
    check_axe(page)


def test_a_phone_needs_no_sideways_scrolling(site, open_page):
    page = open_page(site.url, viewport={"width": 360, "height": 740}, has_touch=True)
    search(page, "read a zip archive")
    hits(page).first.locator(".title").tap()
    for view in ("search", "add", "collection"):
        page.goto(f"{site.url}/#{view}")
        expect(page.locator(f"#{view}-view")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_first_load_is_small_and_a_second_one_asks_for_nothing_new(site, open_page):
    page = open_page(site.url)
    expect(page.locator("#search-empty")).to_contain_text("documents are here")
    transferred = """() => ["navigation", "resource"].flatMap(type => performance.getEntriesByType(type))
        .reduce((sum, entry) => sum + entry.transferSize, 0)"""
    first = page.evaluate(transferred)
    assert 20_000 < first < FIRST_LOAD_BYTES
    page.reload()
    expect(page.locator("#search-empty")).to_contain_text("documents are here")
    assert page.evaluate(transferred) < first / 2  # headers, and what the API tells


def test_the_apis_own_page_comes_from_this_server(site, open_page):
    page = open_page(f"{site.url}/docs")
    expect(page.locator("#swagger-ui")).to_contain_text("/search/batch")
    assert page.locator(".opblock").count() > 20
