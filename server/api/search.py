"""Routes under /search."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Response

from index.two_pass import Mode
from server.api.answers import answer
from server.api.bodies import Search, SearchList
from server.api.openapi import json_body
from server.api.rights import for_readers
from server.api.routes import Route
from server.api.schemas import HybridIn, Include, SearchesIn, SearchesOut, SearchIn, SearchOut
from server.api.threads import Service
from server.checks import check_count, check_utf8
from server.conditions import parse_path
from server.errors import InputError, TooLargeError
from server.filters import parse_filter
from server.hybrid import Hybrid
from server.queries import Answer, Hit, Query
from server.settings import Settings

router = APIRouter(tags=["search"], route_class=Route)


@router.post("/search", response_model=SearchOut, openapi_extra=json_body(SearchIn))
@for_readers
async def search(service: Service, body: Search) -> Response:
    """Find the k best documents by meaning."""
    query = query_of(body, service.settings, "")
    answers, total_s = await service.search([query])
    out = search_out(body, answers[0], total_s)
    response = answer(out)
    response.headers["Server-Timing"] = ", ".join(
        f"{name};dur={ms}" for name, ms in out["timings_ms"].items()
    )
    return response


@router.post("/search/batch", response_model=SearchesOut, openapi_extra=json_body(SearchesIn))
@for_readers
async def search_batch(service: Service, body: SearchList) -> Response:
    """Several searches in one request, encoded together."""
    searches = body.searches
    settings = service.settings
    check_count(len(searches), "searches", settings.limits.searches_per_batch, "searches_per_batch")
    queries = [query_of(each, settings, f"searches[{at}].") for at, each in enumerate(searches)]
    answers, total_s = await service.search(queries)
    return answer({"results": [search_out(*each, total_s) for each in zip(searches, answers, strict=True)]})


def check_query(text: str, limit_bytes: int, where: str) -> None:
    n_bytes = len(check_utf8(text, where))
    if n_bytes > limit_bytes:
        raise TooLargeError(
            f"{where} has {n_bytes} bytes; the limit is {limit_bytes}",
            "Shorten it: a model reads its beginning only. Or raise limits.query_bytes.",
        )


def query_of(body: SearchIn, settings: Settings, where: str) -> Query:
    """Check what the schema can't. `where` is what stands before a field's name in an error."""
    k_limit = settings.limits.k
    if body.k > k_limit:
        raise InputError(
            f"k is {body.k}; the largest is {k_limit}", f"{where}k", "Ask for fewer, or raise limits.k."
        )
    if body.offset + body.k > k_limit:
        raise InputError(
            f"offset and k are {body.offset + body.k} together; the largest is {k_limit}", f"{where}offset",
            "Narrow the search by a filter, or raise limits.k.",
        )  # fmt: skip
    if body.query is not None:
        check_query(body.query, settings.limits.query_bytes, f"{where}query")
    if body.group_by is not None:
        parse_path(body.group_by, f"{where}group_by")
    return Query(
        text=body.query,
        vector=body.vector,
        like=body.like,
        k=body.k,
        offset=body.offset,
        mode=body.mode,
        oversample=body.oversample,
        target_recall=body.target_recall,
        filter=None
        if body.filter is None
        else parse_filter(body.filter, where=f"{where}filter", limits=settings.limits),
        score_threshold=body.score_threshold,
        group_by=body.group_by,
        hybrid=_hybrid(body, settings.index.hybrid == "usual"),
        mmr=body.mmr,
        with_vectors="vector" in body.include,
        explain="explain" in body.include,
        max_read=body.max_read,
        where=where,
    )


def search_out(body: SearchIn, answer: Answer, total_s: float) -> dict[str, Any]:
    """Build a SearchOut, as the dict that is its JSON: making the models takes three times as long."""
    found = answer.found
    seconds = {
        "encode": answer.encode_s,
        "filter": answer.filter_s,
        "first_pass": found.first_pass_s,
        "second_pass": found.second_pass_s,
        "words": answer.words_s,
        "fetch": answer.fetch_s,
        "total": total_s,
    }
    out: dict[str, Any] = {
        "hits": [hit_out(hit, body.include) for hit in answer.hits],
        "candidates": found.candidates,
        "certified": answer.certified,
        "timings_ms": {name: round(each * 1000, 3) for name, each in seconds.items()},
        "warnings": answer.warnings,
    }
    if "explain" in body.include:
        out["explain"] = {
            "rows_read": found.rows_read,
            "bytes_read": found.bytes_read,
            "cold_reads": None if found.cold_reads < 0 else found.cold_reads,
            "proved": found.n_proved,
            "oversample": answer.reach.oversample,
            "lists": answer.reach.n_probes,
            "measured_recall": answer.reach.recall,
            "allowed": answer.n_allowed,
        }
    return out


def hit_out(hit: Hit, include: Sequence[Include]) -> dict[str, Any]:
    """Build a HitOut, with what is to be included."""
    document, at = hit.document, hit.at
    text = document.text if "text" in include or "passage" in include else None
    passage = None if text is None else text[at.start : at.end]
    out: dict[str, Any] = {
        "id": document.id,
        "score": _cosine(at.score),
        "passage": {"start": at.start, "end": at.end, "text": passage},
    }
    if "text" in include:
        out["text"] = text
    if "metadata" in include:
        out["metadata"] = document.metadata
    if hit.vector is not None:
        out["vector"] = hit.vector.tolist()
    if "explain" in include:
        prefix_score = None if at.prefix_score is None else _cosine(at.prefix_score)
        out["explain"] = {
            "prefix_score": prefix_score,
            "prefix_rank": at.prefix_rank,
            "rank": hit.rank,
            "scores": {str(length): _cosine(score) for length, score in hit.scores.items()},
            "words": None if hit.words is None else vars(hit.words),
        }
    return out


def _hybrid(body: SearchIn, is_usual: bool) -> Hybrid | None:
    """Whether words count, and how; where the search doesn't say, `is_usual` does for plain searches by text."""
    if isinstance(body.hybrid, HybridIn):
        return Hybrid(body.hybrid.fusion, body.hybrid.weight)
    wanted = body.hybrid
    if wanted is None:
        is_plain = body.group_by is None and body.mmr is None
        wanted = is_usual and is_plain and body.query is not None and body.mode is Mode.TWO_PASS
    return Hybrid() if wanted else None


def _cosine(score: float) -> float:
    """Rounding can put the product of two unit vectors a hair outside."""
    return min(1.0, max(-1.0, score))
