"""vLLM's score API: ``POST /score``, the scores of pairs of texts in the order of the request."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from rerank.errors import DataError
from rerank.tasks.dialects.common import CommonUsage
from rerank.tasks.dialects.question import ApiBody, GivenText

#: One text or several.
Texts = GivenText | list[GivenText]


class ScoreRequest(ApiBody):
    """A request: one query and several documents, or as many queries as documents.

    Attributes:
        model: The model that the client names.
        queries: The queries; also ``text_1`` or ``data_1``.
        documents: The documents; also ``items``, ``text_2`` or ``data_2``.
        instruction: Description of what counts as relevant.
    """

    model: str = ""
    queries: Texts = Field(validation_alias=AliasChoices("text_1", "queries", "data_1"), serialization_alias="text_1")
    documents: Texts = Field(
        validation_alias=AliasChoices("text_2", "documents", "items", "data_2"), serialization_alias="text_2"
    )
    instruction: GivenText | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """Return the pairs of query and document.

        Raises:
            DataError: There are neither one query nor as many queries as documents.
        """
        queries = [self.queries] if isinstance(self.queries, str) else self.queries
        documents = [self.documents] if isinstance(self.documents, str) else self.documents
        if len(queries) == 1:
            queries = queries * len(documents)
        if len(queries) != len(documents):
            raise DataError(
                f"{len(queries)} queries and {len(documents)} documents", expected="one query, or as many of both"
            )
        return list(zip(queries, documents, strict=True))


class PairScore(ApiBody):
    """The score of a pair."""

    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreResponse(ApiBody):
    """A response."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[PairScore]
    usage: CommonUsage
