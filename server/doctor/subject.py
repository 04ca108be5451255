"""What is examined: a collection that a server has open, or the files that lie there while none runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.calibration import Calibration
from index.disk import DiskSpeed
from index.durable import lock_holder, named_disk_errors
from index.first_pass import FirstPassFolder
from index.plan import Plan, plain
from index.two_pass import n_rows_on_disk, vector_path
from server.catalog import Catalog
from server.collection import Collection
from server.encoders.fingerprint import Fingerprint
from server.recall_history import first_pass_in, told_first_pass
from server.records import RecallPoint
from server.reembedding import encoder_in_force, identity
from server.settings import EncoderSettings, Settings
from server.store import CATALOG_NAME, check_no_vectors, shape_of


@dataclass(frozen=True)
class Data:
    """A collection's data, as far as checks need to know it."""

    made_by: Fingerprint
    dim: int
    prefix_dim: int
    vector_dtype: str
    n_documents: int
    n_rows: int
    n_live: int
    n_damaged: int  # live rows that are, and aren't mended yet
    lost: list[str]  # documents whose damaged vectors only their sender can bring again
    plan: Plan
    evidence: dict[str, Any]  # of the last rebuild; empty: nothing was measured
    vectors: Path
    encoder: EncoderSettings  # that the data needs
    is_superseded: bool  # whether that is another one than the settings name, by re-embedding


@dataclass(frozen=True)
class Subject:
    """What is examined."""

    settings: Settings
    folder: Path  # the collection's
    data: Data | None  # None: nothing was ever stored
    is_served: bool = False
    is_running: bool = False  # whether a server is there, asked or not
    serving: Fingerprint | None = None  # of the encoder at work; None: there is none
    is_encoder_down: bool = False
    measured: tuple[RecallPoint, ...] = ()  # of the first pass in place, the oldest first
    disk: DiskSpeed | None = None  # as measured at start


def served(collection: Collection, settings: Settings) -> Subject:
    """Describe a collection that is open."""
    store, encoder = collection.store, collection.encoder
    generation = store.catalog.generations.get(store.generation)
    assert generation is not None  # it serves
    in_force = encoder_in_force(store.catalog, settings.encoder)
    n_documents, n_live = store.catalog.counts()
    index = store.index
    data = Data(
        Fingerprint.from_json(generation.fingerprint), store.shape.dim, store.shape.prefix_dim,
        store.shape.vector_dtype, n_documents, index.n_rows, n_live, len(store.damage.rows),
        sorted(store.damage.ids), index.plan, index.evidence, vector_path(store.folder, store.shape), in_force,
        identity(in_force) != identity(settings.encoder),
    )  # fmt: skip
    return Subject(
        settings, store.folder, data, True, True, encoder.fingerprint if encoder else None,
        encoder is not None and encoder.is_down, _measured(store.catalog, first_pass_in(store, settings.index)),
        collection.disk,
    )  # fmt: skip


def stored(settings: Settings) -> Subject:
    """Describe what lies in the data directory, changing nothing.

    Raises:
        CatalogDamagedError, FormatError, StorageError, SettingsError: it can't be read.
    """
    folder = settings.data_dir / "collections" / "default"
    is_running = lock_holder(settings.data_dir / "lock") is not None
    with named_disk_errors(folder):
        is_there = (folder / CATALOG_NAME).exists()
    if not is_there:
        check_no_vectors(folder)
        return Subject(settings, folder, None, is_running=is_running)
    with Catalog(folder / CATALOG_NAME, read_only=True) as catalog:
        generation = catalog.generations.current()
        if generation is None:
            check_no_vectors(folder)
            return Subject(settings, folder, None, is_running=is_running)
        shape = shape_of(generation, settings.index.prefix_dim_for(generation.dim))
        rows = catalog.live_rows(generation.number)
        is_damaged = rows.is_damaged | (rows.rows >= n_rows_on_disk(folder, shape))
        in_force = encoder_in_force(catalog, settings.encoder)
        manifest = FirstPassFolder(folder, generation.number).newest()
        damaged = rows.rows[np.flatnonzero(is_damaged)].tolist()
        data = Data(
            Fingerprint.from_json(generation.fingerprint), shape.dim, shape.prefix_dim, shape.vector_dtype,
            catalog.counts()[0], generation.n_rows, len(rows.rows), len(damaged),
            sorted(catalog.own_vector_ids(generation.number, damaged)),
            manifest.plan if manifest else plain(shape.prefix_dim), manifest.evidence if manifest else {},
            vector_path(folder, shape), in_force, identity(in_force) != identity(settings.encoder),
        )  # fmt: skip
        calibration = Calibration.from_evidence(data.evidence)
        oversample = max(settings.index.oversample, calibration.oversample if calibration else 1.0)
        build = manifest.number if manifest else 0
        first_pass = told_first_pass(generation.number, build, data.plan, data.evidence, oversample)
        measured = _measured(catalog, first_pass)
    return Subject(settings, folder, data, is_running=is_running, measured=measured)


def _measured(catalog: Catalog, first_pass: str) -> tuple[RecallPoint, ...]:
    return tuple(point for point in catalog.recall.newest() if point.first_pass == first_pass)
