"""The composition root: settings in, a running server out."""

import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from ipaddress import ip_address
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from index.durable import DirectoryLock, make_folder
from index.errors import DiskFullError, IndexFault, StorageError
from server import __version__
from server.api import (
    documents,
    embeddings,
    evaluate,
    generations,
    jobs,
    metadata,
    search,
    snapshots,
    status,
    web,
)
from server.api.connections import Connection, handles_for
from server.api.cors import allow_origins
from server.api.embedding_schemas import EmbeddingsIn
from server.api.evaluate import EvaluateIn
from server.api.generations import ReembedIn
from server.api.metadata import MetadataIndexIn
from server.api.openapi import describe_keys, describe_models
from server.api.problems import PROBLEM_JSON, add_error_handlers
from server.api.requests import Requests
from server.api.rights import Rights
from server.api.schemas import CopiesIn, DocumentsIn, IdsIn, Problem, RebuildIn, SearchesIn, SearchIn
from server.api.sites import Sites
from server.api.threads import Running
from server.auth import Keys
from server.backups.restoring import COLLECTION, settle
from server.catalog import Catalog
from server.collection import Collection
from server.doctor import Health, served
from server.doctor.machine import check_memory
from server.encoders.encoder import Encoder
from server.encoders.errors import EncoderError
from server.encoders.fingerprint import Fingerprint
from server.encoders.loading import load_encoder
from server.errors import CatalogDamagedError, ModelChangedError, ServiceError, StartupError, answer_for
from server.keys import open_keys
from server.logs import start_logging
from server.memory import keep_memory_small
from server.metrics import Metrics
from server.records import Generation
from server.reembedding import encoder_in_force, identity
from server.settings import EncoderSettings, Settings, SettingsError
from server.store import CATALOG_NAME, LocalStore, check_no_vectors

BACKLOG = 2048  # connections that may wait to be taken; uvicorn's own default


def create_app(settings: Settings, collection: Collection, keys: Keys) -> FastAPI:
    """Build the HTTP application around an open collection."""
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        metrics.watch(collection)
        app.state.running = Running(collection, settings, metrics)  # its threads answer to the event loop
        try:
            yield
        finally:
            app.state.running.close()

    app = FastAPI(
        title="twopass",
        version=__version__,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # whatever the environment says
        docs_url=None,  # FastAPI's own page loads its scripts from a CDN; ours is in server.api.web
        redoc_url=None,
        openapi_url=None,  # a route of ours tells it, to readers
        responses={
            "default": {
                "content": {PROBLEM_JSON: {"schema": Problem.model_json_schema()}},
                "description": "Every error.",
            }
        },
    )
    app.state.metrics = metrics
    for module in (search, documents, metadata, embeddings, jobs, generations, evaluate, snapshots, status):
        app.include_router(module.router)
    describe_models(
        app,
        CopiesIn,
        DocumentsIn,
        EmbeddingsIn,
        EvaluateIn,
        IdsIn,
        MetadataIndexIn,
        RebuildIn,
        ReembedIn,
        SearchIn,
        SearchesIn,
    )
    web.add_pages(app)
    add_error_handlers(app)
    rights = Rights(app.routes, {"/metrics"} if settings.server.open_metrics else ())
    if keys.asked_for:
        describe_keys(app, rights)
    sites = Sites(settings.server.names, settings.server.cors_origins)
    app.add_middleware(
        Requests, keys=keys, sites=sites, rights=rights, limits=settings.limits, metrics=metrics
    )
    allow_origins(app, settings.server.cors_origins)
    return app


@contextlib.contextmanager
def open_collection(settings: Settings) -> Iterator[Collection]:
    """Lock the data directory, load the model, open the collection; close all of it at the end.

    Raises:
        StartupError, IndexFault, EncoderError, SettingsError: with a text that says what to do.
    """
    with contextlib.ExitStack() as stack:
        data_dir = settings.data_dir
        collections = data_dir / "collections"
        folder = collections / COLLECTION
        try:
            make_folder(collections)
        except StorageError as error:
            raise StartupError(
                f"the data directory {data_dir} can't be made: {error}",
                "Choose another with TWOPASS_DATA_DIR, or correct its permissions.",
            ) from error
        stack.enter_context(DirectoryLock(data_dir / "lock"))
        settle(collections)
        make_folder(folder)
        catalog = stack.enter_context(Catalog(folder / CATALOG_NAME, migrate=False))
        load = partial(load_encoder, passages=settings.passages, models_dir=data_dir / "models")
        in_force = encoder_in_force(catalog, settings.encoder)
        current = catalog.generations.current()
        encoder = load(in_force, stored=_made_by(current) if current else None)
        if encoder is not None:
            stack.callback(encoder.close)
        generation = _generation(catalog, in_force, encoder, settings.index.vector_dtype)
        prefix_dim = settings.index.prefix_dim_for(generation.dim)
        catalog.migrate()  # only now: what was refused until here is still the earlier version's
        if in_force is settings.encoder:
            catalog.generations.set_encoder(generation.number, identity(in_force), identity(in_force))
        else:
            structlog.get_logger().warning(
                "the model was changed by re-embedding; set encoder.model to it", model=in_force.model
            )
        check_all = settings.index.check_on_open == "all"
        # Without a name of its own: once another store serves, nothing may keep this one's files and memory.
        collection = Collection(
            LocalStore(catalog, generation, prefix_dim, check_all), encoder, settings, load
        )
        stack.callback(collection.close)
        collection.start_repair()
        collection.start_upkeep()
        yield collection


