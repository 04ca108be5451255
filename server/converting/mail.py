"""An e-mail as text: its plain part, or else what its HTML says."""

import contextlib
from collections.abc import Iterator
from datetime import UTC
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from typing import Any

from server.decoding import UnreadableError
from server.html_text import html_to_text

HEADERS = ("from", "to", "subject", "date", "received", "message-id")  # a mail has one of them at least


def read_mail(raw: bytes) -> tuple[str, str, dict[str, Any]]:
    """Return a mail's subject, its text, and who sent it when to whom, with the names of what is attached.

    Raises:
        UnreadableError: this is no mail, or one without a text.
    """
    mail = message_from_bytes(raw, policy=policy.default)
    if not any(name in mail for name in HEADERS):
        raise UnreadableError("is no e-mail: it has none of the headers that one has")
    plain, pages, attached = [], [], []
    for part in _leaves(mail):
        if (name := part.get_filename()) or part.get_content_maintype() != "text":
            attached.append(name or part.get_content_type())
        elif part.get_content_subtype() == "html":
            pages.append(html_to_text(_text(part))[1])
        else:
            plain.append(_text(part).replace("\r\n", "\n").strip())
    text = "\n\n".join(filter(None, plain)) or "\n\n".join(filter(None, pages))
    if not text:
        raise UnreadableError("has no text" + (", only attachments" if attached else ""))
    more: dict[str, Any] = {name: _header(mail, name) for name in ("from", "to")}
    more |= {"date": _date(mail), "attachments": attached}
    return _header(mail, "subject"), text, {name: value for name, value in more.items() if value}


def _leaves(mail: EmailMessage) -> Iterator[EmailMessage]:
    for part in mail.walk():
        if not part.is_multipart():
            yield part


def _text(part: EmailMessage) -> str:
    try:
        return str(part.get_content())
    except (LookupError, ValueError):  # a character set that nobody knows
        raw = part.get_payload(decode=True)
        return raw.decode(errors="replace") if isinstance(raw, bytes) else ""


def _header(mail: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(mail.get(name, "")).split())
    except (
        LookupError,
        ValueError,
        AttributeError,
        IndexError,
        TypeError,
    ):  # the parser's, for malformed ones
        return ""


def _date(mail: EmailMessage) -> str:
    """Return when it was sent, as ISO 8601 in UTC; "" where it doesn't say, or says nonsense."""
    with contextlib.suppress(ValueError, TypeError, OverflowError, IndexError):
        return parsedate_to_datetime(_header(mail, "date")).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return ""
