"""What the `twopass` command says to a running server: a small HTTP client, and ingest on top of it."""

import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NotRequired, Self, TypedDict, TypeVar, cast

import httpx

from server.readers import Document, Skipped, Skips

Answer = TypeVar("Answer")

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_TIMEOUT_S = 5.0
SEARCH_TIMEOUT_S = 60.0  # a search on a slow machine, behind a batch that is being encoded
BATCH_DOCUMENTS = 256  # the server encodes texts of like length together: 64 took a quarter longer
BATCH_BYTES = 256 * 1024  # about 15 s of encoding on two cores, so that the progress bar moves
MAX_ATTEMPTS = 6  # at one request, when the server is busy or gone; about a minute in all
MAX_WAIT_S = 30.0  # between two attempts, whatever Retry-After says


class ClientError(Exception):
    """A request didn't succeed. `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class BadUrlError(ClientError):
    """The server's address can't be used."""


class UnreachableError(ClientError):
    """No server answers there, or the connection broke."""


class RefusedError(ClientError):
    """The server answered with an error. `code` is empty where it was no twopass server's."""

    def __init__(self, message: str, hint: str, status: int, code: str, retry_after_s: float | None) -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class AddedAnswer(TypedDict):
    """Answer of POST /documents."""

    ids: list[str]
    created: int
    updated: int
    unchanged: int
    passages: int
    warnings: list[str]
    took_ms: float


class Passage(TypedDict):
    """The part of a document that fits the question best; `start` and `end` count characters."""

    start: int
    end: int
    text: NotRequired[str | None]


class HitExplain(TypedDict):
    """How a hit was found: its place among the candidates of the first pass, and in the end. Ranks from 1."""

    prefix_score: float | None
    prefix_rank: int | None
    rank: int


class Hit(TypedDict):
    """One document found."""

    id: str
    score: float
    text: NotRequired[str | None]
    metadata: NotRequired[dict[str, Any]]
    passage: Passage
    explain: NotRequired[HitExplain]


class SearchAnswer(TypedDict):
    """Answer of POST /search."""

    hits: list[Hit]
    candidates: int
    certified: bool
    timings_ms: dict[str, float]
    warnings: list[str]


