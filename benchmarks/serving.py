"""The real server in a process of its own, and what the kernel says of its memory."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx


class Server:
    """A running `twopass serve`."""

    def __init__(self, process: subprocess.Popen[str], url: str, ready_s: float) -> None:
        self.process = process
        self.ready_s = ready_s  # from the start of the process to the first answer of /readyz
        self.http = httpx.Client(base_url=url, timeout=600, trust_env=False)

    def add(self, documents: Sequence[dict[str, Any]], batch: int = 500) -> None:
        """Store documents, `batch` to a request."""
        for start in range(0, len(documents), batch):
            answer = self.http.post("/documents", json={"documents": documents[start : start + batch]})
            answer.raise_for_status()

    def search(self, searches: Sequence[dict[str, Any]], batch: int = 50) -> list[dict[str, Any]]:
        """Answer searches, `batch` to a request, in order."""
        results = []
        for start in range(0, len(searches), batch):
            answer = self.http.post("/search/batch", json={"searches": searches[start : start + batch]})
            answer.raise_for_status()
            results += answer.json()["results"]
        return results

    def memory_bytes(self) -> dict[str, int]:
        """VmRSS, and its parts: RssAnon is the process's own, RssFile mapped files (page cache)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "RssFile")}


@contextlib.contextmanager
def serving(data_dir: Path, **settings: object) -> Iterator[Server]:
    """Run a server on a free port; settings as section__key. Its log goes to a temporary file."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TWOPASS_")}
    mine = {"data_dir": data_dir, "server__port": 0, "log__format": "json", **settings}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "serve"],
        env=clean | {f"TWOPASS_{name.upper()}": str(value) for name, value in mine.items()},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if '"event": "listening"' in line:
                break
        else:
            raise RuntimeError("the server did not start: " + "".join(said))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # keeps the pipe from filling up
        server = Server(process, json.loads(said[-1])["url"], 0.0)
        server.http.get("/readyz").raise_for_status()
        server.ready_s = time.perf_counter() - started
        yield server
        server.http.close()
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder beside the checkout's other data, removed at the end (/tmp may be memory)."""
    with tempfile.TemporaryDirectory(prefix="twopass-bench-", dir=os.environ.get("TMPDIR")) as name:
        yield Path(name)


def wait_for_index(server: Server) -> None:
    """Wait until the first pass is made anew for the documents there are."""
    while any(job["status"] in ("waiting", "running") for job in server.http.get("/jobs").json()["jobs"]):
        time.sleep(0.1)
