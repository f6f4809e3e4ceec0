"""Endpoint `/score`, which scores pairs of texts in the format of vLLM."""

from __future__ import annotations

import time

from fastapi import FastAPI, Request, Response

from rerank.reranker.hits import RANK_BASED, compute_pair_scores
from rerank.serving.api_errors import error_documentation
from rerank.serving.disconnects import run_while_connected
from rerank.serving.ranking_service import RankingService
from rerank.serving.rerank_routes import add_warnings_header
from rerank.tasks.dialects.common import CommonUsage
from rerank.tasks.dialects.question import RerankQuestion
from rerank.tasks.dialects.scores import PairScore, ScoreRequest, ScoreResponse

#: Warning for scores computed from ranks among the documents of the same query.
_RANKS_OF_QUERIES = (
    "The scores of different queries cannot be compared: each is 1 / rank among the documents of its query, so a "
    "query's only document scores 1. The method has no calibration (rerank calibrate)."
)


def add_score_routes(app: FastAPI, service: RankingService) -> None:
    """Add the endpoints ``/score`` and ``/v1/score`` to the application."""

    @app.post("/score", summary="Score pairs in the format of vLLM", responses=error_documentation())
    @app.post("/v1/score", summary="Score pairs in the format of vLLM", responses=error_documentation())
    async def score(request: Request, response: Response, body: ScoreRequest) -> ScoreResponse:
        work = _score_pairs(service, body, request.state.client)
        found, warnings = await run_while_connected(request, work, timeout=service.settings.timeout)
        add_warnings_header(response, warnings)
        return found


async def _score_pairs(service: RankingService, body: ScoreRequest, client: str) -> tuple[ScoreResponse, list[str]]:
    """Rank the documents of each query; return their scores in the order of the request, and the warnings."""
    by_query: dict[str, list[int]] = {}
    pairs = body.pairs()
    service.check_documents(len(pairs))
    for index, (query, _) in enumerate(pairs):
        by_query.setdefault(query, []).append(index)
    seconds, started = service.settings.deadline, time.monotonic()
    found = []
    warnings: dict[str, None] = {}
    for query, indices in by_query.items():
        question = RerankQuestion(
            query=query,
            documents=[pairs[index][1] for index in indices],
            model=body.model,
            instruction=body.instruction or "",
            deadline=None if seconds is None else seconds - (time.monotonic() - started),
        )
        ranked = await service.rank(question, client)
        found.append(ranked.hits)
        warnings |= dict.fromkeys(ranked.warnings)
    scores = [0.0] * len(pairs)
    list_scores, notes = compute_pair_scores(found)
    for indices, hits, hit_scores in zip(by_query.values(), found, list_scores, strict=True):
        for hit, score in zip(hits, hit_scores, strict=True):
            scores[indices[hit.corpus_id]] = score
    warnings |= dict.fromkeys(notes)
    tokens_in, tokens_out = (sum(getattr(hits.usage, name) for hits in found) for name in ("tokens_in", "tokens_out"))
    if len(by_query) > 1 and warnings.pop(RANK_BASED, "") is None:
        warnings[_RANKS_OF_QUERIES] = None
    response = ScoreResponse(
        id=f"score-{time.time_ns():x}",
        created=int(time.time()),
        model=service.settings.name,
        data=[PairScore(index=index, score=score) for index, score in enumerate(scores)],
        usage=CommonUsage(prompt_tokens=tokens_in, total_tokens=tokens_in + tokens_out),
    )
    return response, list(warnings)
