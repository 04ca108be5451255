"""What words take: full-text searches over three hundred thousand short texts, without a model.

    python -m benchmarks.words [--cache FOLDER]

The texts are those of benchmarks/texts.py. Printed: milliseconds of processor time of FullText.search, for questions of
one word to a dozen, and of choosing the passages of ten documents; bytes of the catalog for each text.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np

from benchmarks.fusion.encoded import CACHE
from benchmarks.serving import temporary_folder
from benchmarks.texts import N_QUERIES, load_texts
from server.catalog import Catalog
from server.fusion import DEPTH
from server.records import DocumentWrite
from server.store import CATALOG_NAME

AT_ONCE = 10_000  # texts to a transaction
LENGTHS = (1, 3, 6, 12)  # words of a question
N_ASKED = 100  # questions of each length
HITS = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.words", description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE)
    texts = load_texts(parser.parse_args().cache)
    texts, questions = texts[:-N_QUERIES], texts[-N_ASKED:]
    with temporary_folder() as folder, Catalog(folder / CATALOG_NAME) as catalog:
        catalog.generations.begin(1, "{}", 4, "float16")
        for first in range(0, len(texts), AT_ONCE):
            part = texts[first : first + AT_ONCE]
            writes = [
                DocumentWrite(str(first + at), text, "{}", str(first + at).encode(), False, [(0, len(text))])
                for at, text in enumerate(part)
            ]
            catalog.store(1, writes, [], first, [0] * len(part))
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{len(texts)} texts, {size / len(texts):.0f} bytes each in the catalog")
        print("words   search p50   p90   worst   passages of ten p50   p90 ms")
        for length in LENGTHS:
            asked = [" ".join(each.split()[:length]) for each in questions]
            searched, looked_up = [], []
            for question in asked:
                marks = [time.thread_time()]
                hits = catalog.fulltext.search(question, DEPTH)
                marks.append(time.thread_time())
                catalog.fulltext.best_passages(question, 1, hits.documents[:HITS].tolist(), marked=False)
                marks.append(time.thread_time())
                took = [(later - earlier) * 1000 for earlier, later in itertools.pairwise(marks)]
                searched.append(took[0])
                looked_up.append(took[1])
            p50, p90 = np.percentile(searched, [50, 90])
            found50, found90 = np.percentile(looked_up, [50, 90])
            print(f"{length:5} {p50:12.2f} {p90:5.1f} {max(searched):7.1f} {found50:21.2f} {found90:5.2f}")


main()
