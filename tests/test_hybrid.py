"""Hybrid searches against plain Python: what the words do for a hit is what is told of it."""

import itertools
import math
import threading

import numpy as np
import pytest

from index.two_pass import Mode
from server.catalog import Catalog
from server.catalog.fulltext import FullText
from server.encoders.loading import load_encoder
from server.filters import parse_filter
from server.fusion import DEPTH, Fusion
from server.hybrid import Hybrid
from server.queries import Query
from server.records import DocumentWrite
from server.searches import Searches
from server.settings import EncoderSettings, IndexSettings, LimitSettings, PassageSettings
from server.store import CATALOG_NAME, LocalStore

WORDS = ["alpha", "beta", "kilo", "zulu", "delta", "gamma", "omega", "sigma"]  # each is its own stem
PAIRS = list(itertools.permutations(WORDS, 2))
# 168 texts: of two words, of three, and of seven with one of them twice.
TEXTS = (
    [f"{a} {b}" for a, b in PAIRS]
    + [f"{a} {b} something" for a, b in PAIRS]
    + [f"{a} stands between many other words {a} {b}" for a, b in PAIRS]
)
TEXTS[100] = "The seal is XK4471Q."
QUESTIONS = [
    "alpha",
    "kilo zulu",
    "sigma something unheard",
    'the words "delta gamma"',
    "XK4471Q is a seal",
]


@pytest.fixture(scope="module")
def encoder(bundled_export):
    encoder = load_encoder(EncoderSettings(), PassageSettings(), bundled_export)
    yield encoder
    encoder.close()


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode_documents(TEXTS)


@pytest.fixture(scope="module")
def searches(tmp_path_factory, encoder, vectors):
    folder = tmp_path_factory.mktemp("hybrid")
    writes = [
        DocumentWrite(str(n), text, f'{{"n":{n}}}', str(n).encode(), False, [(0, len(text))])
        for n, text in enumerate(TEXTS)
    ]
    with Catalog(folder / CATALOG_NAME) as catalog:
        store = LocalStore(catalog, catalog.generations.begin(1, "{}", 384, "float32"), 256)
        store.put(writes, vectors)
        yield Searches(store, encoder, IndexSettings())
        store.close()


def tokens(text):
    return [word.strip(".,").lower() for word in text.split()]


def bm25(question):
    """{text number: score}, and what a text of ordinary length with every term scores; without stemming.

    The formula is that of SQLite's documentation.
    """
    phrase = question.partition('"')[2].partition('"')[0]
    terms = [[word] for word in dict.fromkeys(tokens(question.replace(f'"{phrase}"', "")))]
    terms += [tokens(phrase)] if phrase else []
    of = [tokens(text) for text in TEXTS]
    average = sum(map(len, of)) / len(of)
    scores, whole = {}, 0.0
    for term in terms:
        times = [
            sum(words[at : at + len(term)] == term for at in range(len(words) - len(term) + 1))
            for words in of
        ]
        n = sum(map(bool, times))
        weight = max(math.log((len(of) - n + 0.5) / (n + 0.5)), 1e-6)
        whole += weight
        for number, each in enumerate(times):
            if each:
                ordinary = 1.2 * (1 - 0.75 + 0.75 * len(of[number]) / average)
                scores[number] = scores.get(number, 0) + weight * each * 2.2 / (each + ordinary)
    return scores, whole


def ranked(scores):
    best = sorted(scores, key=lambda number: (-scores[number], number))[:DEPTH]
    return {number: rank for rank, number in enumerate(best, 1)}


def ask(searches, question, hybrid=None, **more):
    (answer,) = searches.search([Query(text=question, hybrid=hybrid or Hybrid(), explain=True, **more)])
    return answer


def numbers(answer):
    return [int(hit.document.id) for hit in answer.hits]


@pytest.mark.parametrize("method", list(Fusion))
@pytest.mark.parametrize("question", QUESTIONS)
def test_what_explain_tells_of_words_is_what_plain_python_computes(
    searches, encoder, vectors, question, method
):
    (query,) = encoder.encode_queries([question])
    cosines = dict(enumerate((vectors @ query).tolist()))
    keyword, whole = bm25(question)
    by_words, by_meaning = ranked(keyword), ranked(cosines)
    low, high = (pick(cosines[number] for number in by_meaning) for pick in (min, max))
    fused = {}
    for number in by_words | by_meaning:
        if method is Fusion.RRF:
            ranks = [each[number] for each in (by_words, by_meaning) if number in each]
            fused[number] = sum(1 / (60 + rank) for rank in ranks)
        else:
            place = (max(cosines[number], low) - low) / (high - low)
            share = keyword[number] / whole if number in by_words else 0
            fused[number] = 0.4 * place + 0.6 * share
    answer = ask(searches, question, Hybrid(method), k=40)
    assert len(answer.hits) == 40
    for hit in answer.hits:
        number, words = int(hit.document.id), hit.words
        assert hit.at.score == pytest.approx(cosines[number], abs=1e-5)
        assert words.meaning_rank == by_meaning.get(number)
        assert words.rank == by_words.get(number)
        if number in by_words:
            assert words.score == pytest.approx(keyword[number], rel=1e-6)
        else:
            assert words.score is None
        assert words.fused == pytest.approx(fused[number], abs=1e-5)
    told = [hit.words.fused for hit in answer.hits]
    assert told == sorted(told, reverse=True)
    assert told == pytest.approx(sorted(fused.values(), reverse=True)[:40], abs=1e-5)


