"""Checks of the machine: memory, disk, pages, processor."""

import os
import platform
import shutil
from pathlib import Path

from index.disk import AT_ONCE_MS, DiskSpeed, measure_disk, measure_folder
from index.errors import DiskFullError, IndexFault
from index.first_pass.bounds import ALIGNMENT, TAIL_COLUMNS, bound_axes_count
from index.first_pass.instructions import instructions
from index.planner import machine_factor, rebuild_bytes
from index.two_pass import GROWTH
from server.budget import RESERVE_BYTES
from server.doctor.checks import Check, Health, mib
from server.doctor.subject import Data, Subject
from server.encoders.known import known
from server.memory import room

POOL = 80
"""Full vectors that a search of k = 10 reads."""

SERVER_BYTES = 110 << 20
"""Of a server that has answered some searches, without model and codes."""

UNKNOWN_MODEL_BYTES = 500 << 20  # a model of 110 million parameters, as most in use are

SLOW_POOL_MS, HOPELESS_POOL_MS = 50.0, 2000.0
"""To read a pool from a cold disk: what people begin to notice, and what they give up on. Hard disks take 400 ms."""

LOW_DISK_SHARE = 0.1  # of the disk, free; below it many file systems and SSDs become slow
MORE_ROOM = (
    "Free some room, or move data_dir to a larger disk: stop the server, copy the folder, set data_dir."
)
LEAST_DISK_BYTES = 64 << 20  # a request of 32 MiB, its vectors, and SQLite's journal

USUAL_PAGE_BYTES = 4096

SLOW_SCAN = 4.0
"""Times as long as on the machine of the planner's tables: 4 ms instead of one for 300 000 passages."""


def check_memory(subject: Subject) -> Check:
    """Is there room for the next rebuild, the largest thing that will be asked for?"""
    now, data = room(), subject.data
    used = now.limit_bytes - now.free_bytes
    found = f"{mib(now.limit_bytes)} ({now.source}), of which {mib(used)} are in use"
    needed = 0
    if not subject.is_running:
        needed = SERVER_BYTES + _model_bytes(subject)
        found += f"; a server with this model takes about {mib(needed)} more"
    if data is not None and data.n_rows:
        making = rebuild_bytes(data.plan, int(GROWTH * data.n_rows), data.dim)
        needed += making
        codes = data.n_rows * data.plan.row_bytes
        found += (
            f"; codes of {data.n_rows:,} passages {mib(codes)}, "
            f"{'the process’s own' if data.plan.is_resident else 'mapped'}; "
            f"making the next first pass takes up to {mib(making)}"
        )
    advice = (
        "Raise the memory limit of the container or service, choose a smaller model or encoder.precision int8, or "
        "lower index.memory_budget: then codes are made leaner."
    )
    if now.free_bytes < RESERVE_BYTES:
        return Check("memory", Health.FAIL, found, f"Only {mib(now.free_bytes)} are left. {advice}")
    if now.free_bytes < needed + RESERVE_BYTES:
        return Check("memory", Health.WARN, found, f"The next first pass may not fit. {advice}")
    return Check("memory", Health.OK, found)


def check_disk_space(subject: Subject) -> Check:
    """Is there room for the next rebuild, and for some growth?"""
    usage = shutil.disk_usage(_existing(subject.folder))
    taken = sum(each.stat().st_size for each in subject.folder.iterdir()) if subject.folder.exists() else 0
    needed = LEAST_DISK_BYTES + (0 if subject.data is None else _first_pass_bytes(subject.data))
    found = (
        f"{mib(usage.free)} of {mib(usage.total)} are free; the collection takes {mib(taken)}, "
        f"and the next first pass {mib(needed)} beside it while it is made"
    )
    if usage.free < needed:
        return Check("disk_space", Health.FAIL, found, MORE_ROOM)
    if usage.free < LOW_DISK_SHARE * usage.total or usage.free < taken / 2:
        return Check("disk_space", Health.WARN, found, MORE_ROOM)
    return Check("disk_space", Health.OK, found)


