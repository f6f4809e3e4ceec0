"""Errors of the server: HTTP status, message without a traceback, and the JSON body that each dialect expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from rerank.errors import (
    BackendError,
    ContextOverflowError,
    DataError,
    MissingPrerequisiteError,
    PartialFailureError,
    RerankError,
    UsageError,
)
from rerank.serving.fair_queue import QueueFullError
from rerank.tasks.dialects.errors import CohereError, CommonError, ErrorDetails, OpenaiError, SglangError, TeiError
from rerank.tasks.dialects.question import ApiBody

#: Status -> error type, named as in the APIs of OpenAI and vLLM.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    421: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable",
    504: "timeout_error",
}

#: Status -> error type of TEI; all other statuses have the type ``Backend``.
_TEI_TYPES: Mapping[int, Literal["Validation", "Overloaded"]] = {
    400: "Validation",
    413: "Validation",
    422: "Validation",
    429: "Overloaded",
}

#: Status -> reason for which an endpoint that ranks returns it. FastAPI itself returns 404 and 405.
_DESCRIPTIONS = {
    400: "The body is not a JSON object",
    401: "The key is missing or wrong",
    413: "The size of the body, the number of documents or the number of tokens exceeds a limit of the server",
    421: "The header Host or Origin names a host that is not this server",
    422: "A field is missing or invalid",
    429: "Too many requests are waiting; Retry-After says when to try again",
    500: "The server failed unexpectedly",
    503: "The model failed, the server is stopping, or too many connections are open",
    504: "The model did not answer in time",
}
#: Error statuses of endpoints that do not call the model.
READING_ERRORS = (401, 421, 500, 503)


@dataclass(eq=False)
class ApiError(Exception):
    """An error that is returned to a client.

    Attributes:
        status: HTTP status.
        message: Message that says what was found, what was expected, and what to do.
        headers: Additional headers, such as Retry-After.
    """

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """The type of the error, such as ``rate_limit_error``."""
        return _TYPES.get(self.status, "server_error")


def api_error_from_exception(error: Exception) -> ApiError:
    """Return the error to send to a client; for unexpected exceptions, it does not contain the reason."""
    match error:
        case ApiError():
            return error
        case QueueFullError():
            return ApiError(429, str(error), {"Retry-After": str(error.retry_after)})
        case ContextOverflowError():
            return ApiError(413, str(error))
        case UsageError() | DataError():
            return ApiError(422, str(error))
        case TimeoutError():
            return ApiError(504, str(error) or "The model did not answer in time")
        case BackendError() | MissingPrerequisiteError() | PartialFailureError() | MemoryError():
            return ApiError(503, str(error) or "The server has too little memory for this request")
        case RerankError():
            return ApiError(500, str(error))
    return ApiError(500, "The server failed unexpectedly; its log contains the reason")


def error_body(error: ApiError, path: str, *, is_tei: bool = False) -> ApiBody:
    """Return the body of an error in the shape that the clients of a path expect.

    Args:
        error: The error to report.
        path: The path of the request.
        is_tei: Whether the request has the format of TEI (Text Embeddings Inference).
    """
    if is_tei:
        return TeiError(error=error.message, error_type=_TEI_TYPES.get(error.status, "Backend"))
    details = ErrorDetails(message=error.message, type=error.type, code=error.status)
    if path.startswith("/sglang/"):
        return SglangError(**details.model_dump())
    if path == "/v1/decisions":
        return OpenaiError(error=details)
    if path == "/v2/rerank":
        return CohereError(message=error.message)
    return CommonError(message=error.message, detail=error.message, error=details)


def api_error_from_http(request: Request, error: HTTPException) -> ApiError:
    """Return the error for an HTTP exception of Starlette, such as an unknown path or a method that is not allowed."""
    path, headers = request.scope["path"], dict(error.headers or {})
    found = error.detail
    if error.status_code == 404:
        listed = "an endpoint listed by GET /openapi.json (/v1/search needs --collection)"
        found = f"There is no endpoint {path} on this server; expected {listed}"
    elif error.status_code == 405:
        found = f"The method is {request.method}; expected {headers['Allow']} for {path}"
    return ApiError(error.status_code, found, headers)


def error_response(request: Request, error: ApiError) -> JSONResponse:
    """Return the HTTP response for an error, in the format of the request's dialect."""
    # The path of the scope is the one that is routed; that of `request.url` depends on the header Host.
    body = error_body(error, request.scope["path"], is_tei=getattr(request.state, "is_tei", False))
    return JSONResponse(body.model_dump(), error.status, dict(error.headers))


def error_documentation(
    shape: Any = CommonError, statuses: Iterable[int] = tuple(_DESCRIPTIONS)
) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of an endpoint for the OpenAPI description.

    Args:
        shape: Type of the bodies of the endpoint's errors, or a union of types.
        statuses: The statuses of its errors; by default those of endpoints that call the model.
    """
    return {status: {"model": shape, "description": _DESCRIPTIONS[status]} for status in statuses}


def server_stopping_error() -> ApiError:
    """Return the error (status 503) for accepted requests that a stopping server does not finish."""
    return ApiError(503, "The server is stopping; try again later", {"Retry-After": "10"})
