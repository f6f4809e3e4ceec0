"""The bodies of error responses, in the format of each API."""

from __future__ import annotations

from typing import Literal

from rerank.tasks.dialects.question import ApiBody


class CohereError(ApiBody):
    """Body of an error response of Cohere's API, version 2."""

    message: str


class ErrorDetails(ApiBody):
    """The details of an error in the format of OpenAI and vLLM; ``code`` is the HTTP status."""

    message: str
    type: str
    param: str | None = None
    code: int


class OpenaiError(ApiBody):
    """Body of an error response of OpenAI's API."""

    error: ErrorDetails


class CommonError(ApiBody):
    """Body of an error response for Cohere 1 (``message``), Jina and Voyage (``detail``), and vLLM (``error``)."""

    message: str
    detail: str
    error: ErrorDetails


class TeiError(ApiBody):
    """Body of an error response of TEI."""

    error: str
    error_type: Literal["Validation", "Overloaded", "Backend"]


class SglangError(ErrorDetails):
    """Body of an error response of SGLang."""

    object: Literal["error"] = "error"