def check_disk_latency(subject: Subject) -> Check:
    """How long does a random read of 4 KiB take, and a pool of them?"""
    try:
        speed = subject.disk or _measured(subject)
    except DiskFullError as error:
        return Check("disk_latency", Health.FAIL, f"not measured: {error}", MORE_ROOM)
    except IndexFault as error:
        return Check("disk_latency", Health.FAIL, str(error), "The disk can't be used; see its permissions.")
    if speed is None:
        return Check("disk_latency", Health.OK, "not measured: everything read was in the page cache")
    pool_ms = POOL / speed.parallel_reads_per_s * 1e3
    found = (
        f"a random read of 4 KiB takes {speed.read_ms:.2f} ms, {speed.parallel_reads_per_s:,.0f} a second are possible "
        f"at once; {POOL} vectors of a search that aren't in memory take {pool_ms:,.1f} ms"
    )
    if pool_ms <= max(AT_ONCE_MS, SLOW_POOL_MS):
        return Check("disk_latency", Health.OK, found)
    advice = (
        "Searches already read as few vectors as they can. Put data_dir on an SSD, or give the machine so much memory "
        "that the vectors stay in its page cache."
    )
    return Check("disk_latency", Health.FAIL if pool_ms > HOPELESS_POOL_MS else Health.WARN, found, advice)


def check_page_size(subject: Subject) -> Check:
    """Does a read of one vector fetch much more than that?"""
    n_bytes = os.sysconf("SC_PAGE_SIZE")
    found = f"{n_bytes:,} bytes"
    if n_bytes <= USUAL_PAGE_BYTES:
        return Check("page_size", Health.OK, found)
    found += f": a vector's read brings {n_bytes // USUAL_PAGE_BYTES} times as much as with 4,096"
    advice = (
        "It works, and takes more of the page cache. A Raspberry Pi 5 has pages of 4 KiB with `kernel=kernel8.img` in "
        "/boot/firmware/config.txt."
    )
    return Check("page_size", Health.WARN, found, advice)


def check_cpu(subject: Subject) -> Check:
    """Are the processor's wide instructions there, and used?"""
    name, is_wide = instructions()
    factor = machine_factor(0.1)
    found = (
        f"{platform.machine()}, {os.cpu_count()} cores; faiss uses {name}; comparing prefixes takes {factor:.1f} "
        "times as long as on the machine that the planner's figures are of"
    )
    if not is_wide:
        advice = (
            "This processor has neither AVX2 nor NEON, or a virtual machine hides them (set its CPU type to `host`). "
            "Everything works, slower: the planner counts with it."
        )
        return Check("cpu", Health.WARN, found, advice)
    if factor > SLOW_SCAN:
        advice = "It may have been busy just now. Else smaller codes help: index.codec pq4, or a lower memory_budget."
        return Check("cpu", Health.WARN, found, advice)
    return Check("cpu", Health.OK, found)


def _model_bytes(subject: Subject) -> int:
    encoder = subject.data.encoder if subject.data else subject.settings.encoder
    if encoder.model == "none" or encoder.is_remote:
        return 0
    model = known(encoder.model)
    return model.memory_mib << 20 if model and model.memory_mib else UNKNOWN_MODEL_BYTES


def _measured(subject: Subject) -> DiskSpeed | None:
    vectors = subject.data.vectors if subject.data else None
    if vectors is not None and vectors.exists() and (speed := measure_disk(vectors)) is not None:
        return speed
    return measure_folder(_existing(subject.folder))  # too few vectors


def _first_pass_bytes(data: Data) -> int:
    """On the disk, for half as many rows again."""
    bounds = -(-(bound_axes_count(data.dim) + TAIL_COLUMNS) // ALIGNMENT) * ALIGNMENT
    return int(GROWTH * data.n_rows) * (data.plan.row_bytes + bounds)


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.resolve().parents) if each.exists())
