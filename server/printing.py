"""The words in which the command tells what was stored, skipped and found."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:  # httpx takes a while to import, and `--help` needs none
    from server.client import Hit, SearchAnswer
    from server.incoming import Skips
    from server.readers import Found
    from server.uploading import IngestReport

PASSAGE_LINES = 3


def stored_lines(report: "IngestReport", seconds: float) -> Iterator[str]:
    """Say what an ingest stored, and what the server noted about it."""
    yield (
        f"{counted(report.stored, 'document')} stored: {report.created:,} new, {report.updated:,} updated, "
        f"{report.unchanged:,} unchanged ({counted(report.passages, 'passage')}) in {duration(seconds)}."
    )
    for warning in dict.fromkeys(report.warnings):
        yield f"Note: {plain(warning)}"


def skipped_lines(skips: "Skips", report: "IngestReport", found: "Found") -> Iterator[str]:
    """Say what an ingest did not store, and why."""
    for what, some in (("Skipped", skips), ("Refused by the server", report.refused)):
        if some.count:
            yield f"{what}: {some.count:,}"
            for each in some.first:
                yield f"  {plain(each.source)}: {plain(each.reason)}"
            if some.count > len(some.first):
                yield f"  … and {some.count - len(some.first):,} more"
    if found.other_kinds:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in found.other_kinds.most_common(5))
        yield f"Passed over {counted(found.other_kinds.total(), 'file')} of other kinds: {kinds}"


def print_hit(console: Console, rank: int, hit: "Hit") -> None:
    """Print one document found, and the beginning of its best passage."""
    line = Text(f"{rank:>3}  {hit['score']:.3f}  ")
    line.append(plain(hit["id"]), style="bold")
    if (explain := hit.get("explain")) and explain["prefix_score"] is not None:
        line.append(
            f"  prefix {explain['prefix_score']:.3f}, rank {explain['prefix_rank']} → {explain['rank']}"
        )
    console.print(line)
    passage = plain(hit["passage"].get("text") or "")
    for row in textwrap.wrap(passage, max(console.width - 12, 20), max_lines=PASSAGE_LINES, placeholder=" …"):
        console.print(Text(f"            {row}", style="dim"))


def timings(answer: "SearchAnswer") -> str:
    """Say how a search was done and how long it took."""
    took = answer["timings_ms"]
    return (
        f"{counted(answer['candidates'], 'candidate')} · encode {took['encode']:.1f} ms · "
        f"first pass {took['first_pass']:.2f} ms · second pass {took['second_pass']:.2f} ms · "
        f"total {took['total']:.1f} ms"
    )


def counted(n: int, thing: str) -> str:
    """Say a number of things: 1 document, 2,000 documents."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def plain(text: str) -> str:
    """Return text on one line, without characters that could steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def duration(seconds: float) -> str:
    """Say how long something takes: 1.5 s, 40 s, 2 min 5 s, 1 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
