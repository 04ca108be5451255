"""An e-mail as text: its plain part, or else what its HTML says; and what is attached to it."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC
from email import message_from_bytes, policy
from email.errors import InvalidBase64LengthDefect
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from functools import lru_cache
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from server.converting.converted import Attachment, Converted
from server.converting.kinds import kind_attached
from server.decoding import UnreadableError
from server.html_text import html_to_text

HEADERS = ("from", "to", "subject", "date", "received", "message-id")  # a mail has one of them at least
BODY = frozenset({"text/plain", "text/markdown", "text/x-patch", "text/x-diff", "text/html"})
MAX_NAME_BYTES = 120  # of UTF-8; a name becomes part of an id
MAX_NAMES = 100  # in the metadata, of which a server takes 64 KiB
MALFORMED = (LookupError, ValueError, AttributeError, TypeError)
"""What the parser of headers raises for malformed ones."""


class Part(EmailMessage):
    """A mail or a part of one. A message in it stays the bytes that it is, so that nothing is nested too deep."""

    def get_content_maintype(self) -> str:
        """Return text, multipart, …; the parser goes into what says that it is a message, so none does."""
        kind = super().get_content_maintype()
        return "application" if kind == "message" else kind


def read_mail(raw: bytes) -> Converted:
    """Return what a mail says, who sent it when to whom, and what is attached to it.

    Raises:
        UnreadableError: this is no mail, or one with nothing to read.
    """
    mail = _parsed(raw)
    if not any(name in mail for name in HEADERS):
        raise UnreadableError("is no e-mail: it has none of the headers that one has")
    plain: list[str] = []
    pages: list[str] = []
    names: list[str] = []
    attachments: list[Attachment] = []
    others: Counter[str] = Counter()
    for number, part in enumerate(_leaves(mail)):
        name, content_type, is_attached = _described(part)
        if is_attached:
            names.append(name or content_type[:MAX_NAME_BYTES])
            if kind := kind_attached(name, content_type):
                attachments.append(Attachment(number, name or _unnamed(kind), kind))
            else:
                others[_suffix(name)] += 1
        elif content_type == "text/html":
            pages.append(html_to_text(_text(part))[1])
        else:
            plain.append(_text(part).replace("\r\n", "\n").strip())
    text = "\n\n".join(filter(None, plain)) or "\n\n".join(filter(None, pages))
    if not text and not attachments:
        raise UnreadableError("has no text" + (", only attachments" if names else ""))
    more: dict[str, Any] = {name: _header(mail, name) for name in ("from", "to")}
    more |= {"date": _date(mail), "attachments": names[:MAX_NAMES]}
    more = {name: value for name, value in more.items() if value}
    return Converted(_header(mail, "subject"), text, more, tuple(attachments), dict(others))


def content_attached(raw: bytes, number: int) -> bytes:
    """Return what one part of a mail holds; a text in another charset than UTF-8, that it names, as UTF-8.

    Raises:
        UnreadableError: there is no such part, or it can't be decoded.
    """
    part = next(islice(_leaves(_parsed(raw)), number, None), None)
    content = part.get_payload(decode=True) if part is not None else None
    if part is None or not isinstance(content, bytes):
        raise UnreadableError("isn't there any more: the mail has changed")
    if any(isinstance(defect, InvalidBase64LengthDefect) for defect in part.defects):
        raise UnreadableError("can't be decoded: its base64 is broken")
    charset = str(part.get_content_charset("utf-8"))
    if part.get_content_maintype() == "text" and charset not in ("utf-8", "us-ascii"):
        return _text(part).encode(errors="replace")
    return content


# What is attached is asked for one by one: of 21 MiB with 8 attachments, taking it apart each time took 3 s more.
@lru_cache(maxsize=2)  # a mail, and one that is attached to it
def _parsed(raw: bytes) -> EmailMessage:
    return message_from_bytes(raw, Part, policy=policy.default)


def _leaves(mail: EmailMessage) -> Iterator[EmailMessage]:
    for part in mail.walk():
        if not part.is_multipart():
            yield part


def _described(part: EmailMessage) -> tuple[str, str, bool]:
    """Return a part's name, "" where it has none, its type, and whether it is attached rather than the mail's text."""
    content_type = part.get_content_type()
    try:
        name = part.get_filename() or ""
        is_attached = bool(name) or part.get_content_disposition() == "attachment" or content_type not in BODY
    except MALFORMED:
        return "", content_type, True
    return _clean(name), content_type, is_attached


def _clean(name: str) -> str:
    """Return a name without folders and without what can't be printed, such as signs that turn writing around."""
    name = re.split(r"[/\\]", name)[-1]
    name = " ".join("".join(each if each.isprintable() else " " for each in name).split()).lstrip(".")
    suffix = PurePosixPath(name).suffix
    if len(suffix) > 10:  # no kind of file, but a sentence with a full stop in it
        suffix = ""
    stem = name.removesuffix(suffix).encode()
    return stem[: MAX_NAME_BYTES - len(suffix.encode())].decode(errors="ignore") + suffix


def _unnamed(kind: str) -> str:
    return "message.eml" if kind == ".eml" else f"unnamed{kind}"


def _suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if 2 <= len(suffix) <= 10 else "no suffix"


def _text(part: EmailMessage) -> str:
    try:
        return str(part.get_content())
    except (LookupError, ValueError):  # a character set that nobody knows
        raw = part.get_payload(decode=True)
        return raw.decode(errors="replace") if isinstance(raw, bytes) else ""


def _header(mail: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(mail.get(name, "")).split())
    except MALFORMED:
        return ""


def _date(mail: EmailMessage) -> str:
    """Return when it was sent, as ISO 8601 in UTC; "" where it doesn't say, or says nonsense."""
    with contextlib.suppress(ValueError, TypeError, OverflowError, IndexError):
        return parsedate_to_datetime(_header(mail, "date")).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return ""
