"""Looking into a document's metadata."""

import json
from collections.abc import Hashable
from typing import Any

from server.conditions import parse_path


def value_at(metadata: dict[str, Any], path: str) -> Hashable:
    """Return what stands at a path, as a filter has it, in a form that equal values share; a missing one is None.

    Raises:
        FilterError: the path can't be one.
    """
    for keys in parse_path(path, "group_by").places:
        found: Any = metadata
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                break
            found = found[key]
        else:
            return json.dumps(found, sort_keys=True)
    return None
