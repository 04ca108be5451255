"""The error tree of this floor. Every class here is turned into one HTTP answer by server/errors.py."""


class IndexFault(Exception):
    """Root of every error that index/ raises on purpose."""


class VectorError(IndexFault):
    """A vector can't be used: wrong length, not finite, or of zero length."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position  # which of the vectors given, counted from 0; None = all of them


class PrefixError(IndexFault):
    """The prefix length doesn't fit the vectors."""


class PlanError(IndexFault):
    """A first pass can't be made as wished: the wishes contradict each other."""


class LockedError(IndexFault):
    """Another process writes in this data directory."""


class DiskFullError(IndexFault):
    """The disk has no room; what was being written is undone."""


class MemoryFullError(IndexFault):
    """What was asked for would take more memory than there is; nothing of it was begun."""


class StorageError(IndexFault):
    """A file can't be read or written, for another reason than a full disk."""
