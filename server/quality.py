"""Known items: does a document's own title, or its first sentence, find it? Nobody has to judge anything.

The question's words stand in the text it is to find, so this is easier than what people ask, and words alone find
nearly everything: it tells a missing prompt or a wrong model, not how good a good one is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from index.curve import OnProgress, Stop, draw_rows
from index.two_pass import Mode
from server.encoders.encoder import Encoder
from server.errors import NotFoundError
from server.fusion import Fusion
from server.hybrid import Hybrid
from server.live import Live
from server.queries import Answer, Query
from server.records import Document
from server.searches import Searches
from server.sentences import MIN_WORDS, SENTENCE_END
from server.settings import IndexSettings

HITS = 10  # ranks below count as not found
AT_ONCE = 16  # searches between two looks at whether it is to stop
LONGEST_TITLE, LONGEST_SENTENCE = 150, 300  # characters

PROMPT_MARGIN = 0.02
"""What a question with its prompt may lose against one without before it is said: twice the standard error of MRR
that 200 questions leave where both find the same nine of ten."""

LOST_WITHOUT_WORDS = 0.5
"""What meaning may find less than words alone, in MRR, before it is said. The bundled model, on English texts that it
was made for: at most 0.1."""


@dataclass(frozen=True)
class Question:
    """A text that should find a document."""

    text: str
    document: int  # number


def measure_quality(
    live: Live, settings: IndexSettings, sample: int, stop: Stop, on_progress: OnProgress
) -> dict[str, Any] | None:
    """Search for documents by their own titles and first sentences; None if stopped.

    Raises:
        NotFoundError: no stored text has a title or a sentence to ask with.
        EncoderError.
    """
    encoder = live.encoder
    assert encoder is not None  # the caller has looked
    documents = _drawn(live, sample)
    asked = {
        "titles": _questions(encoder, documents, title_of),
        "sentences": _questions(encoder, documents, first_sentence),
    }
    asked = {kind: questions for kind, questions in asked.items() if questions}
    if not asked:
        raise NotFoundError(
            "no stored text has a title or a first sentence to ask with",
            "A title is metadata.title, or a first line of its own.",
        )
    searches = Searches(live.store, encoder, settings)
    ways = _ways(encoder, searches)
    total = len(ways) * sum(map(len, asked.values()))
    done = 0
    result: dict[str, Any] = {kind: {"questions": len(questions)} for kind, questions in asked.items()}
    for name, search in ways.items():
        for kind, questions in asked.items():
            ranks: list[int] = []
            for first in range(0, len(questions), AT_ONCE):
                if stop():
                    return None
                on_progress(f"{kind}, {name}", done, total)
                part = questions[first : first + AT_ONCE]
                answers = search([each.text for each in part])
                ranks += [rank_of(each.document, found) for each, found in zip(part, answers, strict=True)]
                done += len(part)
            result[kind][name] = scores_of(ranks)
    result["documents"] = len(documents)
    result["query_prompt"] = encoder.fingerprint.query_prompt
    result["warnings"] = _warnings(result, list(asked))
    return result


def title_of(document: Document) -> str | None:
    """metadata.title, or a short first line with more text behind it; None without one."""
    title = document.metadata.get("title")
    if isinstance(title, str) and title.strip():
        return title.strip()[:LONGEST_TITLE]
    first, _, rest = (document.text or "").strip().partition("\n")
    first = first.strip("# \t\r")
    return first if first and len(first) <= LONGEST_TITLE and rest.strip() else None


def first_sentence(document: Document) -> str | None:
    """The first sentence behind the title's line, if there are at least four words in it and four more to come."""
    text = (document.text or "").strip()
    title = title_of(document)
    if title is not None and text.lstrip("# \t").startswith(title):
        text = text.lstrip("# \t")[len(title) :].strip()
    end = SENTENCE_END.search(text)
    sentence = text[: end.end() if end else LONGEST_SENTENCE].strip()
    rest = text[len(sentence) :].split()
    is_one = len(sentence.split()) >= MIN_WORDS and len(rest) >= MIN_WORDS
    return " ".join(sentence[:LONGEST_SENTENCE].split()) if is_one else None


