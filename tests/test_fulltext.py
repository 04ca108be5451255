"""Exact words: found is what brute force finds, nothing in a question is syntax, and the index keeps in step."""

import sqlite3
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.catalog import Catalog, keyword_search
from server.catalog.fulltext import PASSAGES
from server.catalog.selections import select
from server.catalog.words import MAX_TERMS, TOKENIZER, register, spaced, terms
from server.records import DocumentWrite

GOLDEN = Path(__file__).parent / "golden"
# Each is its own stem; four of them mean something to FTS5.
WORDS = ["alpha", "beta", "kilo", "zulu", "and", "or", "not", "near"]


class Filled:
    """A catalog that knows which rows are free."""

    def __init__(self, path):
        self.path = path
        self.catalog = Catalog(path)
        self.row = 0
        self.catalog.generations.begin(1, "{}", 4, "float16")

    def store(self, texts, passages=None):
        """Store texts by id; each is one passage, or has those given."""
        spans = {identifier: [(0, len(text or ""))] for identifier, text in texts.items()} | (passages or {})
        writes = [
            DocumentWrite(identifier, text, "{}", str(text).encode(), False, spans[identifier])
            for identifier, text in texts.items()
        ]
        first = self.row
        self.row += sum(len(each.passages) for each in writes)
        self.catalog.store(1, writes, [], first, [0] * (self.row - first))

    def found(self, question, limit=100, **more):
        """The ids of the documents found, best first."""
        hits = self.catalog.fulltext.search(question, limit, **more)
        documents = self.catalog.documents(hits.documents.tolist())
        return [documents[number].id for number in hits.documents.tolist()]

    def check(self):
        """Let FTS5 compare its index with the texts, token by token."""
        connection = sqlite3.connect(self.path)
        register(connection)
        connection.execute("INSERT INTO fulltext (fulltext, rank) VALUES ('integrity-check', 1)")
        connection.close()
        assert self.catalog.problems() == []


@pytest.fixture
def filled(tmp_path):
    filled = Filled(tmp_path / "catalog.sqlite3")
    with filled.catalog:
        yield filled


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """One that hypothesis writes to; examples must not mind what others left."""
    filled = Filled(tmp_path_factory.mktemp("scratch") / "catalog.sqlite3")
    with filled.catalog:
        yield filled


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A document for each pair of WORDS, called by them."""
    filled = Filled(tmp_path_factory.mktemp("words") / "catalog.sqlite3")
    filled.store({f"{one} {two}": f"{one} {two}" for one in WORDS for two in WORDS if one != two})
    with filled.catalog:
        yield filled


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """2000 texts of words whose frequencies fall as in real ones."""
    filled = Filled(tmp_path_factory.mktemp("many") / "catalog.sqlite3")
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 40, 2000)
    filled.store(
        {f"d{at}": " ".join(f"w{n}" for n in rng.zipf(1.3, length) if n < 5000) for at, length in enumerate(lengths)}
    )  # fmt: skip
    with filled.catalog:
        yield filled


# Questions


@given(st.text())
def test_no_question_raises(words, question):
    words.catalog.fulltext.search(question, 10)


SYNTAX = [
    "*",
    "^",
    ":",
    "(",
    ")",
    "{",
    "}",
    "+",
    "-",
    ",",
    "'",
    ";",
    "\\",
    "\0",
    "text:",
    "\ud800",
    "🦊",
    "--",
    "%",
]


@given(
    st.lists(st.sampled_from(WORDS), max_size=4),
    st.lists(st.sampled_from([*SYNTAX, " "]), max_size=30),
    st.randoms(),
)
def test_only_the_words_of_a_question_count_whatever_stands_between_them(words, wanted, junk, random):
    parts = [f" {word} " for word in wanted] + junk
    random.shuffle(parts)
    expected = {f"{one} {two}" for one in WORDS for two in WORDS if one != two and {one, two} & set(wanted)}
    assert set(words.found("".join(parts))) == expected


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ('"alpha beta"', {"alpha beta"}),
        ("“alpha beta”", {"alpha beta"}),
        ('"alpha beta" "zulu kilo"', {"alpha beta", "zulu kilo"}),
        ('"alpha NOT"', {"alpha not"}),
        ('"alpha* beta^"', {"alpha beta"}),
        ('" "', set()),
        ('""""', set()),
    ],
)
def test_what_stands_between_quotation_marks_is_a_phrase(words, question, found):
    assert set(words.found(question)) == found


