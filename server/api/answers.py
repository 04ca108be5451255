"""Answers are validated once, where they are built, and serialised once, here."""

from typing import Any

import numpy as np
from fastapi import Response
from pydantic import BaseModel
from pydantic_core import to_json


def answer(content: BaseModel | dict[str, Any], status: int = 200) -> Response:
    """Return content as JSON.

    A route that returned a model would have FastAPI validate and copy it once more. One that returns this names its
    model as `response_model`, which then is for OpenAPI only.
    """
    return Response(to_json(content, fallback=_plain), status, media_type="application/json")


def _plain(value: Any) -> Any:
    """Python's own number for one of numpy's: `np.bool_` is no `bool`, and slips through type hints as one."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__qualname__} has no place in JSON")
