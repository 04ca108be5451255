"""Another model for the stored texts: encoded into a generation of their own beside the one that serves.

The generation is filled in small batches, each committed, so that a restart goes on where it stopped. Documents that
are added or changed meanwhile are missing in it, and are filled in like the rest. When none is missing the two change
places in one transaction; the one before stays, to go back to, until it is told or old enough to go.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from index.errors import IndexFault
from server.catalog import Catalog
from server.catalog.stored_json import read_json
from server.encoders.encoder import Encoder
from server.encoders.errors import EncoderError, EncodingStopped, RemoteEncoderDown, TextNotEncodable
from server.encoders.fingerprint import Fingerprint
from server.errors import ConflictError, InputError, NotFoundError, ServiceError
from server.jobs import Job, Jobs
from server.live import Live
from server.records import Filling, Generation
from server.settings import EncoderSettings, IndexSettings, SettingsError
from server.store import LocalStore, delete_files

BATCH_PASSAGES = 64
"""Passages that are encoded and committed in one go: what a kill at the wrong moment makes be encoded twice."""

LOOK_S = 3600.0
"""How long at most until it is looked again whether an old generation has had its time: clocks are set."""

RETRY_S = 30.0
"""Pause before a write is tried again that the disk refused."""

DAY_S = 86_400.0

LOCK_S = 0.2  # how soon who waits for another generation to be finished notices that the server stops

MAX_NAMED = 20  # documents named in an error

IDENTITY = {"model", "backend", "precision", "url", "query_prompt", "document_prompt", "max_tokens", "dim"}
"""The settings of an encoder that are kept with its vectors: what it takes to have it again, without keys."""


def identity(encoder: EncoderSettings) -> str:
    """Return what it takes to have this encoder again, as JSON."""
    return json.dumps(encoder.model_dump(include=IDENTITY), sort_keys=True)


def encoder_in_force(catalog: Catalog, configured: EncoderSettings) -> EncoderSettings:
    """Return the settings of the encoder that the stored vectors need.

    They are the configured ones, unless the model was changed by re-embedding and the configuration has stayed as it
    was then: a restart must not undo the change, nor fail for want of an edited file.
    """
    generation = catalog.generations.current()
    if generation is not None:
        made_with, replaces = catalog.generations.encoder(generation.number)
        if made_with not in (None, replaces) and replaces == identity(configured):
            return configured.model_copy(update=read_json(made_with, "the encoder's settings"))
    return configured


class LoadEncoder(Protocol):
    """Makes an encoder; `stored` is the fingerprint of the vectors that it made before, if there are any."""

    def __call__(self, encoder: EncoderSettings, *, stored: Fingerprint | None) -> Encoder | None: ...


@dataclass(frozen=True)
class Workshop:
    """What re-embedding needs of the collection around it."""

    catalog: Catalog
    jobs: Jobs
    configured: EncoderSettings
    index: IndexSettings
    load: LoadEncoder
    live: Callable[[], Live]  # what serves now
    make_live: Callable[[LocalStore, Encoder | None], Live]
    take_over: Callable[[Live], None]  # from the next call on, this serves
    changing: threading.Lock = field(default_factory=threading.Lock)  # one makes another generation at a time


class Reembedding:
    """One thread that changes the model, and deletes generations that nobody needs any more."""

    def __init__(self, workshop: Workshop) -> None:
        self._w = workshop
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._beginning = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; it goes on with what a restart interrupted."""
        self._thread = threading.Thread(target=self._run, name="reembed", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end at the next batch; what is committed stays."""
        self._stopping.set()
        self._wake.set()

    def close(self) -> None:
        """Stop and wait."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def begin(self, encoder: EncoderSettings) -> Job:
        """Have every text encoded by another model; returns at once.

        Raises:
            ConflictError: a change of the model is under way.
            InputError: there are documents that can't be encoded, as only their client has their vectors.
        """
        if encoder.model == "none":
            raise InputError(
                "model none encodes nothing", "model", "Name the model that is to encode the texts."
            )
        if n_own := self._w.catalog.own_vectors():
            raise InputError(
                f"{n_own} documents came with vectors of their clients', which another model can't make", "model",
                "Delete them, or send them again without a vector.",
            )  # fmt: skip
        return self._begin({"encoder": json.loads(identity(encoder))})

    def go_back(self) -> Job:
        """Have the generation before take over again; what it lacks is encoded first. Returns at once.

        Raises:
            ConflictError: a change of the model is under way.
            NotFoundError: there is none.
        """
        retired = self._w.catalog.generations.retired()
        if not retired:
            raise NotFoundError(
                "there is no generation of vectors to go back to",
                "Nothing was re-embedded, or what was before is deleted: `twopass reembed --model NAME` makes it anew.",
            )
        number = retired[-1][0]
        made_with, _ = self._w.catalog.generations.encoder(number)
        generation = self._w.catalog.generations.get(number)
        assert generation is not None
        encoder = (
            read_json(made_with, "the encoder's settings")
            if made_with
            else {"model": Fingerprint.from_json(generation.fingerprint).model}
        )
        return self._begin({"encoder": encoder, "generation": number})

    def forget(self, number: int) -> None:
        """Delete a generation that was retired, with its files.

        Raises:
            NotFoundError: there is none of this number.
            ConflictError: it serves, or is being filled.
        """
        with self._beginning:
            retired = {each for each, _ in self._w.catalog.generations.retired()}
            if number not in retired:
                if number in self._w.catalog.generations.numbers():
                    raise ConflictError(
                        f"generation {number} is in use", "Only the one before can be deleted."
                    )
                raise NotFoundError(f"there is no generation {number}", "GET /index/generations lists them.")
            if any(job.wishes.get("generation") == number for job in self._w.jobs.unfinished("reembed")):
                raise ConflictError(f"generation {number} is about to serve again", "Cancel that job first.")
            self._drop(number)

    def generations(self) -> list[dict[str, Any]]:
        """Tell of every generation: what made it, how many rows it has, and what becomes of it."""
        current = self._w.live().store.generation
        retired = dict(self._w.catalog.generations.retired())
        leftover = self._w.catalog.generations.leftover()
        told = []
        for number in self._w.catalog.generations.numbers():
            generation = self._w.catalog.generations.get(number)
            if generation is None or number == leftover:
                continue
            fingerprint = Fingerprint.from_json(generation.fingerprint)
            deleted_at = None
            if number in retired and self._w.index.keep_old_days:
                deleted_at = retired[number] + self._w.index.keep_old_days * DAY_S
            told.append({
                "generation": number,
                "state": "current" if number == current else "retired" if number in retired else "being filled",
                "model": fingerprint.model,
                "precision": fingerprint.precision,
                "dim": generation.dim,
                "rows": generation.n_rows,
                "deleted_at": None if deleted_at is None else iso_time(deleted_at),
            })  # fmt: skip
        return told

    # In the thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                pause_s = self._look()
            except Exception as error:  # noqa: BLE001  # whatever it is, a full disk say, it must not end the thread
                structlog.get_logger().warning("changing the model has to wait", kind=type(error).__name__)
                pause_s = RETRY_S
            self._wake.wait(pause_s)

    def _look(self) -> float:
        """Do what there is to do; return the seconds until it is worth looking again."""
        if unfinished := self._w.jobs.unfinished("reembed"):
            self._work(unfinished[0])
            return 0
        with turn(self._w.changing, self._stopping) as is_mine:
            if is_mine:
                self._drop_cancelled()
        return self._drop_old()

    def _begin(self, wishes: dict[str, Any]) -> Job:
        with self._beginning:
            if running := self._w.jobs.unfinished("reembed"):
                raise ConflictError(
                    f"a change of the model is under way, job {running[0].id}",
                    "Wait for it, or cancel it: twopass reembed --cancel",
                )
            job = self._w.jobs.add(Job("reembed", unit="documents", wishes=wishes), durable=True)
        self._wake.set()
        return job

    def _work(self, job: Job) -> None:
        log = structlog.get_logger()
        try:
            with turn(self._w.changing, self._stopping) as is_mine:
                if not is_mine:
                    return
                self._reembed(job)
        except _Cancelled:
            self._abandon(job)
            job.status = "cancelled"
        except _Stopped:
            return  # the job stays unfinished: the next start goes on with it
        except (EncoderError, IndexFault, ServiceError, SettingsError) as error:
            self._fail(job, str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, what serves goes on serving
            self._fail(job, f"unforeseen: {type(error).__name__}")
        if job.status != "done":  # the switch has saved that itself
            self._save_end(job)
        # Why it failed is told by GET /jobs/{id}: it can name documents, or quote another program.
        log.info("re-embedding ended", job=job.id, status=job.status)

    def _save_end(self, job: Job) -> None:
        """Commit how a job ended, however often the disk refuses it: a restart would begin it again."""
        while True:
            try:
                return self._w.jobs.save(job)
            except IndexFault:
                if self._stopping.wait(RETRY_S):
                    return

    def _fail(self, job: Job, error: str) -> None:
        """What was encoded stays: beginning again with the same model goes on from there."""
        self._w.live().store.set_successor(None)
        job.error, job.status = error, "failed"

    def _abandon(self, job: Job) -> None:
        """Drop what was begun; a generation that served before stays."""
        self._w.live().store.set_successor(None)
        if (number := job.wishes.get("generation")) in self._begun():
            self._drop(number)

    def _begun(self) -> list[int]:
        """The generations that never served, but for the one that a compaction is at work on."""
        generations = self._w.catalog.generations
        served = {self._w.live().store.generation, *(number for number, _ in generations.retired())}
        served.add(generations.leftover() or 0)
        return [number for number in generations.numbers() if number not in served]

    def _rest(self, job: Job, refused: dict[str, str]) -> None:
        """Pause, naming the documents that are in the way; resumed, it looks whether they still are."""
        named = "; ".join(f"{each}: {why}" for each, why in list(refused.items())[:MAX_NAMED])
        advice = "Change or delete them, then resume."
        job.error = f"{len(refused)} documents can't be encoded by this model: {named}. {advice}"
        job.ask("pause")
        self._heed(job)
        job.error = None

    def _reembed(self, job: Job) -> None:
        self._heed(job)
        job.begin()
        job.stage = "loading the model"
        self._w.jobs.save(job)
        settings = self._w.configured.model_copy(update=job.wishes["encoder"])
        encoder = self._w.load(settings, stored=self._stored(job))
        assert encoder is not None  # begin() has refused model none
        closing = contextlib.ExitStack()
        closing.callback(encoder.close)
        with closing:
            generation = self._generation(job, encoder, settings)
            before = self._w.live()
            current = before.store
            store = current.open_successor(generation)
            live = self._w.make_live(store, encoder)
            closing.pop_all()
            closing.callback(live.close)
            live.upkeep.start()
            began = time.monotonic()
            while True:
                if refused := self._fill(job, store, encoder, live):
                    self._rest(job, refused)
                    continue
                job.progress("making the first pass", job.total, job.total)
                live.upkeep.settle(self._ended(job))
                self._heed(job)
                if current.hand_over(lambda: self._switch(job, live, time.monotonic() - began)):
                    break
            closing.pop_all()
        before.close()

    def _stored(self, job: Job) -> Fingerprint | None:
        number = job.wishes.get("generation")
        generation = None if number is None else self._w.catalog.generations.get(number)
        return None if generation is None else Fingerprint.from_json(generation.fingerprint)

    def _generation(self, job: Job, encoder: Encoder, settings: EncoderSettings) -> Generation:
        """The generation to fill: the job's own, or a new one that is the job's from now on."""
        generations = self._w.catalog.generations
        number = job.wishes.get("generation")
        configured = identity(self._w.configured)
        if number is not None:
            found = generations.get(number)
            if found is None:
                raise NotFoundError(f"generation {number} is gone")
            made_by = Fingerprint.from_json(found.fingerprint)
            if not made_by.same_vectors(encoder.fingerprint):
                raise ConflictError(
                    f"{settings.model!r} makes other vectors than those of generation {number}; "
                    f"what differs: {', '.join(made_by.changes(encoder.fingerprint))}"
                )
            generations.set_encoder(number, identity(settings), configured)
            return found
        now = self._w.live().encoder
        if now is not None and now.fingerprint.same_vectors(encoder.fingerprint):
            raise ConflictError(f"{settings.model!r} makes the same vectors as now; there is nothing to do")
        fingerprint = encoder.fingerprint
        found = None
        for begun in self._begun():  # by a job that failed
            left = generations.get(begun)
            if left is not None and Fingerprint.from_json(left.fingerprint).same_vectors(fingerprint):
                found, number = left, begun
                generations.set_encoder(number, identity(settings), configured)
            else:
                self._drop(begun)
        if found is None:
            number = generations.numbers()[-1] + 1
            delete_files(self._w.catalog.path.parent, number)  # left by one that was dropped
            found = generations.prepare(
                number, fingerprint.to_json(), fingerprint.dim, self._w.index.vector_dtype, identity(settings),
                configured,
            )  # fmt: skip
        job.wishes["generation"] = number
        self._w.jobs.save(job)
        return found

    def _fill(self, job: Job, store: LocalStore, encoder: Encoder, live: Live) -> dict[str, str]:
        """Encode until no document is missing but those that the model can't encode; return their ids and why."""
        catalog = self._w.catalog
        refused: dict[str, str] = {}
        while True:
            n_documents, _ = catalog.counts()
            job.progress("encoding", n_documents - catalog.n_missing(store.generation), n_documents)
            after, n_filled = 0, 0
            while missing := catalog.missing(store.generation, after, BATCH_PASSAGES):
                self._heed(job)
                batch, texts = _first_passages(missing, encoder)
                after = batch[-1].number
                n_filled += self._encode(job, store, encoder, batch, texts, refused)
                job.progress("encoding", min(job.total, job.done + len(batch)), job.total)
                live.upkeep.wake()
            if not n_filled:
                break
        return refused

    def _encode(
        self,
        job: Job,
        store: LocalStore,
        encoder: Encoder,
        batch: list[Filling],
        texts: list[str],
        refused: dict[str, str],
    ) -> int:
        """Encode and commit a batch; return how many documents that were."""
        while True:
            self._heed(job)
            try:
                store.fill(batch, encoder.encode_documents(texts, self._ended(job)))
                return len(batch)
            except EncodingStopped:
                continue  # _heed says why
            except RemoteEncoderDown as error:
                job.stage = f"waiting: {error}"
                encoder.wait_until_back(self._stopping)
            except TextNotEncodable as error:
                if len(batch) == 1:
                    refused[self._w.catalog.id_of(batch[0].number)] = str(error)
                    return 0
                return sum(
                    self._encode(job, store, encoder, [each], own, refused)
                    for each, own in _apart(batch, texts)
                )
            except IndexFault as error:
                job.stage = f"waiting: {error}"
                self._stopping.wait(RETRY_S)

    def _switch(self, job: Job, live: Live, seconds: float) -> bool:
        """Let the filled generation serve, unless it lacks documents. Called while no write runs."""
        number = live.store.generation
        if self._w.catalog.missing(number, 0, 1):
            return False
        before = self._w.live().store.generation
        job.result = {"generation": number, "before": before, "seconds": round(seconds, 1)}
        self._w.catalog.generations.switch(number, job.id, json.dumps(job.result))
        self._w.take_over(live)
        job.done, job.status = job.total, "done"  # last: whoever sees it may search at once
        return True

    def _heed(self, job: Job) -> None:
        """Do what was asked for meanwhile: end, give up, or rest."""
        if self._stopping.is_set():
            raise _Stopped
        job.wait_until_resumed(self._stopping)
        if self._stopping.is_set():
            raise _Stopped
        if job.wanted == "cancel":
            raise _Cancelled

    def _ended(self, job: Job) -> Callable[[], bool]:
        return lambda: self._stopping.is_set() or job.wanted != "run"

    def _drop_cancelled(self) -> None:
        """Drop what was begun and given up shortly before the process ended; what failed can be gone on with."""
        failed = [job.wishes.get("generation") for job in self._w.jobs.all() if job.status == "failed"]
        for number in self._begun():
            if number not in failed:
                self._drop(number)

    def _drop_old(self) -> float:
        """Delete generations that have had their time; return the seconds until it is worth looking again."""
        next_s = LOOK_S
        if self._w.index.keep_old_days:
            for number, retired_at in self._w.catalog.generations.retired():
                left_s = retired_at + self._w.index.keep_old_days * DAY_S - time.time()
                if left_s > 0:
                    next_s = min(next_s, left_s)
                else:
                    self.forget(number)
        return next_s

    def _drop(self, number: int) -> None:
        self._w.catalog.generations.drop(number)
        delete_files(self._w.catalog.path.parent, number)
        structlog.get_logger().info("generation deleted", generation=number)


@contextlib.contextmanager
def turn(lock: threading.Lock, stopping: threading.Event) -> Iterator[bool]:
    """Hold a lock during the block; yields False, and holds nothing, once the server stops."""
    while not (is_mine := lock.acquire(timeout=LOCK_S)) and not stopping.is_set():
        pass
    try:
        yield is_mine
    finally:
        if is_mine:
            lock.release()


class _Stopped(Exception):
    """The server is told to stop."""


class _Cancelled(Exception):
    """The job is told to give up."""


def iso_time(seconds: float) -> str:
    """Return a time, in seconds since 1970, as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _first_passages(
    missing: Sequence[tuple[int, str, bytes]], encoder: Encoder
) -> tuple[list[Filling], list[str]]:
    """The first documents with BATCH_PASSAGES passages or so, at least one, and their passages' texts."""
    batch: list[Filling] = []
    texts: list[str] = []
    for number, text, content_hash in missing:
        if len(texts) >= BATCH_PASSAGES:
            break
        spans = encoder.split(text)
        if batch and len(texts) + len(spans) > BATCH_PASSAGES:
            break
        batch.append(Filling(number, content_hash, spans))
        texts += [text[start:end] for start, end in spans]
    return batch, texts


def _apart(batch: Sequence[Filling], texts: Sequence[str]) -> list[tuple[Filling, list[str]]]:
    """Each document with its own texts."""
    found, at = [], 0
    for each in batch:
        found.append((each, list(texts[at : at + len(each.passages)])))
        at += len(each.passages)
    return found
