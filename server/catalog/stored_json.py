"""Reading JSON that this server wrote into the catalog."""

import json
from typing import Any

from server.errors import CatalogDamagedError


def read_json(text: str, what: str) -> Any:
    """Parse it. Raises CatalogDamagedError, which says what it was but not what stands there: it may be a user's."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise CatalogDamagedError(f"{what} can't be read from the catalog") from error
