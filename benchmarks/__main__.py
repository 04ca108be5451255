"""`python -m benchmarks [NAME …] [--data FOLDER]`: run measurements, all of them by default.

`python -m benchmarks peers …` compares with other stores; it has options, and packages, of its own.
`python -m benchmarks encoders …` compares what runs the model, `python -m benchmarks filters …` filters with none,
`python -m benchmarks kills …` kills a change of the model, `python -m benchmarks soak …` loads a server for an hour,
`python -m benchmarks targets …` looks whether target_recall holds; they have options of their own.
`python -m benchmarks page` measures the page in Chromium, `python -m benchmarks screenshots` takes its pictures.
`python -m benchmarks pictures` draws those of docs/how-it-works.md.
"""

import argparse
import importlib
import sys
from pathlib import Path

BENCHMARKS = ("exactness", "cranfield", "footprint", "overhead", "fusion", "backup")
OWN_OPTIONS = {
    "peers": "benchmarks.peers.command",
    "encoders": "benchmarks.encoders",
    "filters": "benchmarks.filters",
    "kills": "benchmarks.kills",
    "soak": "benchmarks.soak",
    "targets": "benchmarks.targets",
    "page": "benchmarks.page",
    "screenshots": "benchmarks.screenshots",
    "pictures": "benchmarks.pictures.command",
}
NEEDS_DATA = {"exactness": "vectors-nomic-768", "cranfield": "cranfield"}


def main() -> None:
    """Run what was asked for; say what is left out because its data isn't there."""
    if len(sys.argv) > 1 and sys.argv[1] in OWN_OPTIONS:
        importlib.import_module(OWN_OPTIONS[sys.argv[1]]).main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the data sets")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    for name in arguments.names or BENCHMARKS:
        folder = arguments.data / NEEDS_DATA.get(name, "")
        if folder.is_dir() or name not in NEEDS_DATA:
            # Imported when it is its turn: ir-measures, for one, has no wheel for Linux on ARM.
            importlib.import_module(f"benchmarks.{name}").run(arguments.data)
        else:
            print(f"\n{name}: left out, {folder} isn't there (see benchmarks/README.md)")


main()
