"""The words in which the command tells what was stored, skipped and found."""

import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:  # httpx takes a while to import, and `--help` needs none
    from server.client import CheckAnswer, GenerationAnswer, Hit, JobAnswer, SearchAnswer
    from server.folders.finding import Found
    from server.incoming import Skips
    from server.planning import Forecast, Prediction, Trial
    from server.uploading import IngestReport

PASSAGE_LINES = 3


def stored_lines(report: "IngestReport", seconds: float) -> Iterator[str]:
    """Say what an ingest stored, and what the server noted about it."""
    if report.stored or not report.accepted:
        yield (
            f"{counted(report.stored, 'document')} stored: {report.created:,} new, {report.updated:,} updated, "
            f"{report.unchanged:,} unchanged ({counted(report.passages, 'passage')}) in {duration(seconds)}."
        )
    if report.deleted:
        yield f"{counted(report.deleted, 'document')} deleted: what they came from is gone."
    if report.accepted:
        yield (
            f"{counted(report.accepted, 'document')} accepted: safe on the server, and found once encoded; "
            "`twopass jobs` shows how far it is."
        )
    for warning in dict.fromkeys(report.warnings):
        yield f"Note: {plain(warning)}"


def skipped_lines(skips: "Skips", report: "IngestReport | None", found: "Found | None") -> Iterator[str]:
    """Say what an ingest did not store, and why."""
    for what, some in (("Skipped", skips), ("Refused by the server", report and report.refused)):
        if some and some.count:
            yield f"{what}: {some.count:,}"
            for each in some.first:
                yield f"  {plain(each.source)}: {plain(each.reason)}"
            if some.count > len(some.first):
                yield f"  … and {some.count - len(some.first):,} more"
    if found and found.passed_over:
        yield f"Passed over: {', '.join(_passed_over(found))}"


def round_line(report: "IngestReport") -> str:
    """Say what a look at watched folders changed; "" where nothing did."""
    counts = {
        "new": report.created,
        "updated": report.updated,
        "deleted": report.deleted,
        "accepted": report.accepted,
    }
    return ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)


def ingest_json(
    report: "IngestReport", skips: "Skips", found: "Found | None", seconds: float, code: int
) -> dict[str, Any]:
    """Return what became of an ingest, for programs."""
    told = {
        name: getattr(report, name)
        for name in ("created", "updated", "unchanged", "deleted", "passages", "accepted", "jobs", "warnings")
    }
    told["skipped"] = [vars(each) for each in skips.first]
    told["refused"] = [vars(each) for each in report.refused.first]
    if found:
        names = ("hidden", "left_out", "links", "other_kinds", "attached")
        told["passed_over"] = {name: getattr(found, name) for name in names}
    return told | {"seconds": round(seconds, 3), "exit_code": code}


def _passed_over(found: "Found") -> Iterator[str]:
    for kinds, thing in ((found.other_kinds, "file"), (found.attached, "attachment")):
        if kinds:
            most = ", ".join(f"{n:,} {plain(kind)}" for kind, n in kinds.most_common(5))
            more = ", …" if len(kinds) > 5 else ""
            yield f"{counted(kinds.total(), thing)} of other kinds ({most}{more})"
    if found.left_out:
        yield f"{found.left_out:,} by patterns"
    if found.hidden:
        yield f"{found.hidden:,} hidden"
    if found.links:
        yield f"{counted(found.links, 'link')} to folders or out of the folder"


def print_hit(console: Console, rank: int, hit: "Hit") -> None:
    """Print one document found, and the beginning of its best passage."""
    line = Text(f"{rank:>3}  {hit['score']:.3f}  ")
    line.append(plain(hit["id"]), style="bold")
    if (explain := hit.get("explain")) and explain["prefix_score"] is not None:
        line.append(
            f"  prefix {explain['prefix_score']:.3f}, rank {explain['prefix_rank']} → {explain['rank']}"
        )
    if explain and (words := explain["words"]) and words["score"] is not None:
        line.append(f"  words {words['score']:.1f}, rank {words['rank']}")
    console.print(line)
    passage = plain(hit["passage"].get("text") or "")
    for row in textwrap.wrap(passage, max(console.width - 12, 20), max_lines=PASSAGE_LINES, placeholder=" …"):
        console.print(Text(f"            {row}", style="dim"))