@pytest.mark.parametrize("question", ['alpha beta"', 'alpha "beta', '"" alpha "beta', 'alpha""beta'])
def test_a_quotation_mark_without_a_second_one_separates_words(words, question):
    assert set(words.found(question)) == set(words.found("alpha beta"))


def test_a_question_of_ten_thousand_words_is_cut_to_its_first_terms(words):
    question = " ".join(f"word{n}" for n in range(10_000))
    assert terms(question) == [f'"word{n}"' for n in range(MAX_TERMS)]
    assert words.found(question) == []
    assert words.found("x" * 1_000_000) == []


def test_a_term_counts_once_however_often_it_is_said(words):
    once, often = (
        words.catalog.fulltext.search(question, 9) for question in ("alpha", "alpha ALPHA Álpha alpha")
    )
    assert once.documents.tolist() == often.documents.tolist()
    assert once.n_terms == 1


# Words


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Running databases", "run database"),
        ("Café Ängström", "cafe angstrom"),
        (unicodedata.normalize("NFD", "naïve"), "naïve"),
        ("naïve", unicodedata.normalize("NFD", "naïve")),
        ("os.path.commonpath()", "commonpath"),
        ("HTTP_404_NOT_FOUND", "404"),
        ("हिन्दी भाषा", "हिन्दी"),
        ("Русские документы", "русские"),
        ("機械学習の入門", "学習"),
        ("機械学習の入門", "機械学習とは何ですか"),
        ("iPhone用ケース", "iphone"),
        ("iPhone用ケース", "ケース"),
        ("ภาษาไทยง่ายมาก", "ไทย"),
        ("한국어 문서", "문서"),
    ],
)
def test_a_text_is_found_by_its_words_in_many_scripts(filled, text, question):
    filled.store({"text": text, "other": "something else: 学, हि, 用 and ภ"})
    assert filled.found(question)[0] == "text"
    assert filled.found(question) == ["text"]
    filled.check()


def test_a_phrase_in_a_script_without_spaces_is_found_as_it_stands(filled):
    filled.store({"in order": "東京都庁", "apart": "京都と東の都庁"})
    assert filled.found('"東京都"') == ["in order"]
    assert set(filled.found("東京都")) == {"in order", "apart"}  # 京都 is in both


@given(st.text(alphabet=st.characters(categories=["L", "N"]), min_size=1, max_size=12))
@settings(max_examples=200)
def test_every_word_is_looked_for_as_it_was_indexed(word):
    memory = sqlite3.connect(":memory:")
    memory.execute(f"CREATE VIRTUAL TABLE t USING fts5 (text, tokenize = '{TOKENIZER}')")
    memory.execute("INSERT INTO t VALUES (?)", (spaced(f"before {word} behind"),))
    memory.execute("CREATE VIRTUAL TABLE v USING fts5vocab (t, instance)")
    if memory.execute("SELECT count(*) FROM v").fetchone()[0] > 2:  # SQLite knows its characters
        found = memory.execute("SELECT count(*) FROM t WHERE t MATCH ?", (" AND ".join(terms(word)),))
        assert found.fetchone() == (1,)
    memory.close()


# Scores


def bm25(catalog, question):
    """FTS5's own answer: {number: score}, best first."""
    statement = "SELECT rowid, -bm25(fulltext) FROM fulltext WHERE fulltext MATCH ? ORDER BY 2 DESC, 1"
    with catalog._database.reading() as connection:
        return dict(connection.execute(statement, (" OR ".join(terms(question)),)))


