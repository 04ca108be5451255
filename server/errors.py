"""The error tree of this floor, and the one table from error to HTTP answer.

Every error that twopass raises on purpose stands in ANSWERS; a test walks the trees and fails on one that is
missing. The body is always application/problem+json (RFC 9457) with our `code`, `hint` and `request_id`.
"""

from dataclasses import dataclass
from typing import Any

from index import errors as index_errors
from server.encoders import errors as encoder_errors


class ServiceError(Exception):
    """Root of the errors that server/ raises on purpose. `hint` overrides the table's."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class StartupError(ServiceError):
    """The server can't start with these settings and this data."""


class ModelChangedError(StartupError):
    """The stored vectors were made by another model than the one that is set."""


class FormatError(StartupError):
    """The data was written in a format that this version doesn't know."""


class CatalogDamagedError(StartupError):
    """The catalog is damaged or is no catalog."""


class BackupDamagedError(ServiceError):
    """A file is no backup, or isn't as it was written."""


class InputError(ServiceError):
    """A field of the request is wrong. `where` names it, as in documents[2].vector."""

    def __init__(self, message: str, where: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.where = where


class DuplicateIdError(InputError):
    """One request brings the same id twice."""


class NoEncoderError(InputError):
    """Text came, but the server has no model to encode it with."""


class BadVectorError(InputError):
    """A vector of the request can't be used."""


class FilterError(InputError):
    """A filter on metadata can't be understood."""


class MediaTypeError(ServiceError):
    """The body is of a type that the route doesn't read."""


class TooLargeError(ServiceError):
    """More in one request than a limit allows; the limit is in the text."""


class NotHttpError(ServiceError):
    """What a client sent can't be parsed as HTTP."""


class HeadTooLongError(ServiceError):
    """The head of a request, or what stands behind its body, has no end."""


class SlowClientError(ServiceError):
    """A client was silent in the middle of its request."""


class InputTooLongError(InputError):
    """A text to be encoded is longer than the model reads."""


class NotFoundError(ServiceError):
    """There is no such document."""


class UnknownModelError(NotFoundError):
    """A request names a model that isn't served here."""


class JobStateError(ServiceError):
    """The job can't do what is asked of it, as it stands or at all."""


class UnauthorizedError(ServiceError):
    """The key is missing or wrong."""


class ReadOnlyKeyError(ServiceError):
    """The key is right, but may only read."""


class ForeignSiteError(ServiceError):
    """A browser sent the request for a page of another site, and no key is asked for."""


class StaleWriteError(ServiceError):
    """A document changed between reading and writing it; the write is tried again."""


class ConflictError(ServiceError):
    """What is asked for doesn't go together with what is under way."""


class GenerationChangedError(ServiceError):
    """Another generation of vectors took over while this was being written; it is written again, into that one."""


class BusyError(ServiceError):
    """More requests wait than the server lets wait."""


class StoppingError(ServiceError):
    """The server is shutting down."""


@dataclass(frozen=True)
class Answer:
    """How an error is told."""

    status: int
    code: str
    title: str
    hint: str


START_AGAIN = "Restart the server; if it happens again, run `twopass verify`."

ANSWERS: dict[type[Exception], Answer] = {
    index_errors.IndexFault: Answer(500, "index_failed", "The index failed", START_AGAIN),
    index_errors.VectorError: Answer(
        422, "invalid_vector", "The vector can't be used",
        "Send finite numbers, as many as GET /info says under dim, not all of them zero.",
    ),
    index_errors.PrefixError: Answer(
        422, "invalid_prefix", "The prefix doesn't fit", "Choose a prefix_dim from 1 to the vectors' dimension."
    ),
    index_errors.PlanError: Answer(
        422, "invalid_plan", "The wishes contradict each other", "Leave kind or codec out, or set one to auto."
    ),
    index_errors.LockedError: Answer(
        409, "locked", "The data directory is in use",
        "Stop the other server, or give this one another folder: TWOPASS_DATA_DIR=… twopass serve",
    ),
    index_errors.DiskFullError: Answer(
        507, "disk_full", "The disk is full",
        "Nothing of this request was stored and searches go on. Free some room and send it again.",
    ),
    index_errors.MemoryFullError: Answer(
        507, "memory_full", "There is not enough memory",
        "Nothing of this request was stored and searches go on. Raise index.memory_budget, or the memory limit of the "
        "container; or delete documents and run `twopass compact`. `twopass doctor` says what takes how much.",
    ),
    index_errors.StorageError: Answer(503, "storage_failed", "The disk didn't answer", START_AGAIN),
    encoder_errors.EncoderError: Answer(500, "encoding_failed", "The model failed", START_AGAIN),
    encoder_errors.ModelNotFound: Answer(
        424, "model_not_found", "The model isn't there", "Set TWOPASS_ENCODER__MODEL to bundled or to a folder."
    ),
    encoder_errors.ModelDamaged: Answer(
        424, "model_damaged", "The model's files are damaged", "Install or download the model again."
    ),
    encoder_errors.ModelNotSupported: Answer(
        424, "model_not_supported", "The model can't be used", "Set TWOPASS_ENCODER__MODEL to another model."
    ),
    encoder_errors.EncodingFailed: Answer(500, "encoding_failed", "The model failed", START_AGAIN),
    encoder_errors.TextNotEncodable: Answer(
        422, "text_not_encodable", "A text can't be encoded", "Leave the text out or change it; nothing was stored."
    ),
    encoder_errors.EncoderUnavailable: Answer(
        503, "encoder_unavailable", "The model isn't available", "Try again in a few seconds."
    ),
    encoder_errors.RemoteEncoderDown: Answer(
        424, "encoder_down", "The program that encodes is down",
        "Start it, or see encoder.url in the settings. Texts that wait are encoded as soon as it is back.",
    ),
    encoder_errors.RemoteEncoderRefused: Answer(
        424, "encoder_refused", "The program that encodes refused",
        "Compare encoder.url, encoder.model and encoder.api_key with what that program expects.",
    ),
    encoder_errors.ExportFailed: Answer(
        424, "export_failed", "The model can't be exported", "Set TWOPASS_ENCODER__BACKEND=torch: no export is needed."
    ),
    encoder_errors.TorchMissing: Answer(
        424, "torch_missing", "The model needs torch, which isn't installed",
        "Use the full image, or a model that was exported elsewhere: twopass models export NAME",
    ),
    encoder_errors.EncodingStopped: Answer(
        503, "shutting_down", "The server is shutting down",
        "Nothing of this request was stored. Send it again when the server is back.",
    ),
    ServiceError: Answer(500, "failed", "The request failed", START_AGAIN),
    StartupError: Answer(503, "not_ready", "The server can't start", "See the server's log."),
    ModelChangedError: Answer(
        409, "model_changed", "The data belongs to another model", "Set the model back to the one that made the data."
    ),
    FormatError: Answer(409, "format_unknown", "The data has another format", "Use the newer twopass."),
    CatalogDamagedError: Answer(
        503, "catalog_damaged", "The catalog is damaged",
        "Put back a backup: twopass restore FILE --replace. Without one, move the data away and ingest again.",
    ),
    BackupDamagedError: Answer(
        422, "backup_damaged", "The backup can't be used",
        "Nothing was changed. Take another copy of it, or an older one.",
    ),
    InputError: Answer(422, "invalid", "A field is wrong", "Correct the field; nothing was stored."),
    DuplicateIdError: Answer(
        422, "duplicate_id", "An id stands twice in one request",
        "Send each id once per request; nothing was stored. In later requests the later document replaces the earlier.",
    ),
    NoEncoderError: Answer(
        422, "no_encoder", "There is no model to encode text",
        "Send a vector, or start the server with a model: TWOPASS_ENCODER__MODEL=bundled",
    ),
    BadVectorError: Answer(
        422, "invalid_vector", "The vector can't be used",
        "Send finite numbers, as many as GET /info says under dim, not all of them zero.",
    ),
    FilterError: Answer(
        422, "invalid_filter", "The filter can't be understood",
        'Write it as {"field": {"$operator": value}}; docs/http.md lists the operators.',
    ),
    MediaTypeError: Answer(
        415, "media_type", "The body has another type", "Send the header `Content-Type: application/json`."
    ),
    TooLargeError: Answer(413, "too_large", "The request is too large", "Split it into several requests."),
    NotHttpError: Answer(
        400, "not_http", "The request isn't HTTP", "Send HTTP/1.1; for HTTPS put a proxy in front, as docker/ has one."
    ),
    HeadTooLongError: Answer(
        431, "head_too_long", "The request's head is too long", "Send what is long in the body; POST /search takes one."
    ),
    SlowClientError: Answer(
        408, "too_slow", "The client was silent in the middle of its request",
        "Nothing of this request was stored. Send it again, without a pause, or raise limits.silence_s.",
    ),
    InputTooLongError: Answer(
        422, "context_length_exceeded", "A text is longer than the model reads", "Split it; nothing was cut."
    ),
    NotFoundError: Answer(404, "not_found", "Not found", "GET /documents lists the ids."),
    UnknownModelError: Answer(404, "unknown_model", "There is no such model here", "GET /v1/models lists it."),
    JobStateError: Answer(409, "job_state", "The job can't do that", "GET /jobs tells how it stands."),
    UnauthorizedError: Answer(
        401, "unauthorized", "The key is missing or wrong",
        "Send the header `Authorization: Bearer <key>`, or `api-key: <key>`.",
    ),
    ReadOnlyKeyError: Answer(403, "read_only_key", "The key may only read", "Send the key that may do everything."),
    ForeignSiteError: Answer(
        403, "foreign_site", "Another site's page asks", "Call the server by its address, or set a key."
    ),
    StaleWriteError: Answer(409, "changed_meanwhile", "The document changed meanwhile", "Send the request again."),
    ConflictError: Answer(409, "conflict", "Something else is under way", "GET /jobs lists what is under way."),
    GenerationChangedError: Answer(409, "changed_meanwhile", "The data changed meanwhile", "Send the request again."),
    BusyError: Answer(
        429, "busy", "Too many requests are waiting",
        "Send it again after the seconds in the header Retry-After; limits.waiting_requests says how many may wait.",
    ),
    StoppingError: Answer(
        503, "shutting_down", "The server is shutting down",
        "Nothing of this request was stored. Send it again when the server is back.",
    ),
}  # fmt: skip

RETRY_AFTER_S = {429: "1", 503: "5"}


def answer_for(error: Exception) -> Answer | None:
    """Return the table's answer for the error's nearest class, or None if it isn't one of ours."""
    for kind in type(error).__mro__:
        if kind in ANSWERS:
            return ANSWERS[kind]
    return None


def problem(
    answer: Answer, detail: str, request_id: str, hint: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return the body of an error."""
    return {
        "type": f"urn:twopass:problem:{answer.code}",
        "title": answer.title,
        "status": answer.status,
        "detail": detail,
        "code": answer.code,
        "hint": hint or answer.hint,
        "request_id": request_id,
        **more,
    }
