"""Takes long texts apart at paragraphs, sentences and words, so that the model reads every part of them."""

import functools
from typing import TYPE_CHECKING

from server.encoders.errors import TextNotEncodable
from server.encoders.fingerprint import Role
from server.encoders.tokens import MAX_CHARACTERS_A_TOKEN, TokenCounter, check_text

if TYPE_CHECKING:
    from semantic_text_splitter import TextSplitter

Span = tuple[int, int]  # [start, end) in code points
LIKELY_CHARACTERS_A_TOKEN = 7  # at most, in English: of 20 000 short texts none had more, the median is 4


class PassageSplitter:
    """Splits texts into passages of at most `max_tokens` tokens, prompt and special tokens included.

    Neighbours overlap by at most `overlap_tokens`. A passage has at most 20 × max_tokens characters, so that
    a word that the model doesn't know, one token to it, can't become a passage of megabytes.
    Measured: 2 MB of English prose take 6 s of one core, with the GIL released; encoding them takes minutes.
    The first text that has to be split loads the splitter with a copy of the tokenizer: 10 MiB for 30 000 words.
    """

    def __init__(self, counter: TokenCounter, max_tokens: int, overlap_tokens: int) -> None:
        self._counter = counter
        self._max_tokens = max_tokens
        self._max_characters = max_tokens * MAX_CHARACTERS_A_TOKEN
        self._text_tokens = max_tokens - counter.overhead(Role.DOCUMENT)  # what is left for the text itself
        self._overlap_tokens = overlap_tokens

    def split(self, text: str) -> list[Span]:
        """The passages of `text`, without whitespace at their ends; of whitespace alone, an empty one."""
        check_text(text)
        # A token is made of at least one character of ASCII; beyond ASCII, normalisation may lengthen a text.
        whole = start, end = _trimmed(text, 0, len(text))
        if start == end:
            return [(0, 0)]
        if (text.isascii() and end - start < self._text_tokens) or self._is_short_enough(text[start:end]):
            return [whole]
        spans: list[Span] = []
        done = 0
        for start, chunk in self._splitter.chunk_indices(text):
            end = start + len(chunk)
            if end - start > self._max_characters:  # tokens of such lengths need not be repeated
                start = max(start, done)
            spans += self._short_enough(text, start, end)
            done = end
        return sorted(self._with_few_enough_tokens(text, spans)) or [(0, 0)]

    @functools.cached_property
    def _splitter(self) -> "TextSplitter":
        from semantic_text_splitter import TextSplitter

        return TextSplitter.from_huggingface_tokenizer(
            self._counter.tokenizer, self._text_tokens, overlap=self._overlap_tokens
        )

    def _is_short_enough(self, text: str) -> bool:
        """Whether a text is surely one passage. Long ones aren't counted: that would take time for nothing."""
        if len(text) > self._text_tokens * LIKELY_CHARACTERS_A_TOKEN:
            return False
        return int(self._counter.count([text], Role.DOCUMENT)[0]) <= self._max_tokens

    def _short_enough(self, text: str, start: int, end: int) -> list[Span]:
        """The span, cut wherever it is longer than `max_characters`, at whitespace if there is any near."""
        spans = []
        while end - start > self._max_characters:
            cut = _border(text, start + self._max_characters // 2, start + self._max_characters)
            spans.append(_trimmed(text, start, cut))
            start = cut
        spans.append(_trimmed(text, start, end))
        return [(first, last) for first, last in spans if first < last]

    def _with_few_enough_tokens(self, text: str, spans: list[Span]) -> list[Span]:
        """The spans, halved until the model reads all of each.

        The splitter counts a passage alone. Behind the prompt its first characters may become other tokens,
        so that it can turn out a token or two too long.
        """
        counts = self._counter.count([text[start:end] for start, end in spans], Role.DOCUMENT)
        if counts.max(initial=0) <= self._max_tokens:
            return spans
        shorter: list[Span] = []
        for (start, end), count in zip(spans, counts, strict=True):
            if count <= self._max_tokens:
                shorter.append((start, end))
            elif end - start == 1:
                raise TextNotEncodable(
                    f"the character {text[start]!r} at {start} is {count} tokens with the model's prompt, "
                    f"more than the {self._max_tokens} of a passage",
                    hint="Raise passages.max_tokens, or remove that character.",
                )
            else:
                cut = _border(text, start + (end - start) // 4, start + (end - start) // 2)
                halves = (_trimmed(text, start, cut), _trimmed(text, cut, end))
                shorter += [(first, last) for first, last in halves if first < last]
        return self._with_few_enough_tokens(text, shorter)


def _border(text: str, low: int, high: int) -> int:
    """Where to cut in [low, high]: behind the last whitespace, else at `high`."""
    for cut in range(high, low, -1):
        if text[cut - 1].isspace():
            return cut
    return high


def _trimmed(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
