"""The process that converts files: `python -m server.converting.process`.

It reads requests from standard input and answers on standard output, a line of JSON each:

    {"path": "/home/me/paper.pdf", "parts": [], "kind": ".pdf", "limit_s": 300, "memory_bytes": 1073741824}
    {"title": "…", "text": "…", "metadata": {}, …}   or   {"error": "…"}   or   {"missing": true}

`parts` leads to what is attached to a mail: [3] is its part 3, [3, 1] part 1 of the mail that part 3 is.

A file may be hostile: 40 kB of a page can keep Python's own parser busy for half a minute. While one is read, the
process has no network, starts no other programs and writes nothing, and its memory and processor time are bounded. It
ends when its input does.
"""

import contextlib
import io
import json
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

from server.background import stand_back
from server.converting.converted import Converted, Reader
from server.converting.kinds import TEXTS
from server.converting.mail import content_attached, read_mail
from server.decoding import MAX_DOCUMENT_BYTES, UnreadableError, decode, is_too_large, read_all
from server.html_text import html_to_text

REFUSED = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill", "os.remove",
    "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "shutil.",
    "urllib.", "ftplib.", "smtplib.", "webbrowser.", "ctypes.dlopen",
)  # fmt: skip
"""Audit events that reading a file has no need of."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
SPARE_CPU_S = 10  # beyond the time that the other end waits: only where that end is gone does this count
MAX_MAIL_BYTES = 64 << 20  # with all that is attached; taking one apart needs some six times that as memory


def main() -> None:
    """Answer requests until there are no more."""
    stand_back()
    # What a library prints must not get among the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.dont_write_bytecode = True
    guard = Guard()
    sys.addaudithook(guard)
    for line in sys.stdin:
        wanted = json.loads(line)
        try:
            read = reader_of(wanted["kind"])  # what it imports isn't held to a file's bounds
            with bounded(wanted["limit_s"], wanted["memory_bytes"]), guard:
                answer = converted(Path(wanted["path"]), wanted["parts"], wanted["kind"], read)
        except ModuleNotFoundError:
            answer = {"missing": True}
        except MemoryError:
            limit = wanted["memory_bytes"] >> 20
            answer = {"error": f"takes more than {limit} MiB of memory to convert", "ends": True}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if "ends" in answer:
            os._exit(1)  # what is left of it isn't worth keeping


class Guard:
    """While entered, refuses what reading a file has no need of; Python calls it before any such thing happens."""

    def __init__(self) -> None:
        self._is_on = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise PermissionError for an audit event that is refused."""
        if self._is_on:
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
            if writes or event.startswith(REFUSED):
                raise PermissionError(f"a file that is converted may not do this: {event}")

    def __enter__(self) -> None:
        self._is_on = True

    def __exit__(self, *_: object) -> None:
        self._is_on = False


def reader_of(kind: str) -> Reader:
    """Return what reads files of a kind, given as a suffix. Raises ModuleNotFoundError where it isn't installed."""
    if kind in TEXTS:
        return read_text
    if kind in (".html", ".htm"):
        return read_page
    if kind == ".eml":
        return read_mail_stream
    from server.converting.office import reader_of as office_reader

    return office_reader(kind)


def read_text(stream: BinaryIO) -> Converted:
    """Return a text as it is. Raises UnreadableError, OSError."""
    return Converted("", decode(read_all(stream)))


def read_page(stream: BinaryIO) -> Converted:
    """Return what a web page says. Raises UnreadableError, OSError."""
    return Converted(*html_to_text(decode(read_all(stream))))


def read_mail_stream(stream: BinaryIO) -> Converted:
    """Return what a mail says. Raises UnreadableError, OSError."""
    return read_mail(mail_bytes(stream))


def mail_bytes(stream: BinaryIO) -> bytes:
    """Return a whole mail. Raises UnreadableError, OSError."""
    raw = stream.read(MAX_MAIL_BYTES + 1)
    if len(raw) > MAX_MAIL_BYTES:
        raise UnreadableError(f"is larger than a mail may be ({MAX_MAIL_BYTES >> 20} MiB)")
    return raw


def opened(path: Path, parts: Sequence[int]) -> BinaryIO:
    """Open a file, or what `parts` leads to in it. Raises UnreadableError, OSError."""
    stream: BinaryIO = path.open("rb")
    for part in parts:
        with stream:
            raw = mail_bytes(stream)
        stream = io.BytesIO(content_attached(raw, part))
    return stream


def converted(path: Path, parts: Sequence[int], kind: str, read: Reader) -> dict[str, Any]:
    """Return what a file says, or why it can't be told. Raises MemoryError, ModuleNotFoundError."""
    try:
        with opened(path, parts) as stream:
            made = read(stream)
    except (MemoryError, ModuleNotFoundError):
        raise
    except UnreadableError as error:
        return {"error": str(error)}
    except OSError as error:
        if error.filename == str(path):
            return {"unread": error.strerror or str(error)}
        return {"error": reason(error)}
    except RecursionError:
        return {"error": "can't be converted: it is nested too deep"}
    except Exception as error:  # noqa: BLE001  # whatever a broken file makes a library raise
        return {"error": reason(error)}
    text = made.text.encode(errors="replace")  # half a surrogate pair would be no JSON
    if not text.strip() and not made.attachments:
        scanned = "; if it is scanned, it needs text recognition first" if kind == ".pdf" else ""
        return {"error": f"has no text{scanned}"}
    if is_too_large(text):
        return {
            "error": f"its text is larger than a request may be ({MAX_DOCUMENT_BYTES >> 20} MiB); split it"
        }
    return asdict(replace(made, text=text.decode()))


def reason(error: Exception) -> str:
    """Return why a file can't be converted, on one line."""
    words = " ".join(str(error).split())[:200]
    kind = type(error).__name__
    return f"can't be converted ({kind}: {words})" if words else f"can't be converted ({kind})"


@contextlib.contextmanager
def bounded(limit_s: float, memory_bytes: int) -> Iterator[None]:
    """Until it is left, bound what a file may take: memory beyond what is used now, and processor time."""
    before = {each: resource.getrlimit(each) for each in (resource.RLIMIT_AS, resource.RLIMIT_CPU)}
    with contextlib.suppress(OSError, ValueError):
        used_pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = used_pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, before[resource.RLIMIT_AS][1]))
    with contextlib.suppress(OSError, ValueError):
        usage = resource.getrusage(resource.RUSAGE_SELF)
        most_s = int(usage.ru_utime + usage.ru_stime + limit_s + SPARE_CPU_S)
        resource.setrlimit(resource.RLIMIT_CPU, (most_s, before[resource.RLIMIT_CPU][1]))
    try:
        yield
    finally:
        for each, limits in before.items():
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(each, limits)


if __name__ == "__main__":
    main()
