"""How far something is, on standard error."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from server.printing import duration, size

PLAIN_PROGRESS_S = 5.0  # between two lines of progress, where there is no terminal


class OnDone(Protocol):
    """Called with the number of documents that are finished, and by how many there are more than was thought."""

    def __call__(self, n: int, more: int = 0) -> None:
        """Count them."""


@contextlib.contextmanager
def progress(total: int | None) -> Iterator[OnDone]:
    """Show how far an ingest is, on standard error; call what this yields with the number of documents done.

    A bar on a terminal, a line every few seconds elsewhere. `total` is None where nobody knows.
    """
    console = Console(stderr=True)
    started = time.monotonic()
    done, told_at = 0, started

    def state() -> str:
        seconds = max(time.monotonic() - started, 1e-3)
        parts = [f"{done:,} of {total:,} documents" if total is not None else f"{done:,} documents"]
        if done:
            rate = done / seconds
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
            if total is not None and done < total:
                parts.append(f"{duration((total - done) / rate)} left")
        return " · ".join(parts)

    with contextlib.ExitStack() as stack:
        bar = None
        if console.is_terminal:
            bar = Progress(BarColumn(), TextColumn("{task.description}"), console=console, transient=True)
            task = stack.enter_context(bar).add_task(state(), total=total)

        def on_done(n: int, more: int = 0) -> None:
            nonlocal done, told_at, total
            done += n
            if total is not None:
                total += more
            if bar is not None:
                bar.update(task, completed=done, total=total, description=state())
            elif time.monotonic() - told_at >= PLAIN_PROGRESS_S:
                told_at = time.monotonic()
                console.print(state(), highlight=False)

        yield on_done


@contextlib.contextmanager
def check_progress() -> Iterator[Callable[[int, int], None]]:
    """Show how far a check is, on standard error; call what this yields with vectors done and vectors in all.

    A bar on a terminal, nothing elsewhere.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(BarColumn(), TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task("reading the catalog", total=None)

        def on_progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=f"{done:,} of {total:,} vectors")

        yield on_progress


@contextlib.contextmanager
def work_progress(unit: str = "rows") -> Iterator[Callable[[str, int, int], None]]:
    """Show how far long work is, on standard error; call what this yields with stage, units done and units in all.

    A bar on a terminal, a line for each stage elsewhere.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(BarColumn(), TextColumn("{task.description}"), console=console, transient=True) as bar:
            task = bar.add_task("waiting", total=None)

            def on_bar(stage: str, done: int, total: int) -> None:
                is_counted = 0 < done < total
                bar.update(
                    task,
                    completed=done,
                    total=total if is_counted else None,
                    description=f"{stage}: {done:,} of {total:,} {unit}" if is_counted else stage,
                )

            yield on_bar
        return
    last = ""

    def on_line(stage: str, done: int, total: int) -> None:
        nonlocal last
        if stage and stage != last:
            last = stage
            console.print(f"{stage} …", highlight=False)

    yield on_line


@contextlib.contextmanager
def download_progress() -> Iterator[Callable[[int, int], None]]:
    """Show how far a download is, on standard error; call what this yields with bytes done and bytes in all.

    A bar on a terminal, a line every few seconds elsewhere.
    """
    console = Console(stderr=True)
    started = told_at = time.monotonic()
    first: int | None = None  # bytes that an earlier download had left

    def state(done: int, total: int) -> str:
        parts = [f"{size(done)} of {size(total)}"]
        rate = (done - (first or 0)) / max(time.monotonic() - started, 1e-3)
        if rate > 0:
            parts.append(f"{size(round(rate))}/s")
            if done < total:
                parts.append(f"{duration((total - done) / rate)} left")
        return " · ".join(parts)

    with contextlib.ExitStack() as stack:
        bar = None
        if console.is_terminal:
            bar = Progress(BarColumn(), TextColumn("{task.description}"), console=console, transient=True)
            task = stack.enter_context(bar).add_task("asking the hub", total=None)

        def on_bytes(done: int, total: int) -> None:
            nonlocal first, told_at
            if first is None:
                first = done
            if bar is not None:
                bar.update(task, completed=done, total=total, description=state(done, total))
            elif time.monotonic() - told_at >= PLAIN_PROGRESS_S:
                told_at = time.monotonic()
                console.print(state(done, total), highlight=False)

        yield on_bytes
