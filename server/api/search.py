"""Routes under /search."""

import time
from collections.abc import Sequence

from fastapi import APIRouter

from server.api.schemas import (
    HitExplanation,
    HitOut,
    PassageOut,
    SearchesIn,
    SearchesOut,
    SearchExplanation,
    SearchIn,
    SearchOut,
)
from server.api.threads import Running, Service
from server.errors import InputError, TooLargeError
from server.searches import Answer, Hit, Query

router = APIRouter(tags=["search"])


@router.post("/search", response_model_exclude_unset=True)
async def search(service: Service, body: SearchIn) -> SearchOut:
    """Find the k best documents by meaning."""
    return (await _search(service, [query_of(body, service.settings.limits.k, "")], [body]))[0]


@router.post("/search/batch", response_model_exclude_unset=True)
async def search_batch(service: Service, body: SearchesIn) -> SearchesOut:
    """Several searches in one request, encoded together."""
    limit = service.settings.limits.searches_per_batch
    if len(body.searches) > limit:
        raise TooLargeError(f"{len(body.searches)} searches in one request; the limit is {limit}")
    queries = [
        query_of(each, service.settings.limits.k, f"searches[{at}].") for at, each in enumerate(body.searches)
    ]
    return SearchesOut(results=await _search(service, queries, body.searches))


async def _search(service: Running, queries: Sequence[Query], bodies: Sequence[SearchIn]) -> list[SearchOut]:
    started = time.perf_counter()
    answers = await service.read(service.collection.search, queries)
    total_s = time.perf_counter() - started
    return [search_out(body, answer, total_s) for body, answer in zip(bodies, answers, strict=True)]


def query_of(body: SearchIn, k_limit: int, where: str) -> Query:
    """Check what the schema can't. `where` is what stands before a field's name in an error."""
    if body.k > k_limit:
        raise InputError(
            f"k is {body.k}; the largest is {k_limit}", f"{where}k", "Ask for fewer, or raise limits.k."
        )
    return Query(
        body.query,
        body.vector,
        body.k,
        body.mode,
        body.oversample,
        body.score_threshold,
        with_vectors="vector" in body.include,
        where=where,
    )


def search_out(body: SearchIn, answer: Answer, total_s: float) -> SearchOut:
    found = answer.found
    seconds = {
        "encode": answer.encode_s,
        "first_pass": found.first_pass_s,
        "second_pass": found.second_pass_s,
        "fetch": answer.fetch_s,
        "total": total_s,
    }
    out = SearchOut(
        hits=[hit_out(hit, body) for hit in answer.hits],
        candidates=found.candidates,
        certified=answer.certified,
        timings_ms={name: round(each * 1000, 3) for name, each in seconds.items()},
        warnings=answer.warnings,
    )
    if "explain" in body.include:
        out.explain = SearchExplanation(rows_read=found.rows_read, bytes_read=found.bytes_read)
    return out


def hit_out(hit: Hit, body: SearchIn) -> HitOut:
    document, at = hit.document, hit.at
    has_text = "text" in body.include and document.text is not None
    passage = document.text[at.start : at.end] if has_text and document.text is not None else None
    out = HitOut(
        id=document.id,
        score=_cosine(at.score),
        passage=PassageOut(start=at.start, end=at.end, text=passage),
    )
    if "text" in body.include:
        out.text = document.text
    if "metadata" in body.include:
        out.metadata = document.metadata
    if hit.vector is not None:
        out.vector = hit.vector.tolist()
    if "explain" in body.include:
        prefix_score = None if at.prefix_score is None else _cosine(at.prefix_score)
        out.explain = HitExplanation(prefix_score=prefix_score, prefix_rank=at.prefix_rank, rank=hit.rank)
    return out


def _cosine(score: float) -> float:
    """Rounding can put the product of two unit vectors a hair outside."""
    return min(1.0, max(-1.0, score))
