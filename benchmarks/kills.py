"""A change of the model that is killed at random: `python -m benchmarks kills [--kills 10] [--documents 6000]`.

The server (SIGKILL, at any moment of a random wait) is started again each time. The texts are encoded by the host that
the tests use, which counts what it encoded: how many twice? Searches are asked all the time the server is up.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serving import Server, serving
from index.two_pass import Mode
from server.verification import verify

TESTS = Path(__file__).parent.parent / "tests"
OLD, NEW = "words-64", "words-96"
LONGEST_WAIT_S = 3.0


class Asker:
    """Asks one search after another in a thread of its own."""

    def __init__(self, url: str) -> None:
        self.n_answered = 0
        self.wrong: list[str] = []
        self.slowest_ms = 0.0
        self._url = url
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._is_stopped.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=60) as http:
            while not self._is_stopped.is_set():
                number = random.randrange(100)
                body = {"query": text_of(number), "k": 1, "mode": Mode.TWO_PASS.value}
                at = time.perf_counter()
                try:
                    answer = http.post("/search", json=body)
                except httpx.TransportError:
                    return  # killed
                self.slowest_ms = max(self.slowest_ms, (time.perf_counter() - at) * 1000)
                self.n_answered += 1
                if answer.status_code != 200 or answer.json()["hits"][0]["id"] != str(number):
                    self.wrong.append(answer.text)


def main(arguments: list[str]) -> None:
    """Store, begin, kill, start again, until it is done; then compare and verify."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--documents", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    sys.path.append(str(TESTS))
    from embedding_host import embedding_host

    chance = random.Random(given.seed)
    n_kills = n_answered = 0
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="twopass-bench-") as name, embedding_host() as host:
        data_dir = Path(name)
        settings = {"encoder__model": OLD, "encoder__url": host.url, "encoder__query_cache": 0}
        job = ""
        while True:
            with serving(data_dir, **settings) as server:
                if not job:
                    server.add([{"id": str(n), "text": text_of(n)} for n in range(given.documents)])
                    began = server.http.post("/index/reembed", json={"model": NEW, "url": host.url})
                    began.raise_for_status()
                    job = began.json()["job"]["id"]
                asker = Asker(str(server.http.base_url))
                if n_kills < given.kills:
                    time.sleep(chance.uniform(0, LONGEST_WAIT_S))
                    told = _job(server, job)
                    n_kills += 1
                    server.process.kill()
                    server.process.wait()
                else:
                    while (told := _job(server, job))["status"] in ("waiting", "running"):
                        time.sleep(0.05)
                asker.stop()
                n_answered += asker.n_answered
                wrong += asker.wrong
                progress = told["progress"]
                print(
                    f"  {'killed' if n_kills <= given.kills and server.process.poll() is not None else 'ended'} "
                    f"{n_kills}: {told['status']}, {progress['done']} of {progress['total']}; "
                    f"{asker.n_answered} searches, the slowest {asker.slowest_ms:.0f} ms",
                    flush=True,
                )
                if server.process.poll() is None:
                    break
        counts = [host.encoded[NEW, text_of(n)] for n in range(given.documents)]
        problems = verify(data_dir, lambda *_: None).problems
    print(
        f"{n_kills} kills, {given.documents} texts: {sum(each == 0 for each in counts)} not encoded, "
        f"{sum(each > 1 for each in counts)} more than once, {sum(counts) - given.documents} encodings too many; "
        f"{n_answered} searches, {len(wrong)} of them failed or wrong; verify: {problems or 'no problems'}"
    )


def text_of(number: int) -> str:
    words = random.Random(number).choices(
        ["snail", "tide", "shed", "clock", "zip", "bread", "river", "lamp", "stone", "boat"], k=8
    )
    return f"Number {number}: {' '.join(words)}."


def _job(server: Server, identifier: str) -> dict[str, Any]:
    told: dict[str, Any] = server.http.get(f"/jobs/{identifier}").json()
    return told
