"""What the collection and the machine say of themselves, read when Prometheus asks."""

import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.collection import Collection
from server.jobs import STATUSES
from server.processes import process_memory

FILES = {"vectors-": "vectors", "first-pass-": "first_pass", "catalog.": "catalog"}
"""What a collection's files are, by how their names begin."""

ByLabels = dict[tuple[str, ...], float]
"""Values by the labels' own values."""


class Readings(Collector):
    """Gauges of one collection, as GET /stats tells it, and of the processes that serve it."""

    def __init__(self, collection: Collection, version: str) -> None:
        self._collection = collection
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """Yield everything as it is now; takes milliseconds."""
        collection = self._collection
        told = collection.stats()
        yield from _counts(told)
        yield from _recall(told["gauge"])
        yield _family("twopass_disk_bytes", "Bytes of the collection's files", ("kind",), _disk_bytes(told))
        free = shutil.disk_usage(collection.store.folder).free
        yield GaugeMetricFamily(
            "twopass_disk_free_bytes", "Bytes free on the disk of the data directory", free
        )
        yield GaugeMetricFamily(
            "twopass_encoder_queue_batches",
            "Batches of texts that wait for the model",
            0 if collection.encoder is None else collection.encoder.n_waiting,
        )
        by_status = Counter(job.status for job in collection.jobs.all())
        jobs: ByLabels = {(status,): by_status[status] for status in STATUSES}
        yield _family("twopass_jobs", "Jobs; of those that have ended the last hundred", ("status",), jobs)
        yield _family(
            "twopass_process_memory_bytes",
            "Resident memory of the server's processes; what is of files goes where others need the room",
            ("process", "of"),
            _memory_bytes(),
        )
        model = str(collection.info()["model"])
        yield _family(
            "twopass_info", "1; version and model", ("version", "model"), {(self._version, model): 1}
        )


def _counts(told: dict[str, Any]) -> Iterator[Metric]:
    for name, what, value in (
        ("documents", "Documents stored", told["documents"]),
        ("passages", "Passages stored, each with a vector", told["passages"]),
        ("pending_documents", "Documents that are safe and wait to be encoded", told["pending"]),
        ("rows", "Vectors in the file, replaced and deleted ones included", told["rows"]),
        ("tombstones", "Vectors of replaced and deleted passages", told["tombstones"]),
        ("damaged_rows", "Vectors that were found damaged and are not mended yet", told["damage"]["rows"]),
        ("first_pass_bytes", "Memory that the first pass wants", told["first_pass"]["bytes"]),
    ):
        yield GaugeMetricFamily(f"twopass_{name}", what, value)


def _recall(gauge: dict[str, Any]) -> Iterator[Metric]:
    """Measured recall of live searches; no values where none was measured yet."""
    yield GaugeMetricFamily(
        "twopass_recall_searches", "Live searches that the recall was measured on", gauge["checked"]
    )
    measured = {"pool": gauge["pool_recall"], "final": gauge["recall"]}
    for suffix, name, what in (
        ("", "mean", "Mean recall of live searches, of their candidates (pool) and of their hits (final)"),
        ("_low", "low", "Lower end of the mean's 95 % interval"),
        ("_high", "high", "Upper end of the mean's 95 % interval"),
    ):
        values: ByLabels = {(of,): found[name] for of, found in measured.items() if found is not None}
        yield _family(f"twopass_recall{suffix}", what, ("of",), values)


def _memory_bytes() -> ByLabels:
    n_bytes: ByLabels = {}
    for process, resident in process_memory().items():
        n_bytes[process, "anonymous"] = resident.anonymous_bytes
        n_bytes[process, "files"] = resident.file_bytes
    return n_bytes


def _disk_bytes(told: dict[str, Any]) -> ByLabels:
    n_bytes: ByLabels = {(kind,): 0.0 for kind in (*FILES.values(), "other")}
    for name, size in told["disk_bytes"].items():
        n_bytes[(next((FILES[start] for start in FILES if name.startswith(start)), "other"),)] += size
    return n_bytes


def _family(name: str, what: str, labels: tuple[str, ...], values: ByLabels) -> Metric:
    family = GaugeMetricFamily(name, what, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family