@given(st.lists(st.integers(20, 400), min_size=1, max_size=12))
@settings(max_examples=60)
def test_where_few_documents_have_the_words_the_answer_is_bm25s_own(many, numbers):
    question = " ".join(f"w{n}" for n in numbers)
    hits = many.catalog.fulltext.search(question, 50)
    expected = list(bm25(many.catalog, question).items())[:50]
    assert hits.n_left_out == 0
    assert hits.documents.tolist() == [number for number, _ in expected]
    np.testing.assert_allclose(hits.scores, [score for _, score in expected])


def test_two_passes_give_the_scores_of_one_and_find_more_the_more_they_score(many, monkeypatch):
    rng = np.random.default_rng(1)
    questions = [" ".join(f"w{n}" for n in rng.zipf(1.3, 8) if n < 5000) for _ in range(60)]
    monkeypatch.setattr(keyword_search, "SECOND_PASS", 40)
    shares = {50: [], 200: [], 20_000: []}  # of the ten best
    for n_scored, found in shares.items():
        monkeypatch.setattr(keyword_search, "SCORED", n_scored)
        for question in filter(None, questions):
            expected = bm25(many.catalog, question)
            hits = many.catalog.fulltext.search(question, 10)
            assert hits.n_left_out == 0
            np.testing.assert_allclose(hits.scores, [expected[number] for number in hits.documents.tolist()])
            assert (np.diff(hits.scores) <= 0).all()
            best = list(expected)[:10]
            found.append(len(set(hits.documents.tolist()) & set(best)) / len(best))
    means = [np.mean(found) for found in shares.values()]
    assert 0.7 < means[0] < means[1] < means[2] == 1.0


def test_a_common_word_is_looked_for_in_the_newest_documents(many, monkeypatch):
    monkeypatch.setattr(keyword_search, "MOST_SCORED", 50)
    expected = bm25(many.catalog, "w1")
    hits = many.catalog.fulltext.search("w1", 20)
    newest = sorted(expected)[-50:]
    best = sorted(newest, key=lambda number: (-expected[number], number))[:20]
    assert hits.documents.tolist() == best


def test_words_that_too_many_documents_have_count_in_no_score_and_are_told(many, monkeypatch):
    monkeypatch.setattr(keyword_search, "SCORED", 20)
    monkeypatch.setattr(keyword_search, "SCANNED", 100)
    with_both, alone = (many.catalog.fulltext.search(question, 5) for question in ("w1 w200", "w200"))
    assert (with_both.n_terms, with_both.n_left_out) == (2, 1)
    n_found = len(alone.documents)
    assert with_both.documents[:n_found].tolist() == alone.documents.tolist()
    assert with_both.scores[:n_found].tolist() == alone.scores.tolist()


# Selections


@pytest.mark.parametrize("few", [0, 2000])
@pytest.mark.parametrize("share", [0.5, 0.05, 0.001, 0.0])
def test_only_selected_documents_are_found_and_none_of_them_is_missed(many, monkeypatch, few, share):
    monkeypatch.setattr(keyword_search, "FEW", few)
    rng = np.random.default_rng(2)
    rows = np.flatnonzero(rng.random(many.row) < share)
    selection = select(rows, many.row)
    chosen = set(rows + 1)  # one passage each: row 0 is document 1
    for question in ("w7", "w40 w41 w42 w43", "w1 w300", '"w1 w2" w90'):
        expected = [number for number in bm25(many.catalog, question) if number in chosen]
        hits = many.catalog.fulltext.search(question, 2000, 1, selection)
        assert hits.documents.tolist() == expected


def test_a_selection_by_rows_of_long_documents_finds_each_of_them_once(filled):
    texts = {f"d{at}": "one two three" for at in range(40)}
    filled.store(texts, {identifier: [(0, 3), (4, 7), (8, 13)] for identifier in texts})
    selection = select(np.arange(30, 61), filled.row)  # rows 30 to 60: documents 10 to 20
    assert filled.found("two", generation=1, selection=selection) == [f"d{at}" for at in range(10, 21)]


