"""Errors of the server: HTTP status, message, and JSON body per dialect; and the end of work nobody waits for."""

import asyncio
import logging
import traceback
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError
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
    error_repr,
    expected_value_of_fault,
)
from rerank.serving.fair_queue import QueueFullError
from rerank.tasks.dialects.question import ApiBody
from rerank.tasks.dialects.rerank import CohereError, CommonError, ErrorDetails, OpenaiError, SglangError, TeiError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

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
_MAX_MESSAGE = 4000  #: Maximum number of characters of a message.
READING_ERRORS = (401, 421, 500, 503)  #: Error statuses of endpoints that do not call the model.


@dataclass(eq=False)
class ApiError(Exception):
    """An error that is returned to a client, with an HTTP status and additional headers, such as Retry-After."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.message) > _MAX_MESSAGE:  # it repeats a name of the request, which may be of any length
            self.message = f"{self.message[:_MAX_MESSAGE]}…"


def from_exception(error: Exception) -> ApiError:
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


def from_http(request: Request, error: HTTPException) -> ApiError:
    """Return the error for an HTTP exception of Starlette, such as an unknown path or a method that is not allowed."""
    path, headers = request.scope["path"], dict(error.headers or {})
    found = error.detail
    if error.status_code == 404:
        listed = "an endpoint listed by GET /openapi.json (/v1/search needs --collection)"
        found = f"There is no endpoint {path[:100]} on this server; expected {listed}"
    elif error.status_code == 405:
        found = f"The method is {request.method}; expected {headers['Allow']} for {path[:100]}"
    return ApiError(error.status_code, found, headers)


def stopping() -> ApiError:
    """Return the error (status 503) for accepted requests that a stopping server does not finish."""
    return ApiError(503, "The server is stopping; try again later", {"Retry-After": "10"})


def body_of(error: ApiError, path: str, *, is_tei: bool = False) -> ApiBody:
    """Return the body of an error in the shape that the clients of a path expect."""
    if is_tei:
        return TeiError(error=error.message, error_type=_TEI_TYPES.get(error.status, "Backend"))
    kind = _TYPES.get(error.status, "server_error")
    details = ErrorDetails(message=error.message, type=kind, code=error.status)
    if path.startswith("/sglang/"):
        return SglangError(**details.model_dump())
    if path == "/v1/decisions":
        return OpenaiError(error=details)
    if path == "/v2/rerank":
        return CohereError(message=error.message)
    return CommonError(message=error.message, detail=error.message, error=details)


def response_for(request: Request, error: ApiError) -> JSONResponse:
    """Return the HTTP response for an error, in the format of the request's dialect."""
    # The path of the scope is the one that is routed; that of `request.url` depends on the header Host.
    body = body_of(error, request.scope["path"], is_tei=getattr(request.state, "is_tei", False))
    return JSONResponse(body.model_dump(), error.status, dict(error.headers))