class Client:
    """A connection to one server. Methods raise UnreachableError or RefusedError."""

    def __init__(self, url: str = DEFAULT_URL, api_key: str = "") -> None:
        """Connect at the first request. Raises BadUrlError."""
        self.url = _checked_url(url)
        self._http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            # Giving a transport also means: straight to the server, past any proxy of the environment.
            transport=httpx.HTTPTransport(socket_options=_keepalive()),
        )

    def is_ready(self) -> bool:
        """Say whether the server is there and takes requests."""
        try:
            self._send("GET", "/readyz")
        except (UnreachableError, RefusedError):
            return False
        return True

    def info(self) -> dict[str, Any]:
        """Return the server's description of itself."""
        return cast(dict[str, Any], self._json(self._send("GET", "/info")))

    def first_documents(self, limit: int) -> list[Document]:
        """Return up to `limit` stored documents, in id order."""
        page = self._json(self._send("GET", f"/documents?limit={limit}"))
        return cast(list[Document], page["documents"])

    def add(self, documents: Iterable[bytes]) -> AddedAnswer:
        """Store documents, each already written as JSON. All of them are stored or, if this raises, none.

        Waits as long as the server works on it: a slow machine may encode for minutes.
        """
        body = b'{"documents":[' + b",".join(documents) + b"]}"
        return cast(AddedAnswer, self._json(self._send("POST", "/documents", body, read_timeout_s=None)))

    def search(self, request: Mapping[str, Any]) -> SearchAnswer:
        """Answer a question."""
        return cast(SearchAnswer, json.loads(self.search_json(request)))

    def search_json(self, request: Mapping[str, Any]) -> str:
        """Answer a question with the server's JSON as it came."""
        answer = self._send("POST", "/search", json.dumps(request).encode())
        self._json(answer)
        return answer.text

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        read_timeout_s: float | None = SEARCH_TIMEOUT_S,
    ) -> httpx.Response:
        try:
            answer = self._http.request(
                method,
                path,
                content=body,
                headers={"content-type": "application/json"} if body is not None else {},
                timeout=httpx.Timeout(read_timeout_s, connect=CONNECT_TIMEOUT_S),
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UnreachableError(
                f"No server answers at {self.url}.",
                "Start one with `twopass serve`, or name another with --url or TWOPASS_URL.",
            ) from error
        except httpx.TransportError as error:
            raise UnreachableError(
                f"The server at {self.url} stopped answering ({str(error) or type(error).__name__}).",
                "See the server's log; start it again with `twopass serve`.",
            ) from error
        if not answer.is_success:
            raise self._refusal(answer)
        return answer

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise self._no_twopass(answer) from error

    def _refusal(self, answer: httpx.Response) -> RefusedError:
        try:
            problem = answer.json()
        except ValueError:
            return self._no_twopass(answer)
        if not isinstance(problem, dict) or "code" not in problem:
            return self._no_twopass(answer)
        detail = str(problem.get("detail") or problem.get("title") or problem["code"])
        hint = str(problem.get("hint") or "")
        if answer.status_code == 401:
            hint = "Give the server's key with --api-key or TWOPASS_API_KEY."
        return RefusedError(detail, hint, answer.status_code, str(problem["code"]), _retry_after_s(answer))

    def _no_twopass(self, answer: httpx.Response) -> RefusedError:
        return RefusedError(
            f"{self.url} answered {answer.status_code} {answer.reason_phrase}, not as a twopass server does.",
            "Is something else listening there? Name the server with --url or TWOPASS_URL.",
            answer.status_code,
            "",
            _retry_after_s(answer),
        )


@dataclass
class IngestReport:
    """What the server has acknowledged so far, and what it refused."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    passages: int = 0
    refused: Skips = field(default_factory=Skips)
    warnings: list[str] = field(default_factory=list)

    @property
    def stored(self) -> int:
        """Documents that are safe on the server now."""
        return self.created + self.updated + self.unchanged


def ingest(
    client: Client,
    documents: Iterable[Document],
    report: IngestReport,
    on_done: Callable[[int], None] = lambda n: None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Send documents in batches; `report` is up to date at every moment, also when this raises.

    A request is stored whole or not at all, so a batch that the server finds fault with is halved until the
    faulty document stands alone; that one is reported and the others are stored. A busy server, or one that
    went away after the first answer, gets MAX_ATTEMPTS attempts with a `pause` between: sending a document
    again is harmless, as each has an id. The later of two documents with one id stays.

    Args:
        on_done: called with the number of documents that are finished, stored or refused.

    Raises:
        UnreachableError: the server doesn't answer, or no longer.
        RefusedError: it refuses for a reason that is no document's: key, full disk, an error of its own.
    """
    _patiently(client.info, pause, reached=False)  # key and address are wrong before anything is read
    for batch in _batches(documents, report, on_done):
        _add(client, batch, report, on_done, pause)


@dataclass(frozen=True)
class _Written:
    """A document as the JSON that is sent."""

    id: str
    body: bytes


def _batches(
    documents: Iterable[Document], report: IngestReport, on_done: Callable[[int], None]
) -> Iterator[list[_Written]]:
    batch: list[_Written] = []
    ids: set[str] = set()
    n_bytes = 0
    for document in documents:
        try:
            body = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:  # NaN, or half a surrogate pair
            report.refused.add(Skipped(document["id"], f"can't be written as JSON: {error}"))
            on_done(1)
            continue
        full = len(batch) == BATCH_DOCUMENTS or n_bytes + len(body) > BATCH_BYTES
        if batch and (full or document["id"] in ids):
            yield batch
            batch, ids, n_bytes = [], set(), 0
        batch.append(_Written(document["id"], body))
        ids.add(document["id"])
        n_bytes += len(body)
    if batch:
        yield batch


def _add(
    client: Client,
    batch: list[_Written],
    report: IngestReport,
    on_done: Callable[[int], None],
    pause: Callable[[float], None],
) -> None:
    try:
        answer = _patiently(lambda: client.add(document.body for document in batch), pause, reached=True)
    except RefusedError as error:
        if error.status not in (400, 413, 422) or not error.code:
            raise
        if len(batch) > 1:
            middle = len(batch) // 2
            _add(client, batch[:middle], report, on_done, pause)
            _add(client, batch[middle:], report, on_done, pause)
        else:
            report.refused.add(Skipped(batch[0].id, str(error)))
            on_done(1)
        return
    report.created += answer["created"]
    report.updated += answer["updated"]
    report.unchanged += answer["unchanged"]
    report.passages += answer["passages"]
    report.warnings += answer["warnings"]
    on_done(len(batch))


def _patiently(call: Callable[[], Answer], pause: Callable[[float], None], reached: bool) -> Answer:
    """Call until it succeeds; again while the server is busy, or gone once it was `reached`."""
    for attempt in range(1, MAX_ATTEMPTS):
        try:
            return call()
        except UnreachableError:
            if not reached:
                raise
            wait_s = None
        except RefusedError as error:
            if error.status not in (429, 503):
                raise
            wait_s = error.retry_after_s
        pause(min(float(2**attempt) if wait_s is None else wait_s, MAX_WAIT_S))
    return call()


def _retry_after_s(answer: httpx.Response) -> float | None:
    value = answer.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None  # the form with a date is for caches


def _checked_url(url: str) -> str:
    """Return the address with a scheme and no slash at its end. Raises BadUrlError."""
    address = url.strip()
    if "://" not in address:
        address = f"http://{address}"
    try:
        parsed = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise BadUrlError(f"{url!r} is no address: {error}.", f"Write it like {DEFAULT_URL}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadUrlError(f"{url!r} is no address of a server.", f"Write it like {DEFAULT_URL}")
    return address.rstrip("/")


def _keepalive() -> list[tuple[int, int, int]]:
    """Socket options that find a dead peer in a minute and a half; a request may take longer than that."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):  # they are not on every system
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options
