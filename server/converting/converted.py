"""What comes of a file that was converted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Converted:
    """What a file says. `title` is "" where it has none; `metadata` is what else it tells of itself."""

    title: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


Reader = Callable[[Path], Converted]
