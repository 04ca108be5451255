"""What comes of a file that was converted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Attachment:
    """Something that hangs on a mail and can be read: which of its parts, its name, and how it is read."""

    part: int
    name: str
    kind: str  # a suffix


@dataclass(frozen=True)
class Converted:
    """What a file says. `title` is "" where it has none; `metadata` is what else it tells of itself.

    The text may be "" only where there are attachments. Of a mail, `others` counts by suffix what isn't read.
    """

    title: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    others: dict[str, int] = field(default_factory=dict)


Reader = Callable[[BinaryIO], Converted]
