"""What is attached to a mail: asked for one after another, so that one that breaks or bursts costs only itself."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from server.converting.converted import Attachment, Converted
from server.converting.converter import Converter, NotReadNow
from server.decoding import UnreadableError
from server.incoming import OnSkip, Skipped

MAX_ATTACHMENTS = 100  # of one file, those of the mails in it among them
MAX_DEPTH = 5  # of mails in mails
MAX_TEXT_BYTES = 64 << 20  # of all; what is beyond comes from a bomb, or should be files
MAX_LIMITS = 2  # of all, in times the limit of one: one that hangs leaves as much for the others
ABOUT_MAIL = ("from", "to", "date")  # metadata of a mail that what is attached to it has too


@dataclass(frozen=True)
class Attached:
    """Something attached: where it hangs, and what it says.

    `anchor` is as `attachment/fwd.eml/attachment/plan.docx`, where no name comes twice; `titles` are the subjects of
    the mails that it hangs on and, unless it is a mail with a subject itself, its name.
    """

    anchor: str
    titles: tuple[str, ...]
    kind: str
    made: Converted
    metadata: dict[str, Any]


def attached_to(
    mail: Converted, path: Path, converter: Converter, on_skip: OnSkip, others: Counter[str]
) -> Iterator[Attached]:
    """Yield what is attached to a mail, and to mails that are; what can't be read is told to `on_skip`.

    Args:
        path: the mail's file.
        others: counts, by suffix, what isn't of a kind that is read.

    Raises:
        NotReadNow: at the end: something couldn't be read for a reason that isn't in the file.
    """
    reading = _Reading(path, converter, on_skip, others)
    try:
        yield from reading.attached(mail, (mail.title,))
    except _Enough as enough:
        reading.skip(enough.anchor, f"isn't read, nor what comes after it: {enough}")
    if reading.put_off:
        raise NotReadNow(f"what is attached isn't all read: {reading.put_off}")


class _Enough(Exception):
    """A bound is reached that holds for all of a mail's attachments; the text says which."""

    def __init__(self, anchor: str, words: str) -> None:
        super().__init__(words)
        self.anchor = anchor


@dataclass
class _Reading:
    """One mail's attachments, as far as they are read."""

    path: Path
    converter: Converter
    on_skip: OnSkip
    others: Counter[str]
    n_read: int = 0
    text_bytes: int = 0
    took_s: float = 0.0
    put_off: str = ""

    def attached(
        self, mail: Converted, titles: tuple[str, ...], parts: tuple[int, ...] = (), above: str = ""
    ) -> Iterator[Attached]:
        """Yield what is attached to a mail, which `parts` leads to and whose anchor `above` is. Raises _Enough."""
        self.others.update(mail.others)
        taken: set[str] = set()
        for each in mail.attachments:
            anchor = f"{above}attachment/{_not_taken(each.name, taken)}"
            if len(parts) == MAX_DEPTH:
                self.skip(
                    anchor, f"isn't read, nor what is beside it: mails in mails are read {MAX_DEPTH} deep"
                )
                return
            self._check_bounds(anchor)
            here = (*parts, each.part)
            made = self._converted(anchor, each, here)
            if made and each.kind == ".eml":
                with_own = (*titles, made.title or each.name)
                above_it = titles if made.title else with_own
                yield Attached(anchor, above_it, each.kind, made, _about(made, each) | made.metadata)
                yield from self.attached(made, with_own, here, f"{anchor}/")
            elif made:
                yield Attached(anchor, (*titles, each.name), each.kind, made, _about(mail, each))

    def skip(self, anchor: str, why: str) -> None:
        """Tell what isn't read, and why."""
        self.on_skip(Skipped(f"{self.path}#{anchor}", why))

    def _check_bounds(self, anchor: str) -> None:
        may_take_s = MAX_LIMITS * self.converter.limit_s
        if self.n_read >= MAX_ATTACHMENTS:
            raise _Enough(anchor, f"one mail may have {MAX_ATTACHMENTS} attachments")
        if self.text_bytes > MAX_TEXT_BYTES:
            raise _Enough(anchor, f"one mail's attachments may have {MAX_TEXT_BYTES >> 20} MiB of text")
        if self.took_s > may_take_s:
            raise _Enough(anchor, f"one mail's attachments may take {may_take_s:g} s to convert")

    def _converted(self, anchor: str, each: Attachment, parts: tuple[int, ...]) -> Converted | None:
        self.n_read += 1
        began = time.monotonic()
        try:
            made = self.converter.convert(self.path, parts, each.kind)
        except UnreadableError as error:
            self.skip(anchor, str(error))
            return None
        except NotReadNow as error:
            self.put_off = self.put_off or str(error)
            return None
        finally:
            self.took_s += time.monotonic() - began
        self.text_bytes += len(made.text.encode())
        return made


def _about(mail: Converted, attachment: Attachment) -> dict[str, Any]:
    """Return what leads from an attachment back to its mail."""
    about = {"attachment": attachment.name, "subject": mail.title}
    about |= {name: mail.metadata[name] for name in ABOUT_MAIL if name in mail.metadata}
    return {name: value for name, value in about.items() if value}


def _not_taken(name: str, taken: set[str]) -> str:
    """Return a name, with a number before its suffix where others have it already."""
    path, number, free = PurePosixPath(name), 2, name
    while free in taken:
        free = f"{path.stem}-{number}{path.suffix}"
        number += 1
    taken.add(free)
    return free
