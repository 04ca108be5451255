"""An hour of mixed load: `python -m benchmarks soak [--minutes 60]`. Do memory and file handles stay where they are?

The real server with the bundled model, and the docstrings of Python's standard library. Four threads, one request after
another each: searches by text; documents that are added or replaced; each second some deletions with listings; now and
then a rebuild, and a backup that is deleted again. The number of documents settles below five thousand; what goes on
growing is told every twelfth of the time.
"""

import argparse
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import httpx

from benchmarks.processes import PROCESSES, memory_mib
from benchmarks.serving import Server, serving, temporary_folder
from server.docstrings import collect_docstrings

N_DOCUMENTS = 5_000
N_LINES = 12
N_AT_ONCE = 20  # documents of one request
MAINTENANCE_S = 60.0


class Load:
    """Threads that ask until they are stopped, and count what was answered and how."""

    def __init__(self, url: str, texts: list[str]) -> None:
        self.answered: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self._url = url
        self._texts = texts
        self._stopping = threading.Event()
        jobs = (self._search, self._add, self._delete, self._maintain)
        self._threads = [threading.Thread(target=self._run, args=[each]) for each in jobs]
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        """Let what is asked be answered, and end."""
        self._stopping.set()
        for each in self._threads:
            each.join()

    def _run(self, ask: Callable[[httpx.Client], list[httpx.Response]]) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=120) as http:
            while not self._stopping.is_set():
                for answer in ask(http):
                    path = answer.url.path.partition("/twopass-")[0]  # a backup's name
                    self.answered[f"{answer.request.method} {path}"] += 1
                    if answer.status_code not in (200, 201, 202):
                        self.unexpected[f"{answer.status_code} {path}"] += 1

    def _search(self, http: httpx.Client) -> list[httpx.Response]:
        return [http.post("/search", json={"query": random.choice(self._texts), "k": 10})]

    def _add(self, http: httpx.Client) -> list[httpx.Response]:
        documents = [
            {"id": f"d{n}", "text": random.choice(self._texts), "metadata": {"n": n}}
            for n in random.sample(range(N_DOCUMENTS), N_AT_ONCE)
        ]
        return [http.post("/documents", json={"documents": documents})]

    def _delete(self, http: httpx.Client) -> list[httpx.Response]:
        self._stopping.wait(1)  # or there would soon be none left
        ids = [f"d{n}" for n in random.sample(range(N_DOCUMENTS), N_AT_ONCE // 4)]
        return [http.get("/documents"), http.get("/stats"), http.post("/documents/delete", json={"ids": ids})]

    def _maintain(self, http: httpx.Client) -> list[httpx.Response]:
        self._stopping.wait(MAINTENANCE_S)
        answers = [http.post("/index/rebuild", json={}), http.post("/snapshots")]
        job = answers[1].json().get("job", {}).get("id")
        with contextlib.suppress(KeyError):
            while (told := http.get(f"/jobs/{job}").json())["status"] in ("waiting", "running"):
                self._stopping.wait(1)
            answers.append(http.delete(f"/snapshots/{told['result']['name']}"))
        return answers


def main(arguments: list[str]) -> None:
    """Fill, load, and tell how it stands every twelfth of the time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    given = parser.parse_args(arguments)
    texts = [str(each["text"]) for each in collect_docstrings()]
    with temporary_folder() as data_dir, serving(data_dir) as server:
        server.add([{"id": f"d{n}", "text": texts[n % len(texts)]} for n in range(N_DOCUMENTS)], batch=500)
        load = Load(str(server.http.base_url), texts)
        print("  minute    Rss    own  handles  threads  documents  searches  writes")
        for line in range(N_LINES + 1):
            print(_told(line * given.minutes / N_LINES, server, load), flush=True)
            time.sleep(given.minutes * 60 / N_LINES if line < N_LINES else 0)
        load.stop()
    print("answered", dict(load.answered))
    print("other than 200, 201, 202:", dict(load.unexpected) or "none")


def _told(minute: float, server: Server, load: Load) -> str:
    pid = server.process.pid
    memory = memory_mib(pid)
    n_handles = len(list((PROCESSES / str(pid) / "fd").iterdir()))
    n_threads = len(list((PROCESSES / str(pid) / "task").iterdir()))
    n_documents = server.http.get("/stats").json()["documents"]
    return (
        f"  {minute:6.1f} {memory['Rss']:6.0f} {memory['Anonymous']:6.0f} {n_handles:8} {n_threads:8} {n_documents:10} "
        f"{load.answered['POST /search']:9} {load.answered['POST /documents']:7}"
    )