def test_a_document_that_only_its_words_find_comes_with_its_passage_and_its_cosine(
    searches, encoder, vectors
):
    question = "alpha beta kilo zulu delta gamma omega sigma XK4471Q"
    (query,) = encoder.encode_queries([question])
    assert np.sum(vectors @ query > vectors[100] @ query) >= DEPTH  # by meaning it is far down
    answer = ask(searches, question, Hybrid(weight=0.9), k=3)
    (hit,) = (hit for hit in answer.hits if hit.document.id == "100")
    assert (hit.words.meaning_rank, hit.at.prefix_rank) == (None, None)
    assert hit.words.rank == 1
    assert hit.at.score == pytest.approx(float(vectors[100] @ query), abs=1e-5)
    assert TEXTS[100][hit.at.start : hit.at.end] == TEXTS[100]
    without = ask(searches, question, Hybrid(weight=0.0), k=3)
    assert (
        answer.found.rows_read == without.found.rows_read + 1
    )  # nothing is read for who isn't among the hits
    assert "100" not in [hit.document.id for hit in without.hits]


@pytest.mark.parametrize("method", list(Fusion))
def test_pages_join_to_the_whole(searches, method):
    whole = numbers(ask(searches, "kilo zulu", Hybrid(method), k=140))
    assert len(set(whole)) == 140
    pages = [
        numbers(ask(searches, "kilo zulu", Hybrid(method), k=20, offset=offset))
        for offset in range(0, 140, 20)
    ]
    assert list(itertools.chain(*pages)) == whole


@pytest.mark.parametrize("method", list(Fusion))
def test_behind_the_documents_that_have_ranks_the_order_is_that_by_meaning(
    searches, encoder, vectors, method
):
    question = "XK4471Q"  # one document has it
    cosines = vectors @ encoder.encode_queries([question])[0]
    by_meaning = np.argsort(-cosines, kind="stable").tolist()
    assert by_meaning.index(100) < 100
    by_meaning.remove(100)
    assert numbers(ask(searches, question, Hybrid(method), k=168)) == [100, *by_meaning]


def test_a_threshold_and_a_filter_still_give_k_where_there_are_k(searches, encoder, vectors):
    question = "alpha beta kilo zulu delta gamma omega sigma XK4471Q"
    cosines = vectors @ encoder.encode_queries([question])[0]
    least = float(np.sort(cosines)[-30])
    answer = ask(searches, question, k=30, score_threshold=least - 1e-5)
    assert sorted(numbers(answer)) == sorted(np.argsort(-cosines)[:30].tolist())
    narrow = parse_filter({"n": {"$lt": 20}}, where="filter", limits=LimitSettings())
    answer = ask(searches, "kilo", k=20, filter=narrow)
    assert sorted(numbers(answer)) == list(range(20))
    words = [number for number in range(20) if "kilo" in tokens(TEXTS[number])]
    assert set(numbers(answer)[: len(words)]) == set(words)


def test_a_hybrid_search_reads_hardly_more_than_one_by_meaning(searches):
    (plain,) = searches.search([Query(text="kilo zulu")])
    assert plain.found.candidates == 80
    both = ask(searches, "kilo zulu")
    assert both.found.candidates == 150
    assert ask(searches, "kilo zulu", oversample=16).found.candidates == 160


def test_the_gauge_hears_of_the_hits_and_not_of_all_that_was_looked_at(searches):
    heard = []
    listening = Searches(
        searches.store, searches.encoder, searches.index, lambda store, vectors, found: heard.extend(found)
    )
    listening.search([Query(text="kilo zulu", k=7, hybrid=Hybrid())])
    (plain,) = searches.search([Query(text="kilo zulu", k=7)])
    (found,) = heard
    assert [hit.document for hit in found.hits] == [hit.at.document for hit in plain.hits]


def test_the_words_are_looked_for_while_the_model_encodes(searches, monkeypatch):
    looked, encode, search = threading.Event(), searches.encoder.encode_queries, FullText.search

    def looking(*arguments):
        looked.set()
        return search(*arguments)

    def encoding(texts):
        assert looked.wait(timeout=30), "nobody looks for the words yet"
        return encode(texts)

    monkeypatch.setattr(FullText, "search", looking)
    monkeypatch.setattr(searches.encoder, "encode_queries", encoding)
    [answer] = searches.search([Query(text="asked for the first time: kilo", hybrid=Hybrid())])
    assert len(answer.hits) == 10


def test_the_words_of_a_question_asked_again_are_looked_for_in_the_same_thread(searches, monkeypatch):
    threads, search = [], FullText.search

    def looking(*arguments):
        threads.append(threading.current_thread())
        return search(*arguments)

    monkeypatch.setattr(FullText, "search", looking)
    first, again = (searches.search([Query(text="zulu omega", hybrid=Hybrid())]) for _ in range(2))
    assert first[0].hits == again[0].hits
    assert [each is threading.current_thread() for each in threads] == [False, True]


def test_an_order_by_meaning_and_words_is_never_certified(searches):
    for mode in (Mode.EXACT, Mode.CERTIFIED):
        answer = ask(searches, "kilo zulu", mode=mode)
        assert not answer.certified
    assert "hybrid" in answer.warnings[0]
