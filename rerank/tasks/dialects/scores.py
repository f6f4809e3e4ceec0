"""vLLM's score API, ``POST /score``: the scores of pairs of texts, in the order of the request."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from rerank.errors import DataError
from rerank.tasks.dialects.common import CommonUsage
from rerank.tasks.dialects.question import ApiBody, GivenText

#: One text or several.
Texts = GivenText | list[GivenText]


class ScoreRequest(ApiBody):
    """A request of vLLM's score API: one query and any number of documents, or as many queries as documents.

    Attributes:
        model: Name of the model in the request; empty if it is missing.
        queries: The queries. The field may also be named ``text_1`` or ``data_1``.
        documents: The documents. The field may also be named ``items``, ``text_2`` or ``data_2``.
        instruction: Description of what counts as relevant.
    """

    model: str = ""
    queries: Texts = Field(validation_alias=AliasChoices("text_1", "queries", "data_1"), serialization_alias="text_1")
    documents: Texts = Field(
        validation_alias=AliasChoices("text_2", "documents", "items", "data_2"), serialization_alias="text_2"
    )
    instruction: GivenText | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """Return the (query, document) pairs."""
        queries = [self.queries] if isinstance(self.queries, str) else self.queries
        documents = [self.documents] if isinstance(self.documents, str) else self.documents
        if len(queries) == 1:
            queries = queries * len(documents)
        if len(queries) != len(documents):
            raise DataError(
                f"The request contains {len(queries)} queries and {len(documents)} documents",
                expected="one query, or as many queries as documents",
            )
        return list(zip(queries, documents, strict=True))


class PairScore(ApiBody):
    """The score of a pair; ``index`` is the position of the pair in the request, from 0."""

    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreResponse(ApiBody):
    """A response of vLLM's score API, with one score per pair."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[PairScore]
    usage: CommonUsage
