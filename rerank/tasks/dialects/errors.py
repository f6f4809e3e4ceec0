"""The bodies of errors in each dialect."""

from __future__ import annotations

from typing import Literal

from rerank.tasks.dialects.question import ApiBody


class CohereError(ApiBody):
    """An error of Cohere's version 2."""

    message: str


class ErrorDetails(ApiBody):
    """The details of OpenAI's and vLLM's errors; ``code`` is the HTTP status."""

    message: str
    type: str
    param: str | None = None
    code: int


class OpenaiError(ApiBody):
    """An error of OpenAI."""

    error: ErrorDetails


class CommonError(ApiBody):
    """An error for Cohere's version 1 (``message``), Jina and Voyage (``detail``), and vLLM (``error``)."""

    message: str
    detail: str
    error: ErrorDetails


class TeiError(ApiBody):
    """An error of TEI."""

    error: str
    error_type: Literal["Validation", "Overloaded", "Backend"]


class SglangError(ErrorDetails):
    """An error of SGLang."""

    object: Literal["error"] = "error"
