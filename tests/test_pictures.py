"""The pictures of docs/how-it-works.md: drawn from vectors, readable in light and dark, saying what they show."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import clustered

from benchmarks.pictures import certificate, command
from benchmarks.pictures.material import K, held_out, lengths
from benchmarks.pictures.svg import IN_THE_DARK, save
from index.axes import Order

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
PAGE = (FOLDER.parent / "how-it-works.md").read_text()
N, DIM = 800, 320


@pytest.fixture(scope="module")
def material():
    vectors = clustered(N, DIM, seed=3)
    return held_out(np.concatenate([vectors, vectors[:20]]), "made-up vectors")


def test_what_is_searched_for_is_not_stored_and_the_truth_is_exact(material):
    assert (len(material.stored), len(material.queries)) == (N - N // 10, N // 10)  # equal ones count once
    assert material.source == "720 made-up vectors, 320 dimensions; 80 others searched for"
    assert not (material.queries[:, None] == material.stored[None]).all(axis=2).any()
    scores = material.queries[7].astype(np.float64) @ material.stored.T.astype(np.float64)
    np.testing.assert_array_equal(material.ranking[7, :K], np.argsort(-scores)[:K])
    assert lengths(DIM) == [8, 16, 32, 64, 128, 256, 320]


def test_whole_prefixes_rank_as_the_vectors_do(material):
    for order in Order:
        pools = material.pools(material.axes(order), DIM, K)
        assert (
            np.mean([set(pool) == set(true[:K]) for pool, true in zip(pools, material.ranking, strict=True)])
            > 0.97
        )


def test_no_score_is_above_its_bound_and_the_ten_are_among_those_read(material):
    for proof in certificate._proofs(material, Order.CORPUS, [0, 1, 2]):
        assert (proof.scores <= proof.bounds).all()
        assert (np.diff(proof.bounds) <= 0).all()
        assert np.count_nonzero(proof.scores[: proof.n_read] >= proof.tenth) == K
        assert proof.n_read < len(proof.bounds) and proof.bounds[proof.n_read] < proof.tenth


def test_every_picture_is_drawn_alike_each_time_and_says_from_what(material, tmp_path):
    drawn = command.draw_all(material, tmp_path / "one")
    assert [path.stem for path in drawn] == list(command.PICTURES)
    for path in drawn:
        ElementTree.fromstring(path.read_text())
        assert material.source in path.read_text()
    again = save(command.PICTURES["costs"](material), tmp_path / "costs.svg")
    assert again.read_text() == (tmp_path / "one" / "costs.svg").read_text()


@pytest.mark.parametrize("name", command.PICTURES)
def test_a_committed_picture_is_small_shown_and_has_colours_for_the_dark(name):
    path = FOLDER / f"{name}.svg"
    text = path.read_text()
    assert path.stat().st_size < 100_000
    assert f"](pictures/{name}.svg)" in PAGE
    assert re.search(
        r"[\d,]+ docstrings of Python 3\.\d+'s standard library, \S+, 384 dimensions; \d+ others", text
    )
    _, _, drawing = text.partition("</style>")
    used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawing))
    assert used and used <= set(IN_THE_DARK)
    assert "prefers-color-scheme: dark" in text and "<image" not in text
