"""A small HTTP client for a running server."""

import contextlib
import json
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, NotRequired, Self, TypedDict, cast, final
from urllib.parse import quote

import httpx

from server.incoming import Document

DEFAULT_URL = "http://127.0.0.1:8000"
PAGE = 200  # documents in one answer; of long texts a few MB
CONNECT_TIMEOUT_S = 5.0
SEARCH_TIMEOUT_S = 60.0  # a search on a slow machine, behind a batch that is being encoded


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


@final  # so that a field tells it from AcceptedAnswer
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


class HitWords(TypedDict):
    """What the words of a hybrid search did for a hit: BM25, and its ranks by words and by meaning."""

    score: float | None
    rank: int | None
    meaning_rank: int | None
    fused: float


class HitExplain(TypedDict):
    """How a hit was found: its place among the candidates of the first pass, and in the end. Ranks from 1."""

    prefix_score: float | None
    prefix_rank: int | None
    rank: int
    words: HitWords | None


class Hit(TypedDict):
    """One document found."""

    id: str
    score: float
    text: NotRequired[str | None]
    metadata: NotRequired[dict[str, Any]]
    passage: Passage
    explain: NotRequired[HitExplain]


class SearchExplain(TypedDict):
    """What a search read, and how many of its leading hits are proved to be the best of all."""

    rows_read: int
    bytes_read: int
    cold_reads: int | None
    proved: int


class SearchAnswer(TypedDict):
    """Answer of POST /search."""

    hits: list[Hit]
    candidates: int
    certified: bool
    timings_ms: dict[str, float]
    explain: NotRequired[SearchExplain]
    warnings: list[str]


class JobProgress(TypedDict):
    """How far a job is; rate, in units a second, and eta_s are None where nobody can tell."""

    done: int
    total: int
    unit: str
    rate: float | None
    eta_s: float | None


class JobAnswer(TypedDict):
    """A job: status is waiting, running, paused, done, failed or cancelled."""

    id: str
    type: str
    status: str
    stage: str
    progress: JobProgress
    wishes: dict[str, Any]
    created_at: str
    error: str | None
    result: dict[str, Any] | None


@final
class AcceptedAnswer(TypedDict):
    """Answer of POST /documents where the documents are encoded later."""

    job: JobAnswer
    ids: list[str] | None
    warnings: list[str]


class CheckAnswer(TypedDict):
    """Something that was looked at: status is ok, warn or fail."""

    name: str
    status: str
    found: str
    advice: str


class ComparedAnswer(TypedDict):
    """Answer of POST /documents/compare."""

    same: int
    missing: list[str]
    different: list[str]


class DoctorAnswer(TypedDict):
    """Answer of GET /doctor."""

    ok: bool
    checks: list[CheckAnswer]


class GenerationAnswer(TypedDict):
    """A generation of vectors: state is current, retired or being filled."""

    generation: int
    state: str
    model: str
    precision: str
    dim: int
    rows: int
    deleted_at: str | None


