"""Checks on what clients send, shared by ingest and search."""

from index.errors import VectorError
from index.vectors import Float32, check_vectors, normalise
from server.errors import BadVectorError, InputError, TooLargeError


def check_count(n: int, what: str, limit: int, setting: str) -> None:
    """Raise TooLargeError where one request brings more of something than the setting of limits allows."""
    if n > limit:
        raise TooLargeError(
            f"{n} {what} in one request; the limit is {limit}",
            f"Split it into several requests, or raise limits.{setting}.",
        )


def check_utf8(text: str, where: str) -> bytes:
    """Encode, or say where half a character stands (JSON can spell it, as \\ud800)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"character {error.start} is half of a surrogate pair, which is no text", where
        ) from error


def unit_vector(vector: Float32, dim: int, where: str) -> Float32:
    """Check and normalise one client's vector: (dim,) float32."""
    try:
        unit: Float32 = normalise(check_vectors(vector[None], dim))[0]
    except VectorError as error:
        raise BadVectorError(str(error), where) from error
    return unit
