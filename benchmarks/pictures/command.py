"""`python -m benchmarks pictures`: draw the pictures of docs/how-it-works.md anew.

The vectors are those of the demo's texts, by the bundled model, which takes a minute; or those of a file. Some of them
are held out and searched for.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.pictures import certificate, costs, neighbours, passes
from benchmarks.pictures.material import Material, held_out
from benchmarks.pictures.svg import save
from index.vectors import Float32, normalise
from server.docstrings import collect_docstrings
from server.encoders.known import known
from server.encoders.loading import load_encoder
from server.settings import EncoderSettings, PassageSettings

FOLDER = Path(__file__).parent.parent.parent / "docs" / "pictures"
PICTURES = {
    "neighbours": neighbours.draw,
    "passes": passes.draw,
    "costs": costs.draw,
    "certificate": certificate.draw,
}


def main(arguments: list[str]) -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pictures", description=__doc__)
    parser.add_argument(
        "--vectors", type=Path, metavar="FILE", help="a .npy file, (n, dim), instead of the demo's"
    )
    parser.add_argument("--of", metavar="TEXT", help="what they are; stands in the pictures")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=FOLDER, help="docs/pictures")
    options = parser.parse_args(arguments)
    if options.vectors is None:
        vectors, what = demo_vectors()
    else:
        vectors = normalise(np.asarray(np.load(options.vectors), np.float32))
        what = options.of or options.vectors.name
    for path in draw_all(held_out(vectors, what), options.out):
        print(f"{path}: {path.stat().st_size:,} bytes")


def draw_all(material: Material, folder: Path) -> list[Path]:
    """Draw every picture into a folder, which is made; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [save(draw(material), folder / f"{name}.svg") for name, draw in PICTURES.items()]


def demo_vectors() -> tuple[Float32, str]:
    """Encode the docstrings of Python's standard library: (n, dim) unit vectors, and what they are."""
    texts = [each["text"] for each in collect_docstrings()]
    with tempfile.TemporaryDirectory(prefix="twopass-models-") as folder:
        encoder = load_encoder(EncoderSettings(), PassageSettings(), Path(folder))
        assert encoder is not None  # the settings name a model
        try:
            vectors = encoder.encode_documents(texts)
            model = known(encoder.fingerprint.model)
        finally:
            encoder.close()
    assert model is not None  # it is the bundled one
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return vectors, f"docstrings of Python {python}'s standard library, {model.name.rpartition('/')[2]}"