def rank_of(document: int, answer: Answer) -> int:
    """Return the document's place among the hits, from 1; 0 where it isn't. Others with the same text don't count."""
    for place, hit in enumerate(answer.hits):
        if hit.at.document == document:
            return 1 + sum(each.document.text != hit.document.text for each in answer.hits[:place])
    return 0


def scores_of(ranks: Sequence[int]) -> dict[str, float]:
    """Return MRR, nDCG@10 and the share found among ten, of ranks from 1, 0 for not found; one right answer each."""
    found = [rank for rank in ranks if rank]
    n = max(len(ranks), 1)
    return {
        "mrr": round(sum(1 / rank for rank in found) / n, 4),
        "ndcg": round(sum(1 / math.log2(1 + rank) for rank in found) / n, 4),
        "found": round(len(found) / n, 4),
    }


def _drawn(live: Live, sample: int) -> list[Document]:
    """Documents with a text, drawn by their passages."""
    store = live.store
    rows = draw_rows(store.index.snapshot()[0], 8 * sample)
    chosen = np.random.default_rng(0).permutation(rows)[: 2 * sample].tolist()
    passages = store.catalog.passages_of_rows(store.generation, chosen)
    numbers = list(dict.fromkeys(passages[row].document for row in chosen if row in passages))
    return [each for each in store.documents(numbers).values() if each.text][:sample]


def _questions(
    encoder: Encoder, documents: Sequence[Document], of: Callable[[Document], str | None]
) -> list[Question]:
    """What the model can read in one go of each document's question."""
    found = []
    for document in documents:
        if text := of(document):
            start, end = encoder.split(text)[0]
            found.append(Question(text[start:end], document.number))
    return found


def _ways(encoder: Encoder, searches: Searches) -> dict[str, Callable[[list[str]], list[Answer]]]:
    """The searches to compare, by name."""

    def ask(mode: Mode = Mode.TWO_PASS, hybrid: Hybrid | None = None) -> Callable[[list[str]], list[Answer]]:
        return lambda texts: searches.search(
            [Query(text=text, k=HITS, mode=mode, hybrid=hybrid) for text in texts]
        )

    ways = {
        "two_pass": ask(),
        "prefix": ask(Mode.PREFIX),
        "hybrid": ask(hybrid=Hybrid()),
        "words": ask(hybrid=Hybrid(Fusion.WEIGHTED, 1.0)),
    }
    if encoder.fingerprint.query_prompt != encoder.fingerprint.document_prompt:
        # Encoded as a passage is: with the document's prompt, which for most models is none.
        ways["without_query_prompt"] = lambda texts: searches.search(
            [Query(vector=vector, k=HITS) for vector in encoder.encode_documents(texts)]
        )
    return ways


def _warnings(result: dict[str, Any], kinds: Sequence[str]) -> list[str]:
    warnings = []
    for kind in kinds:
        by_words, by_meaning = result[kind]["words"]["mrr"], result[kind]["two_pass"]["mrr"]
        if by_words - by_meaning > LOST_WITHOUT_WORDS:
            warnings.append(
                f"words alone find far more documents by their {kind} than the model does (MRR {by_words} against "
                f"{by_meaning}): was it made for the language of these texts, and for texts of this kind?"
            )
        bare = result[kind].get("without_query_prompt")
        if bare and bare["mrr"] > result[kind]["two_pass"]["mrr"] + PROMPT_MARGIN:
            warnings.append(
                f"{kind} find their documents better without the query prompt (MRR {bare['mrr']} against "
                f"{result[kind]['two_pass']['mrr']}): is it the model's own? See encoder.query_prompt."
            )
    return warnings
