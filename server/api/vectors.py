"""Vectors over the wire: an array of numbers, or the base64 of their bytes, which is a third as long."""

import binascii
from array import array
from typing import Annotated, Any

import numpy as np
from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from index.vectors import Float32

FLOAT32_BYTES = 4


class _Wire:
    """Tells pydantic how to read and describe a vector."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        numbers = handler.generate_schema(list[Annotated[float, Field(strict=True)]])
        return core_schema.no_info_wrap_validator_function(_read, numbers)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {
            "anyOf": [
                {"type": "array", "items": {"type": "number"}},
                {"type": "string", "contentEncoding": "base64", "format": "byte"},
            ]
        }


Vector = Annotated[Float32, _Wire]
"""(dim,) float32, not checked: the service knows the dimension, and refuses what isn't finite."""


def encoded(vector: Float32) -> str:
    """Return a vector, (dim,), as base64 of little-endian float32."""
    return binascii.b2a_base64(vector.astype("<f4").tobytes(), newline=False).decode("ascii")


def _read(value: Any, numbers: core_schema.ValidatorFunctionWrapHandler) -> Float32:
    """Pack a vector as soon as it is read: a batch of Python floats takes six times the memory."""
    if isinstance(value, str):
        return _decoded(value)
    if not isinstance(value, list):
        raise PydanticCustomError(
            "vector_type", "Input should be an array of numbers, or base64 of little-endian float32"
        )
    # array makes an infinity of 1e300, which the service refuses; numpy would also warn, which takes as long again.
    return np.frombuffer(array("f", numbers(value)), np.float32)


def _decoded(text: str) -> Float32:
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        why = str(error)[:1].lower() + str(error)[1:]
        raise PydanticCustomError(
            "base64", "Input should be base64 of little-endian float32: {why}", {"why": why}
        ) from error
    if len(raw) % FLOAT32_BYTES:
        raise PydanticCustomError(
            "base64_length",
            "Input should be base64 of little-endian float32, 4 bytes a number; it holds {n_bytes} bytes",
            {"n_bytes": len(raw)},
        )
    return np.frombuffer(raw, "<f4").astype(np.float32)