def timings(answer: "SearchAnswer") -> str:
    """Say how a search was done and how long it took."""
    took = answer["timings_ms"]
    words = f"words {took['words']:.2f} ms · " if took["words"] else ""
    return (
        f"{counted(answer['candidates'], 'candidate')} · encode {took['encode']:.1f} ms · "
        f"first pass {took['first_pass']:.2f} ms · second pass {took['second_pass']:.2f} ms · "
        f"{words}total {took['total']:.1f} ms"
    )


def plan_lines(planned: "Forecast") -> Iterator[str]:
    """Say what the planner chose, what it is expected to take, and what else there is."""
    question, best = planned.question, planned.best
    yield (
        f"{counted(question.n_rows, 'row')} of {counted(question.dim, 'dimension')}, {question.vector_dtype}, "
        f"{size(question.memory_bytes)} of memory for the first pass"
    )
    if not best.fits:
        yield f"Nothing fits: the smallest form takes {size(best.memory_bytes)}. It is"
    yield f"  first pass  {_form(best.plan)}"
    yield f"  order       {best.plan['order']}, unless a measurement on the collection finds the model's better"
    yield (
        f"  memory      {size(best.memory_bytes)}, {best.plan['row_bytes']} bytes a row; "
        f"{size(best.rebuild_bytes)} while it is made"
    )
    disk = best.disk_bytes
    yield (
        f"  disk        {size(sum(disk.values()))}: vectors {size(disk['vectors'])}, bounds "
        f"{size(disk['bounds'])}, first pass {size(disk['first_pass'])}"
    )
    yield (
        f"  candidates  {best.candidates_read} read for each search of 10; {best.candidates} hold the true 10 with "
        "recall 0.99"
    )
    yield (
        f"  search      {best.search_ms:.1f} ms on one core of this machine where the vectors are in the page cache; "
        "without HTTP and encoding"
    )
    if planned.others:
        yield "Other forms:"
        yield f"  {'memory':>9}  {'search':>9}  {'candidates':>10}"
        for each in planned.others:
            note = "" if each.fits else "  (more than there is)"
            yield (
                f"  {size(each.memory_bytes):>9}  {each.search_ms:>6.1f} ms  {each.candidates_read:>10}  "
                f"{_form(each.plan)}{note}"
            )
    yield (
        "These are predictions from measured texts. A server measures its own collection, and takes a longer code or "
        f"more candidates where recall {question.target_recall:g} needs them."
    )


def trial_lines(measured: "Trial") -> Iterator[str]:
    """Say what a trial measured, beside what was predicted for it."""
    predicted: Prediction = measured.predicted
    form = f"{_form(measured.plan)}, {measured.plan['order']} order"
    yield f"Measured on {counted(measured.n_rows, 'made-up row')}: {form}"
    if _form(measured.plan) != _form(predicted.plan):
        yield f"  (planned for as many: {_form(predicted.plan)})"
    yield f"  {'':<12}{'predicted':>12}{'measured':>12}"
    disk = sum(predicted.disk_bytes.values()), sum(measured.disk_bytes.values())
    rows = (
        ("memory", size(predicted.memory_bytes), size(measured.memory_bytes)),
        ("disk", size(disk[0]), size(disk[1])),
        ("candidates", str(predicted.candidates_read), str(measured.candidates_read)),
        ("search", f"{predicted.search_ms:.2f} ms", f"{measured.search_ms:.2f} ms"),
        ("recall@10", "0.99", f"{measured.recall:.4f}"),
    )
    for name, expected, found in rows:
        yield f"  {name:<12}{expected:>12}{found:>12}"
    yield f"The rebuild took {duration(measured.rebuild_s)}. Recall depends on the texts; these rows stand for none."


def check_lines(checks: "Iterable[CheckAnswer]", width: int) -> Iterator[str]:
    """Say what was looked at: a line for each, more where it is long, and what to do below it."""
    indent = " " * 20
    for check in checks:
        head = f"{check['status'].upper() if check['status'] != 'ok' else 'ok':4}  {check['name']:14}"
        for text, first in ((check["found"], head), (check["advice"], indent)):
            yield from textwrap.wrap(plain(text), width, initial_indent=first, subsequent_indent=indent)


