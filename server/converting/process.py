"""The process that converts files: `python -m server.converting.process`.

It reads requests from standard input and answers on standard output, a line of JSON each:

    {"path": "/home/me/paper.pdf", "limit_s": 300, "memory_bytes": 1073741824}
    {"title": "…", "text": "…", "metadata": {}}   or   {"error": "…"}   or   {"missing": true}

A file may be hostile: 40 kB of a page can keep Python's own parser busy for half a minute. While one is read, the
process has no network, starts no other programs and writes nothing, and its memory and processor time are bounded. It
ends when its input does.
"""

import contextlib
import json
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.background import stand_back
from server.converting.converted import Converted, Reader
from server.converting.mail import read_mail
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
        path = Path(wanted["path"])
        try:
            convert = reader_of(path.suffix.lower())
            bound(wanted["limit_s"], wanted["memory_bytes"])
            with guard:
                answer = converted(path, convert)
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


def reader_of(suffix: str) -> Reader:
    """Return what reads files of this kind. Raises ModuleNotFoundError where it isn't installed."""
    if suffix in (".html", ".htm"):
        return read_page_file
    if suffix == ".eml":
        return read_mail_file
    from server.converting.office import reader_of as office_reader

    return office_reader(suffix)


def read_page_file(path: Path) -> Converted:
    """Return what a web page says. Raises UnreadableError, OSError."""
    with path.open("rb") as file:
        return Converted(*html_to_text(decode(read_all(file))))


def read_mail_file(path: Path) -> Converted:
    """Return what a mail says. Raises UnreadableError, OSError."""
    with path.open("rb") as file:
        raw = read_all(file)
    if is_too_large(raw):
        raise UnreadableError(f"is larger than a mail may be ({MAX_DOCUMENT_BYTES >> 20} MiB)")
    return Converted(*read_mail(raw))


def converted(path: Path, read: Reader) -> dict[str, Any]:
    """Return what a file says, or why it can't be told. Raises MemoryError, ModuleNotFoundError."""
    try:
        made = read(path)
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
    if not text.strip():
        scanned = (
            "; if it is scanned, it needs text recognition first" if path.suffix.lower() == ".pdf" else ""
        )
        return {"error": f"has no text{scanned}"}
    if is_too_large(text):
        return {
            "error": f"its text is larger than a request may be ({MAX_DOCUMENT_BYTES >> 20} MiB); split it"
        }
    return vars(replace(made, text=text.decode()))


def reason(error: Exception) -> str:
    """Return why a file can't be converted, on one line."""
    words = " ".join(str(error).split())[:200]
    kind = type(error).__name__
    return f"can't be converted ({kind}: {words})" if words else f"can't be converted ({kind})"


def bound(limit_s: float, memory_bytes: int) -> None:
    """Bound what the next file may take: memory beyond what is used now, and processor time."""
    with contextlib.suppress(OSError, ValueError):
        used_pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = used_pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with contextlib.suppress(OSError, ValueError):
        usage = resource.getrusage(resource.RUSAGE_SELF)
        most_s = int(usage.ru_utime + usage.ru_stime + limit_s + SPARE_CPU_S)
        resource.setrlimit(resource.RLIMIT_CPU, (most_s, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