class SnapshotAnswer(TypedDict):
    """A backup on the server; what follows error is missing where there is one."""

    name: str
    bytes: int
    error: str | None
    created_at: NotRequired[str]
    documents: NotRequired[int]
    model: NotRequired[str]
    damaged: NotRequired[int]


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

    def info(self) -> dict[str, Any]:
        """Return the server's description of itself."""
        return cast(dict[str, Any], self._json(self._send("GET", "/info")))

    def stats(self) -> dict[str, Any]:
        """Return the server's counts and sizes."""
        return cast(dict[str, Any], self._json(self._send("GET", "/stats")))

    def pages(self, vectors: str) -> Iterator[list[dict[str, Any]]]:
        """Yield all stored documents, page by page in id order; `vectors` as in GET /documents."""
        after: str | None = ""
        while after is not None:
            page = self._json(
                self._send("GET", f"/documents?limit={PAGE}&vectors={vectors}&after={quote(after, safe='')}")
            )
            yield page["documents"]
            after = page["next"]

    def doctor(self) -> DoctorAnswer:
        """Return what the server finds well and what it doesn't."""
        return cast(DoctorAnswer, self._json(self._send("GET", "/doctor")))

    def first_documents(self, limit: int) -> list[Document]:
        """Return up to `limit` stored documents, in id order."""
        page = self._json(self._send("GET", f"/documents?limit={limit}"))
        return cast(list[Document], page["documents"])

    def add(self, documents: Iterable[bytes], wait: bool = True) -> AddedAnswer | AcceptedAnswer:
        """Store documents, each already written as JSON. All of them are stored or, if this raises, none.

        Waits as long as the server works on it: a slow machine may encode for minutes. With wait=False, much text, or
        while the program is down that encodes for the server, they are accepted: safe there, and stored later.
        """
        body = b'{"documents":[' + b",".join(documents) + b"]}"
        path = "/documents" if wait else "/documents?wait=false"
        answer = self._json(self._send("POST", path, body, read_timeout_s=None))
        return cast(AcceptedAnswer, answer) if "job" in answer else cast(AddedAnswer, answer)

    def compare(self, hashes: Mapping[str, str | None]) -> ComparedAnswer:
        """Ask which documents the server has, by id with the hash of their text; None: whatever their content."""
        documents = [{"id": identifier, "hash": each} for identifier, each in hashes.items()]
        body = json.dumps({"documents": documents}).encode()
        return cast(ComparedAnswer, self._json(self._send("POST", "/documents/compare", body)))

    def delete(self, ids: Sequence[str]) -> int:
        """Remove documents; return how many of the ids existed."""
        answer = self._json(self._send("POST", "/documents/delete", json.dumps({"ids": ids}).encode()))
        return cast(int, answer["deleted"])

    def search(self, request: Mapping[str, Any]) -> SearchAnswer:
        """Answer a question."""
        return cast(SearchAnswer, json.loads(self.search_json(request)))

    def search_json(self, request: Mapping[str, Any]) -> str:
        """Answer a question with the server's JSON as it came."""
        answer = self._send("POST", "/search", json.dumps(request).encode())
        self._json(answer)
        return answer.text

    def rebuild(self, wishes: Mapping[str, Any]) -> JobAnswer:
        """Have the first pass made anew; what isn't wished for is as the server's settings say."""
        answer = self._json(self._send("POST", "/index/rebuild", json.dumps(wishes).encode()))
        return cast(JobAnswer, answer["job"])

    def compact(self) -> JobAnswer:
        """Have the vectors of deleted and replaced documents dropped."""
        return cast(JobAnswer, self._json(self._send("POST", "/index/compact"))["job"])

    def evaluate(self, wishes: Mapping[str, Any]) -> JobAnswer:
        """Have recall, or quality, measured; what comes of it stands in the job's result."""
        answer = self._json(self._send("POST", "/evaluate", json.dumps(wishes).encode()))
        return cast(JobAnswer, answer["job"])

    def job(self, identifier: str) -> JobAnswer:
        """Return how far a job is."""
        return cast(JobAnswer, self._json(self._send("GET", f"/jobs/{identifier}")))

    def jobs(self) -> list[JobAnswer]:
        """Return the jobs, the newest first."""
        return cast(list[JobAnswer], self._json(self._send("GET", "/jobs"))["jobs"])

    def control_job(self, identifier: str, how: str) -> JobAnswer:
        """Pause, resume or cancel a job."""
        return cast(JobAnswer, self._json(self._send("POST", f"/jobs/{identifier}/{how}")))

    def change_model(self, wishes: Mapping[str, Any]) -> JobAnswer:
        """Have every text encoded by another model."""
        answer = self._json(self._send("POST", "/index/reembed", json.dumps(wishes).encode()))
        return cast(JobAnswer, answer["job"])

    def roll_back(self) -> JobAnswer:
        """Go back to the model before."""
        return cast(JobAnswer, self._json(self._send("POST", "/index/rollback"))["job"])

    def generations(self) -> list[GenerationAnswer]:
        """Return the generations of vectors, the oldest first."""
        return cast(
            list[GenerationAnswer], self._json(self._send("GET", "/index/generations"))["generations"]
        )

    def forget_generation(self, number: int) -> None:
        """Delete a generation that served before."""
        self._send("DELETE", f"/index/generations/{number}")

    def back_up(self) -> JobAnswer:
        """Have the server make a backup; the job's result names it."""
        return cast(JobAnswer, self._json(self._send("POST", "/snapshots"))["job"])

    def snapshots(self) -> list[SnapshotAnswer]:
        """Return the backups that lie on the server, the oldest first."""
        return cast(list[SnapshotAnswer], self._json(self._send("GET", "/snapshots"))["snapshots"])

    def download_snapshot(self, name: str, into: IO[bytes], on_bytes: Callable[[int], None]) -> None:
        """Write a backup into a file; `on_bytes` is told how many bytes came."""
        with (
            self._named_failures(),
            self._http.stream(
                "GET",
                f"/snapshots/{name}",
                timeout=httpx.Timeout(SEARCH_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            ) as answer,
        ):
            if not answer.is_success:
                answer.read()
                raise self._refusal(answer)
            for block in answer.iter_bytes():
                into.write(block)
                on_bytes(len(block))

    def delete_snapshot(self, name: str) -> None:
        """Delete a backup on the server."""
        self._send("DELETE", f"/snapshots/{name}")

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
        with self._named_failures():
            answer = self._http.request(
                method,
                path,
                content=body,
                headers={"content-type": "application/json"} if body is not None else {},
                timeout=httpx.Timeout(read_timeout_s, connect=CONNECT_TIMEOUT_S),
            )
        if not answer.is_success:
            raise self._refusal(answer)
        return answer

    @contextlib.contextmanager
    def _named_failures(self) -> Iterator[None]:
        try:
            yield
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
