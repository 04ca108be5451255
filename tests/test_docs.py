"""Figures and tables of the pages under docs/ are those of the code, or of what was measured."""

import re
from pathlib import Path

from index.first_pass.bounds import MAX_WIDTH, TAIL_COLUMNS
from index.planner import SMALL_ROWS, Machine
from server.encoders.known import KNOWN_MODELS
from server.planning import Question, forecast
from server.printing import plan_lines, size
from server.settings import budget_bytes

ROOT = Path(__file__).parent.parent
MEASURED = (ROOT / "benchmarks/README.md").read_text()


def rows(text):
    """The tables' rows, by their first cell: the other cells."""
    found = {}
    for line in re.findall(r"^\s*\|(.+)\|$", text, re.MULTILINE):
        first, *others = (cell.strip() for cell in line.split("|"))
        if set(first) != {"-"}:
            found[first] = others
    return found


def test_the_comparison_tells_what_was_measured():
    part = MEASURED.partition("## peers")[2]
    measured = {name: cells for name, cells in rows(part).items() if len(cells) == 8}
    told = {
        name: cells
        for name, cells in rows((ROOT / "docs/comparison.md").read_text().partition("## Measured")[2]).items()
        if name in measured and name != "store"
    }
    assert set(told) >= {"twopass", "qdrant-int8", "chroma", "pgvector", "sqlite-vec", "lancedb-pq"}
    for name, cells in told.items():
        median_ms, _, _, _, build_s, own_mib, mapped_mib, disk_mib = measured[name]
        assert cells == [median_ms, build_s, own_mib, mapped_mib, disk_mib], name


def test_the_table_of_models_is_what_the_code_knows():
    told = rows((ROOT / "docs/models.md").read_text().partition("| licence |")[2].partition("\n\n")[0])
    known = {
        f"`{'bundled' if 'bundled' in model.aliases else model.name}`": [
            str(model.dim), model.lengths, f"{model.max_tokens:,}", str(model.memory_mib or ""),
            model.licence.removeprefix("LicenseRef-"),
        ]
        for model in KNOWN_MODELS
    }  # fmt: skip
    assert told == known


def test_every_known_model_but_the_static_one_has_a_figure_of_quality():
    page = (ROOT / "docs/models.md").read_text()
    told = rows(page.partition("### How good")[2].partition("### How fast")[0])
    for model in KNOWN_MODELS:
        name = model.name.rpartition("/")[2]
        assert f"`{name}`" in told or f"`{name}` has no figure" in page
    for name, (_, *figures, _, source) in told.items():
        if name.startswith("`"):
            assert any(figures) and source.startswith("["), name


def test_the_speed_of_models_is_what_was_measured():
    measured = rows(MEASURED.partition("- **encoders**")[2].partition("\n\n## ")[0])
    told = rows(
        (ROOT / "docs/models.md").read_text().partition("### How fast")[2].partition("### On your")[0]
    )
    both = {
        "Cranfield, exact: nDCG@10": "nDCG@10 on Cranfield, exact",
        "searches a second from 16 connections, and from 1": "searches a second from 16 connections",
        "ingest of 20 000 short texts, to the bare model": "ingest of short texts, a second",
        "search by text over HTTP, by meaning alone, to the bare call of onnxruntime":
            "search by text over HTTP, by meaning alone, ms",
    }  # fmt: skip
    for name, same in both.items():
        firsts = [re.match(r"[\d.]*", cell)[0] for cell in measured[name]]
        assert told[same] == firsts, name
    memory = measured["memory of all processes, MiB: Rss (pages that two share count twice), Pss"]
    assert told["memory of server and model, MiB (Pss)"] == [cell.split(", ")[1] for cell in memory]


SIZING = (ROOT / "docs/sizing.md").read_text()
REFERENCE = Machine()  # the one that the planner's figures come from


def masked(text):
    """Without times, which are those of the machine."""
    return re.sub(r"[\d.]+ ms", "# ms", text)


def test_the_sizes_are_what_the_planner_says():
    told = rows(SIZING.partition("| search, ms |")[2].partition("\n## ")[0])
    lines = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| (.+) \|$", SIZING, re.MULTILINE)
    assert len(lines) == 6 and told
    for passages, dim, cells in lines:
        question = Question(int(passages.replace(",", "")), int(dim.replace(",", "")), 4 << 30)
        best = forecast(question, REFERENCE).best
        assert best.fits
        sizes = [best.memory_bytes, best.rebuild_bytes, sum(best.disk_bytes.values())]
        assert cells.split(" | ") == [*map(size, sizes), f"{best.search_ms:.1f}"], (passages, dim)


def test_the_example_is_what_plan_prints():
    (command,) = re.findall(r"^twopass (plan .+)$", SIZING, re.MULTILINE)
    (shown,) = re.findall(r"^```text\n(.+?)^```$", SIZING, re.DOTALL | re.MULTILINE)
    words = command.split()
    question = Question(int(words[2]), int(words[4]), budget_bytes(words[6], "--memory"))
    printed = list(plan_lines(forecast(question, REFERENCE)))
    assert masked("\n".join(printed)).startswith(masked(shown.strip()))
    assert printed[len(shown.splitlines())] == "Other forms:"


def test_bytes_a_passage_are_those_of_the_code():
    memory = SIZING.partition("## Memory")[2]
    usual, small, least = (
        forecast(Question(rows, 768, memory_bytes), REFERENCE).best.plan["row_bytes"]
        for rows, memory_bytes in ((100_000, 1 << 30), (32_768, 1 << 30), (1_000_000, 24_000_000))
    )
    assert f"{usual} bytes a passage from 32 768 passages on, {small} below; down to {least} where" in memory
    assert SMALL_ROWS == 32_768
    bounds = forecast(Question(10_000, 768, 1 << 30), REFERENCE).best.disk_bytes["bounds"]
    assert f"{bounds // 10_000} bytes a passage, less below {MAX_WIDTH - TAIL_COLUMNS} dimensions" in SIZING


def test_measured_figures_of_sizing_are_those_of_the_benchmarks():
    both = {
        "24 MiB, 123 with mapped files": "| oversample 16 | 30 | 24 | 123 | 314 |",
        "1.4 to 1.9 s to the first answer": "1.4 to 1.9 s to the first answer",
        "313 searches a second from one connection": "313 searches a second\n  from one connection",
        "0.994 to 0.996": "0.994–0.996",
        "22 to 37 ms a search (p50)": "p50 21.6 to 37.3 ms",
        "290 bytes a text": "290 bytes a text",
        "the first search from a cold file took 0.2 s": "The first search from a cold file takes 0.2 s",
        "1 398 abstracts made 1 793 passages": "1 398 texts (two of the 1 400 are\nempty; 1 793 passages)",
        "190 searches a second": "| 190, 115 | 259, 141 |",
        "298 short texts a second": "| 298/s, 0.91 | 581/s, 1.06 |",
        "some 95 MiB": "93 to 96 MiB",
    }
    flat = " ".join(SIZING.split())
    for told, measured in both.items():
        assert told in flat and measured in MEASURED, told


def test_the_readme_leads_to_every_page():
    text = (ROOT / "README.md").read_text()
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert {page for page in pages if f"({page}" not in text} == set()


def test_links_to_other_sites_are_whole_and_encrypted():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((\w+://[^)]*)\)", page.read_text()):
            assert re.fullmatch(r"https://[\w.-]+\.\w+(/[\w./#?=&%~-]*)?", link), (page.name, link)
