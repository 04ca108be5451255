"""Figures and tables of the pages under docs/ are those of the code, or of what was measured."""

import re
from pathlib import Path

from server.encoders.known import KNOWN_MODELS

ROOT = Path(__file__).parent.parent
MEASURED = (ROOT / "benchmarks/README.md").read_text()


def rows(text):
    """The tables' rows, by their first cell: the other cells."""
    found = {}
    for line in re.findall(r"^\| (.+) \|$", text, re.MULTILINE):
        first, *others = (cell.strip() for cell in line.split(" | "))
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
    measured = rows(MEASURED.partition("- **encoders**")[2].partition("\n\n## ")[0].replace("  |", "|"))
    told = rows((ROOT / "docs/models.md").read_text().partition("### How fast")[2].partition("### On your")[0])
    both = {
        "Cranfield, exact: nDCG@10": "nDCG@10 on Cranfield, exact",
        "searches a second from 16 connections, and from 1": "searches a second from 16 connections",
        "ingest of 5 000 short texts, to the bare model": "ingest of short texts, a second",
        "search by text over HTTP, by meaning alone, to the bare call of onnxruntime":
            "search by text over HTTP, by meaning alone, ms",
    }  # fmt: skip
    for name, same in both.items():
        firsts = [re.match(r"[\d.]*", cell)[0] for cell in measured[name]]
        assert told[same] == firsts, name
    memory = measured["memory of all processes, MiB: Rss (pages that two share count twice), Pss"]
    assert told["memory of server and model, MiB (Pss)"] == [cell.split(", ")[1] for cell in memory]