# In step


operations = st.lists(
    st.tuples(
        st.sampled_from(["store", "store", "store", "delete", "metadata", "fail"]),
        st.dictionaries(
            st.sampled_from("abcdef"),
            st.none() | st.lists(st.sampled_from([*WORDS, "学習", "ไทย"]), max_size=5).map(" ".join),
            min_size=1,
        ),
    ),
    max_size=12,
)


@given(operations)
@settings(max_examples=40, deadline=None)
def test_the_index_is_in_step_after_any_writes(scratch, steps):
    scratch.catalog.delete(list("abcdef"))
    there = {}
    for what, texts in steps:
        if what == "store":
            scratch.store(texts)
            there |= texts
        elif what == "delete":
            scratch.catalog.delete(list(texts))
            there = {name: text for name, text in there.items() if name not in texts}
        elif what == "metadata":
            known = scratch.catalog.known(list(texts))
            changes = [(name, each.content_hash, '{"new":1}') for name, each in known.items()]
            scratch.catalog.store(1, [], changes, scratch.row, [])
        else:  # in the middle of the transaction: a checksum is missing
            writes = [DocumentWrite(name, text, "{}", b"", False, [(0, 1)]) for name, text in texts.items()]
            with pytest.raises(StopIteration):
                scratch.catalog.store(1, writes, [], scratch.row, [0] * (len(writes) - 1))
    for word in [*WORDS, "学習", "ไทย"]:
        expected = {name for name, text in there.items() if text and word in text.split()}
        assert set(scratch.found(word)) == expected
    scratch.check()


def test_another_generation_changes_nothing(filled):
    filled.store({"a": "alpha", "b": "beta"})
    filled.catalog.generations.prepare(2, "{}", 8, "float16", "{}", "{}")
    filled.catalog.fill(2, [(1, b"alpha", [(0, 2), (2, 5)]), (2, b"beta", [(0, 4)])], 0, [0, 0, 0])
    filled.catalog.generations.switch(2, "job", "{}")
    assert filled.found("alpha beta") == ["a", "b"]
    filled.catalog.generations.drop(1)
    assert filled.found("alpha beta") == ["a", "b"]
    filled.check()


def test_a_migrated_catalogs_texts_are_found(tmp_path):
    path = tmp_path / "catalog.sqlite3"
    path.write_bytes((GOLDEN / "format-1" / "collections" / "default" / "catalog.sqlite3").read_bytes())
    with Catalog(path) as catalog:
        hits = catalog.fulltext.search('"document 25" of the golden folder', 3)
        assert catalog.documents([int(hits.documents[0])])[int(hits.documents[0])].id == "d25"
        assert catalog.problems() == []
    connection = sqlite3.connect(path)
    register(connection)
    connection.execute("INSERT INTO fulltext (fulltext, rank) VALUES ('integrity-check', 1)")
    connection.close()


def test_a_catalog_that_is_only_read_can_be_searched(filled):
    filled.store({"a": "alpha"})
    filled.catalog.close()
    with Catalog(filled.path, read_only=True) as catalog:
        assert catalog.fulltext.search("alpha", 5).documents.tolist() == [1]


def test_what_the_index_lacks_or_has_too_much_is_told_and_mended(filled):
    filled.store({"a": "alpha", "b": "beta", "c": None})
    with filled.catalog._database.transaction() as connection:
        connection.execute("INSERT INTO fulltext (fulltext, rowid, text) VALUES ('delete', 1, 'alpha')")
        connection.execute("INSERT INTO fulltext (rowid, text) VALUES (3, 'gamma')")
    assert filled.catalog.problems() == [
        "1 documents are missing from the full-text index",
        "the full-text index has 1 documents that are gone",
    ]
    filled.catalog.fulltext.rebuild()
    assert filled.found("alpha gamma") == ["a"]
    filled.check()


# Passages


TEXT = "Snow in March. The harbour froze, and ships waited. 学習の harbour master wrote: “Snow, ice, ships!”"


