"""A model measured on one's own texts: recall against brute force, questions, sampling, the verdict and the picture."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import serving

from index.axes import corpus_axes, model_axes
from index.vectors import normalise
from server import progress
from server.docstrings import collect_docstrings
from server.encoders.loading import load_encoder
from server.models.certify import MAX_QUESTIONS, certify
from server.models.corpus import draw, opening, stored_texts
from server.models.curves import POOL, Point, known_item, lengths_to_try, recall_curve
from server.models.footprint import resident_bytes
from server.models.verdict import PromptTrial, RecallTrial, verdict
from server.settings import EncoderSettings, PassageSettings

ROOT = Path(__file__).parent.parent
MODULES = (
    "zipfile",
    "json",
    "csv",
    "email",
    "asyncio",
    "logging",
    "os",
    "string",
    "tempfile",
    "threading",
    "socket",
)
N_SHORT, N_LONG, N_TWICE = 210, 4, 3


def twopass(*arguments, **more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TWOPASS_")}
    return subprocess.run(
        [sys.executable, "-m", "server.cli", "models", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**clean, **more},
        timeout=300,
    )


@pytest.fixture(scope="module")
def texts():
    """Docstrings of Python: short ones, a few of them twice, and some that are too long for the model."""
    short = [document["text"] for document in collect_docstrings(MODULES)][:N_SHORT]
    assert len(short) == N_SHORT
    long = [" ".join(short[at : at + 12]) for at in range(0, 12 * N_LONG, 12)]
    return [*short, *long, *short[:N_TWICE]]


@pytest.fixture(scope="module")
def certified(texts, tmp_path_factory):
    """What `twopass models certify` told of the texts that a running server has stored, and where its picture is."""
    folder = tmp_path_factory.mktemp("certify")
    with serving(folder) as server:
        documents = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        done = twopass("certify", "bundled", "--data-dir", folder, "--plot", folder / "recall.png", "--json")
        assert server.http.get("/readyz").json() == {"status": "ok"}
        assert server.stop() == 0
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


@pytest.fixture(scope="module")
def encoder(bundled_export):
    encoder = load_encoder(EncoderSettings(), PassageSettings(), bundled_export)
    yield encoder
    encoder.close()


def brute_force(documents, queries, prefix_dim, pool):
    """Shares of the true 10 among the first 10 and the first of a pool by prefix, one query after another."""
    alone, pooled = [], []
    for query in queries:
        full = documents @ query
        least = np.sort(full)[-10] - 1e-6
        cosines = (
            documents[:, :prefix_dim] @ query[:prefix_dim] / np.linalg.norm(documents[:, :prefix_dim], axis=1)
        )
        ranked = np.argsort(-cosines)
        alone.append(min(10, (full[ranked[:10]] >= least).sum()) / 10)
        pooled.append(min(10, (full[ranked[:pool]] >= least).sum()) / 10)
    return np.mean(alone), np.mean(pooled)


def test_the_reported_recalls_are_those_of_brute_force(certified, encoder):
    told, folder = certified
    sample = draw(stored_texts(folder), 2000, encoder.split)
    documents = encoder.encode_documents(sample.passages)
    chosen = [
        row
        for row in np.random.default_rng(0).permutation(len(documents)).tolist()
        if opening(sample.passages[row])
    ]
    rows = chosen[: min(MAX_QUESTIONS, len(documents) // 3)]
    queries = encoder.encode_queries([opening(sample.passages[row]) for row in rows])
    fitted = documents[[row for row in range(len(documents)) if row not in set(rows)][: len(documents) // 2]]
    _, _, axes = np.linalg.svd(fitted.astype(np.float64))  # falling, as the principal axes are
    assert (told["recall"]["questions"], told["recall"]["fitted_on"]) == (len(rows), len(fitted))
    for order, turn in (("model", np.eye(384)), ("corpus", axes.T)):
        points = {point["prefix_dim"]: point for point in told["recall"][order]}
        assert list(points) == [32, 64, 128, 256, 384]
        for prefix_dim in (32, 256):
            alone, pooled = brute_force(documents @ turn, queries @ turn, prefix_dim, told["recall"]["pool"])
            # One of 10 neighbours of one question is 0.0009; the two ways of rounding may swap a near tie.
            assert points[prefix_dim]["alone"] == pytest.approx(alone, abs=0.004), (order, prefix_dim)
            assert points[prefix_dim]["pooled"] == pytest.approx(pooled, abs=0.004), (order, prefix_dim)
        assert (points[384]["alone"], points[384]["pooled"]) == (1, 1)
    by_hand = []
    for query, row in zip(queries, rows, strict=True):
        scores = documents @ query
        rank = 1 + int((scores > scores[row] + 1e-6).sum())
        by_hand.append(1 / rank if rank <= 10 else 0)
    assert told["prompts"]["mrr"] == pytest.approx(np.mean(by_hand), abs=0.002)


def test_the_corpuss_order_finds_more_with_short_prefixes(certified):
    told, _ = certified
    short = {order: told["recall"][order][0] for order in ("model", "corpus")}
    assert short["corpus"]["alone"] > short["model"]["alone"] + 0.05
    assert short["corpus"]["pooled"] > short["model"]["pooled"]


def test_a_certificate_says_what_it_was_made_of(certified, texts):
    told, _ = certified
    assert (told["model"], told["dim"], told["max_tokens"], told["precision"]) == (
        "bundled",
        384,
        256,
        "float32",
    )
    assert (told["texts"], told["texts_in_all"], told["texts_split"]) == (len(texts), len(texts), N_LONG)
    assert told["passages"] > len(texts) and told["duplicates"] == N_TWICE
    assert told["prompts"]["gain"] is None  # the model has no prompts
    assert told["speed"]["texts_per_s"] > 1 and told["speed"]["query_ms"] > 0
    # The weights alone are 87 MiB.
    assert 80 << 20 < told["speed"]["memory_bytes"] < 2 << 30


def test_the_verdict_is_one_sentence_that_says_all_of_it(certified):
    sentence = certified[0]["verdict"]
    assert re.fullmatch(
        r"(32|64) of 384 dimensions in the corpus's order find (99\.\d|100) % of the true 10 nearest among 80 "
        r"candidates of 2\d\d \(model's order: 9\d\.\d %\), but those are 3\d % of these passages, and more passages "
        r"take more; the model has no prompts; 1\.8 % of your texts are longer than the 256 tokens it reads and will "
        r"be split\.",
        sentence,
    ), sentence


def test_the_picture_is_a_png(certified):
    _, folder = certified
    picture = (folder / "recall.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(picture[at : at + 4]) for at in (16, 20))
    assert (width, height) == (1200, 750)


def test_prompts_are_compared_with_having_none(texts, bundled_export):
    """A prompt that leads astray, in front of every question, must be found out."""
    settings = EncoderSettings(query_prompt="A recipe for rye bread with butter, salt and honey. ")
    stages = []
    found = certify(
        settings, PassageSettings(), bundled_export, texts[:205], 205, lambda stage, *_: stages.append(stage)
    )
    assert found.prompts.mrr < found.prompts.mrr_without
    assert found.prompts.gain == pytest.approx(found.prompts.mrr - found.prompts.mrr_without)
    assert "; its prompts do harm (-0." in found.verdict
    assert (
        "encoding without prompts" not in stages
    )  # documents have none, so that theirs are the same vectors


def test_files_are_certified_without_a_collection_and_too_few_of_them_are_said_to_be(
    tmp_path, texts, bundled_export
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").symlink_to(bundled_export)
    notes = tmp_path / "notes"
    notes.mkdir()
    for number, text in enumerate(texts[:12]):
        (notes / f"{number}.txt").write_text(text)
    (notes / "photo.txt").write_bytes(b"\xff\xd8\xff\0")
    done = twopass(
        "certify", "bundled", "--texts", notes, "--data-dir", tmp_path / "data", "--plot", tmp_path / "x.png"
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "bundled on 12 passages of 12 texts; 0 of the texts are longer than 256 tokens"
    assert re.fullmatch(
        r"On this machine \(float32\): [\d,]+ passages/s · [\d.]+ ms a question · [\d.,]+ MB of memory · loaded in .*",
        lines[1],
    ), lines[1]
    assert lines[2:] == [
        "12 passages are too few to say how many dimensions it takes; none of your texts is longer than the 256 tokens "
        "it reads."
    ]
    assert not (tmp_path / "x.png").exists()
    assert done.stderr.splitlines()[-2:] == [
        f"Skipped: 1; the first: {notes}/photo.txt: is binary, not text",
        "Too few passages to draw.",
    ]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("bundled",), "there is no collection in "),
        (("none", "--texts", "README.md"), "encoder.model is 'none', so clients bring the vectors"),
        (("no/such/model/at/all", "--texts", "README.md"), "there is no folder no/such/model/at/all"),
    ],
)
def test_what_can_not_be_certified_is_said(tmp_path, bundled_export, arguments, what):
    (tmp_path / "models").symlink_to(bundled_export)
    done = twopass("certify", *arguments, "--data-dir", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert what in done.stderr


# --- the parts


def test_the_lengths_that_are_tried_end_with_the_whole_vector():
    assert lengths_to_try(384) == [32, 64, 128, 256, 384]
    assert lengths_to_try(256) == [32, 64, 128, 256]
    assert lengths_to_try(16) == [16]


def test_of_duplicates_any_counts_as_found_and_no_more_than_ten_do(make_vectors):
    documents = np.repeat(make_vectors(40, 32, seed=3), 3, axis=0)  # each three times
    queries = make_vectors(6, 32, seed=4)
    for axes in (model_axes(32, 32), corpus_axes(documents, 32)):
        [short, whole] = recall_curve(axes, documents, queries, [8, 32], POOL)
        assert (whole.alone, whole.pooled) == (1, 1)
        assert 0 < short.alone < short.pooled <= 1


def test_recall_of_a_prefix_by_hand():
    queries = np.array([[1, 0, 0]], np.float32)
    angles = np.linspace(0.1, 1.2, 30)
    near = np.stack([np.cos(angles), np.sin(angles), np.zeros(30)], axis=1)  # falling scores
    near[:5] = near[:5][:, [0, 2, 1]]  # what turns the first five away stands beyond the prefix of two
    near[20:] = near[20:][:, [0, 2, 1]]
    documents = near.astype(np.float32)
    # By two dimensions, the rows 0-4 and 20-29 look equal to the query: they are the 15 best, lower rows first.
    [point] = recall_curve(model_axes(3, 3), documents, queries, [2], pool=20)
    assert (point.alone, point.pooled) == (0.5, 1.0)


def test_a_known_passages_rank_is_one_more_than_those_that_score_higher():
    documents = np.eye(16, dtype=np.float32)
    documents[1] = documents[0]  # a duplicate is no mistake
    queries = normalise(np.array([[4, 0, 3, 2, *[0] * 12], [0, 0, 1, 2, *[3] * 12]], np.float32))
    found = known_item(documents, queries, np.array([0, 2]))
    assert found.reciprocal_ranks.tolist() == [1, 0]  # 13 score higher than the second's
    assert found.mrr == 0.5 and found.ndcg == 0.5
    found = known_item(documents, queries, np.array([3, 3]))
    assert found.reciprocal_ranks.tolist() == [1 / 4, 0]
    assert found.ndcg == pytest.approx(1 / np.log2(5) / 2)


@pytest.mark.parametrize(
    ("passage", "question"),
    [
        ("Open a zip archive at once. Then read what is in it.", "Open a zip archive at once."),
        ("one two three four five six seven eight", "one two three four"),
        (
            "Yes. The tide came in over the flats and stayed.",
            "Yes. The tide came in",
        ),  # the sentence is too short
        ("A title of the thing\n\nand what it says about it", "A title of the thing"),
        ("too short for a question", None),
        ("", None),
    ],
)
def test_a_question_is_how_a_passage_begins(passage, question):
    assert opening(passage) == question


def whole(text):
    return [(0, len(text))]


def test_every_text_is_as_likely_to_be_drawn_and_the_same_texts_give_the_same_sample():
    texts = [str(number) for number in range(1000)]
    sample = draw(iter(texts), 100, whole)
    assert (len(sample.passages), sample.n_texts, sample.n_texts_in_all) == (100, 100, 1000)
    assert draw(iter(texts), 100, whole) == sample
    tenths = Counter(int(text) // 100 for text in sample.passages)
    assert sorted(tenths) == list(range(10)) and max(tenths.values()) <= 20
    assert draw(["a b", "a b", "c"], 10, whole).n_duplicates == 1


def test_passages_of_long_texts_are_drawn_too_and_counted_as_split():
    sample = draw(
        ["abcdef", "xy", ""], 4, lambda text: [(at, at + 2) for at in range(0, len(text), 2)] or [(0, 0)]
    )
    assert sorted(sample.passages) == ["ab", "cd", "ef", "xy"]
    assert (sample.n_split, sample.n_texts) == (1, 3)


def trial(model, corpus):
    dims = (32, 64, 128)
    return RecallTrial(
        100,
        500,
        POOL,
        *([Point(d, p, p) for d, p in zip(dims, pooled, strict=True)] for pooled in (model, corpus)),
    )


@pytest.mark.parametrize(
    ("model", "corpus", "said"),
    [
        (
            (0.8, 0.98, 1),
            (0.97, 0.991, 1),
            "64 of 128 dimensions in the corpus's order find 99.1 % of the true 10",
        ),
        (
            (0.995, 0.999, 1),
            (0.97, 0.991, 1),
            "32 of 128 dimensions in the model's order find 99.5 % of the true 10",
        ),
        (
            (0.5, 0.8, 1),
            (0.6, 0.98, 1),
            "No prefix finds 99 % of the true 10 nearest among 80 candidates of 1,000: keep all",
        ),
    ],
)
def test_the_verdict_names_the_shortest_prefix_that_suffices(model, corpus, said):
    sentence = verdict(128, 512, 0.0, 1000, trial(model, corpus), PromptTrial(100, 0.9, 0.9))
    assert sentence.startswith(said)
    assert sentence.endswith(
        "; the model has no prompts; none of your texts is longer than the 512 tokens it reads."
    )


def test_prompts_are_said_to_help_only_where_the_questions_show_it():
    documents = np.eye(40, dtype=np.float32)
    rows = np.arange(40)
    right = known_item(documents, documents, rows)
    wrong = known_item(documents, documents[(rows + np.where(rows < 30, 1, 0)) % 40], rows)
    helps = PromptTrial.of(right, wrong)
    assert (helps.mrr, helps.mrr_without) == (1, pytest.approx(0.25 + 0.75 / 2))
    assert helps.gain == pytest.approx(0.375)
    assert "its prompts help (+0.375 ± 0.035 MRR)" in verdict(40, 512, 0.12, 1000, None, helps)
    assert "its prompts do harm (-0.375" in verdict(40, 512, 0.12, 1000, None, PromptTrial.of(wrong, right))
    none = verdict(40, 512, 0.12, 1000, None, PromptTrial.of(right, right))
    assert (
        "its prompts make no difference that 40 questions show (+0.000 ± 0.000 MRR); 12.0 % of your texts"
        in none
    )


def test_memory_is_that_of_this_process_and_of_those_below_it():
    alone = resident_bytes()
    script = "import sys; held = bytearray(60_000_000); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "held\n"
        together = resident_bytes()
    assert 60_000_000 < together - alone < 120_000_000


def test_the_progress_of_a_download_is_a_bar_on_a_terminal_with_rate_and_time_left(monkeypatch, capsys):
    with progress.download_progress() as on_bytes:
        on_bytes(1_000_000, 4_000_000)
    assert capsys.readouterr().err == ""  # a line every few seconds elsewhere
    monkeypatch.setattr(progress, "PLAIN_PROGRESS_S", 0.0)
    with progress.download_progress() as on_bytes:
        on_bytes(1_000_000, 4_000_000)
        on_bytes(3_000_000, 4_000_000)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "1.0 MB of 4.0 MB"  # what an earlier download left is no speed
    assert re.fullmatch(r"3\.0 MB of 4\.0 MB · \S+ \w+/s · \S+ s left", second)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with progress.download_progress() as on_bytes:
        on_bytes(3_000_000, 4_000_000)
    shown = capsys.readouterr().err
    assert "━" in shown and "3.0 MB of 4.0 MB" in shown