def serve(settings: Settings) -> int:
    """Run the server until SIGTERM or SIGINT; return 0.

    Raises:
        StartupError: it could not start; the text and the hint say why and what to do.
    """
    keep_memory_small()
    start_logging(settings.log)
    log = structlog.get_logger()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen_on(settings.server.host, settings.server.port))
        try:
            collection = stack.enter_context(open_collection(settings))
            host, port = listener.getsockname()[:2]
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            keys = open_keys(settings, not ip_address(host).is_loopback, lambda key: _show_key(key, address))
        except DiskFullError as error:
            raise StartupError(str(error), "Free some room and start again; nothing is lost.") from error
        except StorageError as error:
            raise StartupError(
                str(error), "Look at the disk of data_dir and at its permissions, and start again."
            ) from error
        except (IndexFault, EncoderError, ServiceError) as error:
            answer = answer_for(error)
            raise StartupError(
                str(error), getattr(error, "hint", None) or (answer.hint if answer else None)
            ) from error
        except SettingsError as error:
            raise StartupError(str(error), "Correct the setting and start again.") from error
        listener.listen(BACKLOG)
        damage = collection.damage()
        if damage["rows"]:
            log.warning(
                "some stored vectors are damaged; GET /stats names the documents that only their sender can mend",
                rows=damage["rows"],
                documents=damage["documents"],
            )
        memory = check_memory(served(collection, settings))
        if memory.status is not Health.OK:
            log.warning("memory is short", found=memory.found, advice=memory.advice)
        for warning in collection.info()["warnings"]:
            log.warning(warning)
        app = create_app(settings, collection, keys)
        server = _Server(
            uvicorn.Config(
                app,
                http=partial(  # type: ignore[arg-type]  # it is called only
                    Connection,
                    limits=settings.limits,
                    most=handles_for(settings.limits.connections),
                    metrics=app.state.metrics,
                ),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=settings.server.shutdown_grace_s,
            ),
            collection,
            lambda: log.info(
                "listening",
                url=f"http://{address}",
                version=__version__,
                data_dir=str(settings.data_dir),
                model=settings.encoder.model,
                documents=collection.store.catalog.counts()[0],
            ),
        )
        server.run(sockets=[listener])
    log.info("stopped")  # and another may use the data
    return 0


def _show_key(key: str, address: str) -> None:
    """Print a key that was just made; not by way of the log, which others may read and which is kept."""
    print(
        f"\nNo key was set for {address}, so one was made. It is shown this once:\n\n    {key}\n\n"
        "Send it as `Authorization: Bearer <key>`. If it is lost, `twopass key --new` makes another.\n",
        file=sys.stderr,
        flush=True,
    )


class _Server(uvicorn.Server):
    """Tells running ingests to end when the signal comes, not when their connections have been waited for."""

    def __init__(self, config: uvicorn.Config, collection: Collection, tell: Callable[[], None]) -> None:
        """`tell` is called when whoever connects is answered, and a signal ends the server in peace."""
        super().__init__(config)
        self._collection = collection
        self._tell = tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._collection.stop()
        super().handle_exit(sig, frame)
        # uvicorn raises the signal again once it has stopped; for us that was a clean end.
        self._captured_signals = [
            s for s in self._captured_signals if s not in (signal.SIGTERM, signal.SIGINT)
        ]


def listen_on(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only for sockets that say they are TCP: without it every answer on a
    # kept connection waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise StartupError(
            f"can't listen on {host} port {port}: {getattr(error, 'strerror', None) or error}",
            "Stop what uses the port, or choose another: TWOPASS_SERVER__PORT=8001 twopass serve",
        ) from error
    return listener


def _generation(
    catalog: Catalog, settings: EncoderSettings, encoder: Encoder | None, vector_dtype: str
) -> Generation:
    """The catalog's current generation, or a first one for this model.

    Raises:
        ModelChangedError: another model made the stored vectors.
        CatalogDamagedError: vectors lie beside a catalog that knows of none.
    """
    if encoder is None:  # clients bring the vectors
        assert settings.dim is not None  # the settings have checked that
        fingerprint = Fingerprint("none", "", settings.dim, "", "", "none", 0)
    else:
        fingerprint = encoder.fingerprint
    generation = catalog.generations.current()
    if generation is None:
        check_no_vectors(catalog.path.parent)
        return catalog.generations.begin(1, fingerprint.to_json(), fingerprint.dim, vector_dtype)
    made_by = _made_by(generation)
    if not made_by.same_vectors(fingerprint):
        raise ModelChangedError(
            f"the vectors in {catalog.path.parent} were made by the model {made_by.model!r} ({made_by.dim} "
            f"dimensions), but the settings say {fingerprint.model!r} ({fingerprint.dim} dimensions); "
            f"what differs: {', '.join(made_by.changes(fingerprint))}",
            f"To go on with this data: TWOPASS_ENCODER__MODEL={made_by.model}"
            + (f" TWOPASS_ENCODER__DIM={made_by.dim}" if made_by.model == "none" else "")
            + " twopass serve. To have the stored texts encoded by the new model while the old one serves: "
            f"start it so, and run `twopass reembed --model {fingerprint.model}`.",
        )
    return generation


def _made_by(generation: Generation) -> Fingerprint:
    """The model that made the stored vectors. Raises CatalogDamagedError."""
    try:
        return Fingerprint.from_json(generation.fingerprint)
    except ValueError as error:
        raise CatalogDamagedError("the model's fingerprint can't be read from the catalog") from error
