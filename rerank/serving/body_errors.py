"""Messages about invalid request bodies: the path of the wrong field, its value, and the expected value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError

from rerank.errors import error_repr, expected_value_of_fault
from rerank.serving.api_errors import ApiError

#: Prefix of pydantic's error type -> expected value, in JSON terms.
_EXPECTED = {
    "string_": "a text",
    "list_": "a list",
    "dict_": "an object",
    "model_": "an object",
    "bool_": "true or false",
    "int_": "a whole number",
    "float_": "a number",
    "missing": "a value",
}


def invalid_body_error(error: RequestValidationError, content_type: str | None) -> ApiError:
    """Return the error for an invalid body: status 400 if it is not a JSON object, and 422 if a field is wrong.

    Args:
        error: The validation error that FastAPI raised.
        content_type: The header Content-Type of the request; None if the request has no such header.
    """
    faults = error.errors()
    if faults[0]["type"] == "json_invalid":
        reason, position = faults[0]["ctx"]["error"], faults[0]["loc"][-1]
        return ApiError(400, f"The body is not valid JSON: {reason} at character {position}; expected a JSON object")
    if error.body is None:
        return ApiError(400, "The request has no body; expected a JSON object")
    if isinstance(error.body, bytes):  # only JSON is parsed
        found = "The request has no Content-Type" if content_type is None else f"The Content-Type is {content_type!r}"
        return ApiError(400, f"{found}; expected application/json")
    return ApiError(422 if isinstance(error.body, dict) else 400, _describe_field(faults, error.body))


def unreadable_body_error(cause: BaseException | None) -> ApiError:
    """Return the error for a body that could not be parsed for a reason other than invalid JSON syntax.

    Args:
        cause: Exception raised while the body was parsed. None and unknown exceptions are reported as a body that ended
            early.
    """
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
    return next((text for kind, text in _EXPECTED.items() if fault["type"].startswith(kind)), None) or (
        expected_value_of_fault(fault)
    )