def job_lines(job: "JobAnswer") -> Iterator[str]:
    """Say what became of a rebuild."""
    if job["status"] == "failed":
        yield f"The rebuild failed: {plain(job['error'] or 'unknown')}. The old first pass goes on serving."
    elif job["status"] == "cancelled":
        yield "The rebuild was cancelled. The old first pass goes on serving."
    elif job["status"] != "done":
        yield f"The rebuild is {job['status']}; GET /jobs/{job['id']} tells how far it is, as --wait would have."
    elif job["result"] is None:
        yield "There is nothing to rebuild: the server has fewer than 1,000 rows and keeps them as they are."
    else:
        plan, evidence = job["result"]["plan"], job["result"]["evidence"]
        calibration = evidence["calibration"]
        form = f"{_form(plan)}, {plan['order']} order"
        yield f"Made in {duration(evidence['seconds'])} from {counted(evidence['rows'], 'row')}: {form}"
        oversample = calibration["oversample"]
        yield (
            f"  recall in the pool {calibration['pool_recall'][f'{oversample:g}']:.4f} with {oversample:g} candidates "
            f"a hit · scan {evidence['search_ms']:.2f} ms · {plan['row_bytes']} bytes a row"
        )


def compaction_lines(job: "JobAnswer") -> Iterator[str]:
    """Say what became of a compaction."""
    if job["status"] == "failed":
        yield f"The compaction failed: {plain(job['error'] or 'unknown')}. Nothing has changed."
    elif job["status"] == "cancelled":
        yield "The compaction was cancelled. Nothing has changed."
    elif job["result"] is None:
        yield f"The compaction is {job['status']}; GET /jobs/{job['id']} tells how far it is, as --wait would have."
    else:
        result = job["result"]
        n_dropped = result["rows_before"] - result["rows"]
        yield (
            f"{counted(n_dropped, 'vector')} dropped, {size(max(result['freed_bytes'], 0))} given back, "
            f"in {duration(result['seconds'])}."
        )


def change_lines(job: "JobAnswer") -> Iterator[str]:
    """Say how a change of the model stands."""
    done, total = job["progress"]["done"], job["progress"]["total"]
    if job["status"] == "done":
        yield f"The change of the model is done, in {duration((job['result'] or {}).get('seconds', 0))}."
    elif job["status"] == "failed":
        yield f"The change of the model failed: {plain(job['error'] or 'unknown')}. The model before goes on serving."
        yield "  What was encoded is kept: the same command goes on from there."
    elif job["status"] == "cancelled":
        yield "The change of the model was cancelled; the model before goes on serving."
    else:
        eta_s = job["progress"]["eta_s"]
        left = "" if eta_s is None else f", {duration(eta_s)} left"
        yield (
            f"The change of the model is {job['status']}: {plain(job['stage'])}, "
            f"{done:,} of {total:,} documents{left}."
        )
        if job["error"]:
            yield f"  {plain(job['error'])}"


def generation_lines(generations: list["GenerationAnswer"]) -> Iterator[str]:
    """List generations of vectors."""
    for each in generations:
        precision = "" if each["precision"] == "float32" else f" ({each['precision']})"
        ending = f", deleted on {each['deleted_at'][:10]}" if each["deleted_at"] else ""
        yield (
            f"  {each['generation']}: {each['state']} · {plain(each['model'])}{precision}, {each['dim']} dimensions · "
            f"{counted(each['rows'], 'row')}{ending}"
        )


def backup_lines(told: dict[str, Any]) -> Iterator[str]:
    """Say what is in a backup."""
    pending = f", {told['pending']:,} more to be encoded" if told["pending"] else ""
    yield (
        f"  {counted(told['documents'], 'document')}{pending} · {counted(told['rows'], 'vector')} of "
        f"{counted(told['dim'], 'dimension')} · model {plain(told['model'])}"
    )
    yield f"  as of {plain(told['created_at']).replace('T', ' ').replace('Z', ' UTC')}"
    if told["damaged"]:
        yield (
            f"  Note: {counted(told['damaged'], 'vector')} of it were damaged on the disk already; a server makes them "
            "anew from their texts."
        )


def _form(plan: dict[str, Any]) -> str:
    lists = f", {plan['n_probes']:,} of {plan['n_lists']:,} lists" if "n_lists" in plan else ""
    return f"{plan['kind']}, {plan['codec']}, {counted(plan['prefix_dim'], 'dimension')}{lists}"


def size(n_bytes: int) -> str:
    """Say a number of bytes: 512 MB, 7.7 GB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:,.{1 if n_bytes < 10 * factor else 0}f} {unit}"
    return f"{n_bytes} B"


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
