"""Kinds of files, by their suffix: which are converted, and which are read where they hang on a mail."""

from pathlib import PurePosixPath

CONVERTED = frozenset({".html", ".htm", ".eml", ".pdf", ".docx", ".pptx", ".xlsx", ".epub", ".msg"})
TEXTS = frozenset({".txt", ".md", ".rst"})
HEADED = frozenset({".md", ".docx", ".pptx", ".xlsx", ".epub"})
"""What is Markdown, as it is or once converted; in the others a line that begins with # is no heading."""

# Lines of JSON are none: a stranger's attachment must not bring documents with ids of its own.
ATTACHED = CONVERTED | TEXTS
BESIDE = frozenset({".p7s", ".p7m", ".asc", ".sig", ".ics", ".vcf"})
"""Signatures, invitations and cards: nothing to read, even where they say that they are plain text."""

OFFICE = "application/vnd.openxmlformats-officedocument"
TYPES = {
    "text/plain": ".txt", "text/x-patch": ".txt", "text/x-diff": ".txt", "text/x-rst": ".rst",
    "text/markdown": ".md", "text/x-markdown": ".md",
    "text/html": ".html", "application/xhtml+xml": ".html",
    "application/pdf": ".pdf", "application/x-pdf": ".pdf",
    f"{OFFICE}.wordprocessingml.document": ".docx", f"{OFFICE}.presentationml.presentation": ".pptx",
    f"{OFFICE}.spreadsheetml.sheet": ".xlsx", "application/epub+zip": ".epub",
    "message/rfc822": ".eml", "message/global": ".eml", "application/vnd.ms-outlook": ".msg",
}  # fmt: skip


def kind_attached(name: str, content_type: str) -> str:
    """Return the suffix that stands for how an attachment is read, "" where it isn't.

    A name tells more than a type: much is sent as application/octet-stream, and some under another's type.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in BESIDE:
        return ""
    if suffix in ATTACHED and not content_type.startswith("message/"):
        return suffix
    return TYPES.get(content_type, "")
