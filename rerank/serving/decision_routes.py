"""Endpoint `/v1/decisions`, which answers questions (predicate, choice or score) about an input with probabilities."""

from __future__ import annotations

from fastapi import FastAPI, Request

from rerank.serving.api_errors import error_documentation
from rerank.serving.decision_service import DecisionService
from rerank.serving.disconnects import run_while_connected
from rerank.serving.ranking_service import RankingService
from rerank.tasks.dialects.decisions import DecisionRequest, DecisionResponse
from rerank.tasks.dialects.errors import OpenaiError


def add_decision_routes(app: FastAPI, service: RankingService) -> None:
    """Add the endpoint ``/v1/decisions`` to the application."""
    decisions = DecisionService(service)

    @app.post(
        "/v1/decisions",
        summary="Answer typed questions with probabilities",
        responses=error_documentation(OpenaiError),
    )
    async def decide(request: Request, body: DecisionRequest) -> DecisionResponse:
        work = decisions.decide(body, request.state.client)
        return await run_while_connected(request, work, timeout=service.settings.timeout)
