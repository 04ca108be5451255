"""What was measured of a model, and the sentence that says what it comes to."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from server.models.curves import HITS, KnownItem, Point

TARGET = 0.99  # recall that counts as enough, as index.target_recall has it
FLATTERING = 0.1  # share of all passages; a pool that is more of them says little of a larger collection
CLEAR = 2.0  # standard errors; a smaller difference may be chance


@dataclass(frozen=True)
class RecallTrial:
    """What prefixes find, in both orders of dimensions."""

    questions: int
    fitted_on: int  # passages that gave the corpus's axes
    pool: int  # candidates
    model: list[Point]
    corpus: list[Point]

    def shortest(self, points: list[Point]) -> Point:
        """The shortest prefix whose pool holds TARGET of the true ones; at worst the whole vector."""
        return next((point for point in points if point.pooled >= TARGET), points[-1])


@dataclass(frozen=True)
class PromptTrial:
    """How far up known passages come, with the model's prompts and without; None where it has none.

    `gain` is the mean difference of reciprocal ranks, question by question, and `error` its standard error.
    """

    questions: int
    mrr: float
    ndcg: float
    mrr_without: float | None = None
    ndcg_without: float | None = None
    gain: float | None = None
    error: float | None = None

    @classmethod
    def of(cls, with_prompts: KnownItem, without: KnownItem | None) -> Self:
        n = len(with_prompts.reciprocal_ranks)
        if without is None:
            return cls(n, with_prompts.mrr, with_prompts.ndcg)
        gains = with_prompts.reciprocal_ranks - without.reciprocal_ranks
        error = float(np.std(gains, ddof=1) / np.sqrt(n))
        return cls(
            n, with_prompts.mrr, with_prompts.ndcg, without.mrr, without.ndcg, float(gains.mean()), error
        )


def verdict(
    dim: int,
    max_tokens: int,
    split_share: float,
    n_passages: int,
    recall: RecallTrial | None,
    prompts: PromptTrial | None,
) -> str:
    """One sentence."""
    parts = [
        _of_recall(recall, dim, n_passages)
        if recall
        else f"{n_passages} passages are too few to say how many dimensions it takes"
    ]
    if prompts is not None:
        parts.append(_of_prompts(prompts))
    parts.append(
        f"{_share(split_share)} of your texts are longer than the {max_tokens:,} tokens it reads and will be split"
        if split_share
        else f"none of your texts is longer than the {max_tokens:,} tokens it reads"
    )
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _of_recall(recall: RecallTrial, dim: int, n_passages: int) -> str:
    of_model, of_corpus = recall.shortest(recall.model), recall.shortest(recall.corpus)
    is_corpus = of_corpus.prefix_dim < of_model.prefix_dim or (
        of_corpus.prefix_dim == of_model.prefix_dim and of_corpus.pooled > of_model.pooled
    )
    best, name, other = (
        (of_corpus, "corpus's", recall.model) if is_corpus else (of_model, "model's", recall.corpus)
    )
    if best.prefix_dim == dim:
        return (
            f"no prefix finds {round(100 * TARGET)} % of the true {HITS} nearest among {recall.pool} candidates of "
            f"{n_passages:,}: keep all {dim} dimensions"
        )
    there = next(point for point in other if point.prefix_dim == best.prefix_dim)
    otherwise = "model's" if is_corpus else "corpus's"
    share = recall.pool / n_passages
    but = (
        f", but those are {round(100 * share)} % of these passages, and more passages take more"
        if share > FLATTERING
        else ""
    )
    return (
        f"{best.prefix_dim} of {dim} dimensions in the {name} order find {_share(best.pooled)} of the true {HITS} "
        f"nearest among {recall.pool} candidates of {n_passages:,} ({otherwise} order: {_share(there.pooled)}){but}"
    )


def _of_prompts(prompts: PromptTrial) -> str:
    if prompts.gain is None or prompts.error is None:
        return "the model has no prompts"
    measured = f"({prompts.gain:+.3f} ± {prompts.error:.3f} MRR)"
    if abs(prompts.gain) <= CLEAR * prompts.error or prompts.gain == 0:
        return f"its prompts make no difference that {prompts.questions} questions show {measured}"
    return f"its prompts {'help' if prompts.gain > 0 else 'do harm'} {measured}"


def _share(share: float) -> str:
    """A share in percent, with as many digits as it takes not to round it to all or nothing."""
    if share == 1:
        return "100 %"
    if 0.9995 <= share < 1 or 0 < share < 0.0005:
        return f"{share:.2%}".replace("%", " %")
    return f"{share:.1%}".replace("%", " %")
