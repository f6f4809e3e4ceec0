"""The HTTP application: middleware, errors, health and metrics. Other modules have the endpoints that rank."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from rerank.errors import RerankError
from rerank.serving import errors
from rerank.serving.errors import CLIENT_LEFT_STATUS, READING_ERRORS, ApiError, ClientLeftError, documented
from rerank.serving.fair_queue import QueueFullError
from rerank.serving.middleware import (
    OPEN_PATHS,
    AccessMiddleware,
    BodyLimitMiddleware,
    RequestCountMiddleware,
    UnexpectedErrorMiddleware,
    is_probe,
)
from rerank.serving.playground import PlaygroundService, add_playground_routes
from rerank.serving.ranking_service import RankingService
from rerank.serving.routes import add_decision_routes, add_rerank_routes, add_score_routes, counted_route
from rerank.serving.search_routes import CollectionSearch, add_search_routes
from rerank.serving.settings import ServerKeys

_LOG = logging.getLogger(__name__)

_CLOSING = 10.0  #: Seconds that a stopping server waits for the model to finish its batch.
_POLLING = 0.02  #: Seconds between two checks of whether the model has finished.


class _App(FastAPI):
    """An application whose spans contain no query string, which may have keys in it and which no endpoint reads."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__({**scope, "query_string": b""}, receive, send)


def create_server_app(
    service: RankingService,
    keys: ServerKeys | None = None,
    *,
    search: CollectionSearch | None = None,
    has_playground: bool = True,
) -> FastAPI:
    """Create the HTTP application with all its endpoints; without keys, everybody may use the server.

    The playground at ``/`` lets users choose methods that need many calls.
    """
    app = _App(
        # OpenTelemetry's spans of requests, which continue the callers' traces; logs would have messages of exceptions
        telemetry={
            "auto_configure": True,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "exclude": is_probe,
        },
        title="listrank",
        version=version("listrank"),
        lifespan=_lifespan(service),
        redirect_slashes=False,
        docs_url=None,  # FastAPI's docs page loads scripts from another site
        redoc_url=None,
    )
    app.router.route_class = counted_route(service.settings.max_documents)
    app.state.is_ready = app.state.is_hurried = app.state.is_model_busy = False
    add_rerank_routes(app, service)
    add_score_routes(app, service)
    add_decision_routes(app, service)
    if search is not None:
        add_search_routes(app, service, search)
    if has_playground:
        add_playground_routes(app, PlaygroundService(service=service, search=search))
    _add_status_routes(app, service)
    for route in list(app.routes):  # HEAD for each GET endpoint, as HTTP requires; health checks use it
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)
    _add_error_handlers(app)
    keys = keys or ServerKeys()
    _describe_access(app, has_keys=bool(keys.digests))
    app.add_middleware(BodyLimitMiddleware, max_bytes=service.settings.max_body_bytes)
    app.add_middleware(AccessMiddleware, keys=keys, names=service.settings.allowed_hosts)
    app.add_middleware(UnexpectedErrorMiddleware)
    paths = {route.path for route in app.routes if isinstance(route, Route | Mount)}
    app.add_middleware(RequestCountMiddleware, metrics=service.metrics, paths=paths)
    return app


def _lifespan(service: RankingService) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.reranker.warm_up)
        app.state.is_ready = True
        yield
        app.state.is_ready = False
        closing = threading.Thread(target=service.reranker.close, daemon=True)
        closing.start()
        end = time.monotonic() + _CLOSING
        while closing.is_alive() and time.monotonic() < end and not app.state.is_hurried:
            await asyncio.sleep(_POLLING)
        app.state.is_model_busy = closing.is_alive()
        if app.state.is_model_busy and not app.state.is_hurried:
            _LOG.warning("The model did not finish its batch within %g s; the batch is abandoned", _CLOSING)

    return lifespan


def _add_status_routes(app: FastAPI, service: RankingService) -> None:
    @app.get("/health", summary="Check whether the server runs", responses=documented(statuses=(503,)))
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/ready",
        summary="Check whether the model is loaded and requests are accepted",
        responses=documented(statuses=(503,)),
    )
    async def ready() -> dict[str, str]:
        if not app.state.is_ready:
            raise ApiError(503, "The model is not loaded")
        return {"status": "ready"}

    @app.get(
        "/metrics",
        summary="Return metrics in the Prometheus format",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **documented(statuses=READING_ERRORS),
        },
    )
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4")

    @app.get("/info", summary="Describe the server in TEI's format", responses=documented(statuses=READING_ERRORS))
    async def info() -> dict[str, Any]:
        settings, judge = service.settings, service.reranker.judge
        return {
            "model_id": settings.name,
            "served_model_name": settings.name,
            "model_dtype": judge.backend.identity.get("dtype", ""),
            "model_type": {"reranker": {"id2label": {"0": "relevance"}, "label2id": {"relevance": 0}}},
            "max_concurrent_requests": settings.max_active,
            "max_input_length": judge.limits.context_size or judge.backend.tokens.context_size,
            "max_batch_tokens": settings.max_request_tokens,
            "max_client_batch_size": settings.max_documents,
            "auto_truncate": True,
            "version": version("listrank"),
            "raw_scores": service.reranker.has_unit_scores(logits=True),  # not in TEI, whose scores are always logits
        }

    @app.get("/v1/models", summary="List the server's model", responses=documented(statuses=READING_ERRORS))
    async def models() -> dict[str, Any]:
        model = {"id": service.settings.name, "object": "model", "created": 0, "owned_by": "listrank"}
        return {"object": "list", "data": [model]}


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return errors.response_for(request, errors.from_invalid_body(error, request.headers.get("content-type")))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        # FastAPI returns 400 only if reading the body failed for a reason other than invalid JSON syntax.
        is_unreadable = error.status_code == 400
        answer = errors.from_unreadable_body(error.__cause__) if is_unreadable else errors.from_http(request, error)
        return errors.response_for(request, answer)

    @app.exception_handler(ClientLeftError)
    async def client_left(request: Request, error: ClientLeftError) -> Response:
        return Response(status_code=CLIENT_LEFT_STATUS)

    async def failed(request: Request, error: Exception) -> Response:
        answer = errors.from_exception(error)
        if answer.status == 500:
            errors.log_unexpected(f"A request to {request.scope['path']}", error)
        return errors.response_for(request, answer)

    for kind in (ApiError, QueueFullError, RerankError, TimeoutError, MemoryError):
        app.add_exception_handler(kind, failed)


def _describe_access(app: FastAPI, *, has_keys: bool) -> None:
    """State in the OpenAPI description that endpoints need a key or, without keys, that they check the host name."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = describe()
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("421" if has_keys else "401", None)
                if has_keys and path in OPEN_PATHS:
                    operation["security"] = []
        if has_keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