def documented(
    shape: Any = CommonError, statuses: Iterable[int] = tuple(_DESCRIPTIONS)
) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of an endpoint for OpenAPI, by default those of endpoints that call the model."""
    return {status: {"model": shape, "description": _DESCRIPTIONS[status]} for status in statuses}


def log_unexpected(what: str, error: BaseException) -> None:
    """Log types and stack frames of an error and its causes, without messages, which may contain documents."""
    parts = []
    cause: BaseException | None = error
    while cause is not None:
        parts += [f"{type(cause).__module__}.{type(cause).__qualname__}\n", *traceback.format_tb(cause.__traceback__)]
        cause = cause.__cause__ or cause.__context__
    _LOG.error("%s failed: %s", what, "".join(parts).rstrip())


# Invalid bodies: the path of the wrong field, its value, and the expected value

#: Prefix of pydantic's error type -> expected value, in JSON terms.
_EXPECTED = {
    "string_type": "a text",
    "string_unicode": "a text",
    "list_": "a list",
    "dict_": "an object",
    "model_": "an object",
    "bool_": "true or false",
    "int_": "a whole number",
    "float_": "a number",
    "missing": "a value",
    "extra_forbidden": "no such field",
}


def from_invalid_body(error: RequestValidationError, content_type: str | None) -> ApiError:
    """Return the error for an invalid body: status 400 if it is not a JSON object, and 422 if a field is wrong."""
    faults = error.errors()
    if faults[0]["type"] == "json_invalid":
        reason, position = faults[0]["ctx"]["error"], faults[0]["loc"][-1]
        return ApiError(400, f"The body is not valid JSON: {reason} at character {position}; expected a JSON object")
    if error.body is None:
        return ApiError(400, "The request has no body; expected a JSON object")
    if isinstance(error.body, bytes):  # only JSON is parsed
        found = (
            "The request has no Content-Type"
            if content_type is None
            else f"The Content-Type is {error_repr(content_type)}"
        )
        return ApiError(400, f"{found}; expected application/json")
    return ApiError(422 if isinstance(error.body, dict) else 400, _describe_field(faults, error.body))


def from_unreadable_body(cause: BaseException | None) -> ApiError:
    """Return the error for a body that could not be parsed, though not for its syntax; by default, it ended early."""
    match cause:
        case UnicodeDecodeError():
            reason = f"byte {cause.start} is not valid UTF-8"
        case RecursionError():
            reason = "it is nested too deeply"
        case ValueError():
            reason = "a number has too many digits"
        case _:
            reason = "it ended early"
    return ApiError(400, f"The body cannot be read: {reason}; expected a JSON object in UTF-8")


def _describe_field(faults: Sequence[Mapping[str, Any]], body: Any) -> str:
    """Describe the first wrong field. If it may have several types, use the errors for the type that fits best."""
    paths = [_path_in_body(fault, body) for fault in faults]
    # If a type fits the outer value, its errors are deeper inside: the longest path belongs to the best fit.
    path = max((path for path in paths if path[: len(paths[0])] == paths[0]), key=len)
    same = [fault for fault, other in zip(faults, paths, strict=True) if other == path]
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
    found = "missing" if same[0]["type"] in ("missing", "union_tag_not_found") else _describe_value(same[0])
    expected = " or ".join(dict.fromkeys(map(_expected_value, same)))
    return f"{name or 'The body'} is {found}; expected {expected}"


def _path_in_body(fault: Mapping[str, Any], body: Any) -> list[str | int]:
    """Return the keys and positions that lead to a field, without the type names that pydantic inserts."""
    path: list[str | int] = []
    value = body
    for step in fault["loc"][1:]:
        is_key = isinstance(value, dict) and step in value
        if is_key or (isinstance(value, list) and isinstance(step, int)):
            value = value[step]
            path.append(step)
    if fault["type"] == "missing":
        path.append(fault["loc"][-1])
    if "discriminator" in fault.get("ctx", {}):
        path.append(fault["ctx"]["discriminator"].strip("'"))
    return path


def _describe_value(fault: Mapping[str, Any]) -> str:
    value = fault.get("ctx", {}).get("tag", fault["input"])
    if isinstance(value, list):
        return f"a list of length {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return error_repr(value[:100] if isinstance(value, str) else value)


def _expected_value(fault: Mapping[str, Any]) -> str:
    context = fault.get("ctx", {})
    if "discriminator" in context:
        return f"one of {context['expected_tags']}" if "expected_tags" in context else "a type"
    if "max_length" in context and isinstance(fault["input"], str):
        return f"at most {context['max_length']} characters"
    named = (text for kind, text in _EXPECTED.items() if fault["type"].startswith(kind))
    return next(named, None) or expected_value_of_fault(fault)


# Clients that leave, and work that takes too long

#: Status of a request whose client has disconnected, as in nginx's log. No client receives it.
CLIENT_LEFT_STATUS = 499


class ClientLeftError(Exception):
    """Raised if a client closes the connection before the response is sent."""


async def run_while_connected(request: Request, work: Coroutine[object, object, T], *, timeout: float) -> T:
    """Return the result of ``work``, or cancel ``work`` if the client disconnects or the time is up."""
    try:
        async with asyncio.timeout(timeout) as limit:
            leaving = asyncio.create_task(_end_if_client_leaves(request, limit))
            try:
                return await work
            finally:
                leaving.cancel()
    except TimeoutError:
        if not limit.expired():
            raise
        if leaving.done() and not leaving.cancelled():
            raise ClientLeftError from None
        message = f"No response after {timeout:g} s, including the wait for a turn; send fewer documents"
        raise ApiError(504, message) from None


async def _end_if_client_leaves(request: Request, limit: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    limit.reschedule(0.0)