def test_the_passage_with_most_of_the_words_is_chosen_and_marked(filled):
    spans = [(0, 14), (15, 51), (52, len(TEXT))]
    filled.store({"log": TEXT, "other": "harbour harbour harbour"}, {"log": spans})
    row = filled.catalog.passages_of_rows(1, [0, 1, 2, 3])
    best = filled.catalog.fulltext.best_passages

    def chosen(question):
        passage = best(question, 1, [1])[1]
        assert row[passage.row].start == passage.start
        assert spans.count((passage.start, passage.end)) == 1
        return passage.row, [TEXT[start:end] for start, end in passage.marks]

    assert chosen("snow") == (0, ["Snow"])  # of equal ones the first
    assert chosen("frozen ship froze") == (1, ["froze", "ships"])
    assert chosen("harbour snow ship") == (2, ["harbour", "Snow", "ships"])
    assert chosen('"snow ice"') == (2, ["Snow, ice"])
    assert chosen("学習") == (2, ["学習"])
    assert chosen("nothing of it") == (0, [])


def test_passages_are_found_for_many_documents_at_once_and_for_none_without_text(filled):
    filled.store({"a": "alpha", "none": None, "b": "beta alpha"})
    passages = filled.catalog.fulltext.best_passages("alpha", 1, [3, 2, 1])
    assert {number: passage.marks for number, passage in passages.items()} == {1: ((0, 5),), 3: ((5, 10),)}
    assert filled.catalog.fulltext.best_passages("alpha", 2, [1]) == {}
    assert filled.catalog.fulltext.best_passages("alpha", 1, []) == {}


@given(st.text(max_size=60))
@settings(deadline=None)
def test_marks_stand_around_whole_words_of_any_text(scratch, text):
    text = f"zulu {text.encode('utf-8', 'ignore').decode()} zulu"
    scratch.store({"a": text})
    [number] = scratch.catalog.fulltext.search("zulu", 1).documents.tolist()
    [passage] = scratch.catalog.fulltext.best_passages("zulu", 1, [number]).values()
    assert {text[first:last].lower() for first, last in passage.marks} == {"zulu"}


def test_passages_are_looked_up_by_document_however_many_there_are(filled):
    """By its own choice SQLite goes through all passages for as few as ten documents."""
    filled.store({"a": "alpha"})
    connection = sqlite3.connect(filled.path)
    plan = connection.execute(
        "EXPLAIN QUERY PLAN " + PASSAGES.format(",".join("?" * 10)), (1, *range(10))
    ).fetchall()
    connection.close()
    (step,) = (text for *_, text in plan if "passages" in text)
    assert step.startswith("SEARCH passages USING INDEX passages_by_document")


def test_the_passage_without_marks_is_the_same(filled):
    long = "alpha beta. " * 30 + "kilo zulu. " * 30
    spans = {"long": [(0, 360), (360, len(long))]}
    filled.store({"short": "zulu", "long": long}, spans)
    hits = filled.catalog.fulltext.search("zulu", 10).documents.tolist()
    marked = filled.catalog.fulltext.best_passages("zulu", 1, hits)
    plain = filled.catalog.fulltext.best_passages("zulu", 1, hits, marked=False)
    assert {number: (each.row, each.start) for number, each in plain.items()} == {
        number: (each.row, each.start) for number, each in marked.items()
    }
    assert sorted(each.start for each in plain.values()) == [0, 360]


def test_the_whole_is_what_a_document_of_ordinary_length_scores_that_has_every_term_once(filled):
    filled.store({f"d{n}": "kilo" for n in range(9)} | {"both": "alpha beta"} | {"one": "alpha"})
    hits = filled.catalog.fulltext.search("alpha beta nobody", 10)
    # 11 documents: two have alpha, one beta, none the third.
    weights = [np.log((11 - n + 0.5) / (n + 0.5)) for n in (2, 1, 0)]
    assert hits.whole == pytest.approx(sum(weights))
    assert filled.catalog.fulltext.search("nobody", 10).whole == 0
