"""`python -m benchmarks peers`: twopass and other stores on the same vectors, one core, one thread, taking turns."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import synthetic
from benchmarks.peers import PEERS, SHARED
from benchmarks.peers.child import K
from benchmarks.peers.peer import Float32, batches
from benchmarks.texts import load_glosses

# Every library's own way of being told; the core they are bound to limits those that were forgotten.
# Not LANCE_IO_THREADS: with 1 LanceDB waits for ever.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
    "LANCE_CPU_THREADS",
)


def main(arguments: Sequence[str]) -> None:
    """Measure the stores asked for and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers", description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="STORE", help=f"all by default: {', '.join(PEERS)}")
    parser.add_argument("--corpus", choices=("glosses", "synthetic"), default="glosses")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--dim", type=int, default=768, help="of synthetic vectors; glosses have 384")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--core", type=int, default=0, help="the first core that a store may use")
    parser.add_argument("--rounds", type=int, default=3, help="0 builds and stops")
    parser.add_argument("--build-limit-s", type=float, default=900)
    parser.add_argument("--search-limit-s", type=float, default=20, help="of a setting in a round")
    parser.add_argument("--reuse", action="store_true", help="search what an earlier run has built")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/twopass-benchmarks").expanduser())
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    asked = parser.parse_args(arguments)
    if unknown := set(asked.peers) - set(PEERS):
        parser.error(f"there is no store {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / ".gitignore").write_text("*\n")  # as pytest does with its cache
    corpus, queries = _vectors(asked)
    n_rows, dim = np.load(corpus, mmap_mode="r")[: asked.rows].shape
    run = _Run(asked, corpus, n_rows, dim)
    if asked.rounds:
        run.find_truth(queries)
    peers: dict[str, Any] = {name: run.build(name) for name in asked.peers or PEERS}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    for number in range(1, asked.rounds + 1):
        for name in peers:
            if "failed" not in peers[name]:
                print(f"  round {number}: {name}", flush=True)
                measured = run.search(name)
                if "failed" in measured:
                    peers[name] = measured
                else:
                    rounds[name].append(measured)
        # After every round, so that an interrupted run leaves what it has.
        results = {
            "corpus": asked.corpus,
            "rows": n_rows,
            "dim": dim,
            "queries": len(queries),
            "k": K,
            "threads": asked.threads,
            "rounds": number,
            "peers": {
                name: peer if "failed" in peer else peer | _medians(rounds[name])
                for name, peer in peers.items()
            },
        }
        (asked.out / "results.json").write_text(json.dumps(results, indent=1))
        # Imported last: matplotlib is needed for the report alone.
        from benchmarks.peers.report import write_report

        text = write_report(results, asked.out)
        if number == asked.rounds:
            print(text)


class _Run:
    """What all children of a run are told."""

    def __init__(self, asked: argparse.Namespace, corpus: Path, n_rows: int, dim: int) -> None:
        self._asked, self._corpus, self._n_rows = asked, corpus, n_rows
        self._folder = asked.cache / "peers" / f"{asked.corpus}-{n_rows}x{dim}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._questions = self._folder / f"questions-{asked.queries}.npz"
        self._environment = os.environ | {each: str(asked.threads) for each in THREAD_VARIABLES}
        self._built: dict[str, dict[str, Any]] = {}

    def find_truth(self, queries: Float32) -> None:
        """Find each query's true K-th score, by brute force in float32."""
        best = np.full((len(queries), K), -np.inf, np.float32)
        for _, block in batches(np.load(self._corpus, mmap_mode="r")[: self._n_rows]):
            scores = np.concatenate([best, queries @ block.T], axis=1)
            best = np.partition(scores, -K, axis=1)[:, -K:]
        np.savez(self._questions, queries=queries, truth=best.min(axis=1))

    def build(self, name: str) -> dict[str, Any]:
        """Build a store, or find it built; say what came of it."""
        source = SHARED.get(name, name)
        if source not in self._built:
            self._built[source] = self._build(source)
        if source == name or "failed" in self._built[source]:
            return dict(self._built[source])
        return self._built[source] | self._child("describe", name, 60)

    def _build(self, name: str) -> dict[str, Any]:
        folder = self._folder / name
        told = self._folder / f"{name}.json"
        description = self._child("describe", name, 60)
        if "missing" in description:
            print(f"  {name}: left out, not installed ({description['missing']})", flush=True)
            return {"failed": f"not installed ({description['missing']})"}
        if "failed" in description:
            return description
        if self._asked.reuse and told.exists():
            built: dict[str, Any] = json.loads(told.read_text())
            if built["versions"] == description["versions"] and built["told"] == description["told"]:
                print(f"  {name}: built earlier", flush=True)
                return built
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        told.unlink(missing_ok=True)
        built = description | self._child("build", name, self._asked.build_limit_s)
        if "failed" in built:
            print(f"  {name}: left out, {built['failed']}", flush=True)
            return built
        built["disk_bytes"] = sum(
            path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()
        )  # stat counts blocks of 512 bytes
        told.write_text(json.dumps(built))
        print(f"  {name}: built in {built['build_s']:.0f} s", flush=True)
        return built

    def search(self, name: str) -> dict[str, Any]:
        """Search in a fresh process."""
        questions = ["--questions", str(self._questions), "--limit-s", str(self._asked.search_limit_s)]
        return self._child("search", name, 1800, *questions)

    def _child(self, task: str, name: str, limit_s: float, *more: str) -> dict[str, Any]:
        cores = range(self._asked.core, self._asked.core + self._asked.threads)
        folder = self._folder / SHARED.get(name, name)
        command = [sys.executable, "-m", "benchmarks.peers.child", task, name, "--folder", str(folder)]
        command += ["--corpus", str(self._corpus), "--rows", str(self._n_rows), *more]
        process = subprocess.Popen(
            command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=(errors := (self._folder / f"{name}.log").open("ab")),
            text=True,
            start_new_session=True,  # so that a store's own processes end with it
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        with errors:
            try:
                said, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return {"failed": f"{task} was stopped after {limit_s:.0f} s"}
        if process.returncode or not said.strip():
            last = Path(errors.name).read_text(errors="replace").strip().splitlines()[-1:]
            return {"failed": f"{task} ended with {process.returncode}: {' '.join(last)[:300]}"}
        result: dict[str, Any] = json.loads(said.splitlines()[-1])
        return result


def _vectors(asked: argparse.Namespace) -> tuple[Path, Float32]:
    """Return the corpus' file and the queries (n, dim), float32 of unit length; made where missing."""
    if asked.corpus == "glosses":
        path, queries = asked.cache / "glosses.npy", load_glosses(asked.cache)[1].astype(np.float32)
    else:
        asked.cache.mkdir(parents=True, exist_ok=True)
        path = asked.cache / f"synthetic-{asked.rows}x{asked.dim}.npy"
        if not path.exists():
            partial = path.with_suffix(".partial.npy")
            synthetic.write(partial, asked.rows, asked.dim)
            partial.replace(path)
        queries = synthetic.queries(asked.queries, asked.rows, asked.dim)
    queries = queries[: asked.queries]
    return path, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def _medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one result whose every figure is the rounds' median."""
    first = rounds[0]
    merged = {name: median(each[name] for each in rounds) for name in first if name != "settings"}
    merged["settings"] = [
        {
            name: value if isinstance(value, str) else median(each["settings"][i][name] for each in rounds)
            for name, value in setting.items()
        }
        for i, setting in enumerate(first["settings"])
    ]
    return merged
