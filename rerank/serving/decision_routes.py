"""`/v1/decisions`: typed questions about an input, answered by probabilities."""

from __future__ import annotations

from fastapi import FastAPI, Request

from rerank.serving.decision_service import DecisionService
from rerank.serving.ranking_service import RankingService
from rerank.serving.request_handling import handle_request
from rerank.tasks.dialects.decisions import DecisionRequest, DecisionResponse


def add_decision_routes(app: FastAPI, service: RankingService) -> None:
    """Add the endpoint to the application."""
    decisions = DecisionService(service)

    @app.post("/v1/decisions", summary="Answer typed questions with probabilities")
    async def decide(request: Request, body: DecisionRequest) -> DecisionResponse:
        work = decisions.decide(body, request.state.client)
        return await handle_request(request, service.metrics, work)
