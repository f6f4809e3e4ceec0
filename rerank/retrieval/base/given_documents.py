"""Conversion of the queries and documents that Python users pass: texts, mappings, or this package's types."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rerank.errors import DataError, UsageError, error_repr
from rerank.types import Document, Query, Ranking

#: A document: its text, a `Document`, or a mapping with ``text`` or ``image`` (the path of a picture), and optionally
#: ``id`` (text or a whole number), ``title`` and ``score`` (the first-stage score). A value of None counts as missing.
#: Other keys are returned with the hit.
DocumentLike = str | Document | Mapping[str, Any]

_KEYS = frozenset({"id", "text", "title", "image", "score"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document to rank."""

    document: Document
    score: float | None = None  # its first-stage score; None if it has no score
    has_id: bool = True  # whether the document came with an id; otherwise, its id is its position in the input


def given_first_stage_query(value: object) -> Query:
    """Return a `Query` unchanged, or convert a text to a query with the id ``0``."""
    if isinstance(value, str):
        return Query(id="0", text=value)
    if not isinstance(value, Query) or not isinstance(value.text, str):
        raise UsageError(f"The query is {error_repr(value)}", expected="a text, or a Query with a text")
    return value


def check_first_stage_queries(values: Iterable[object]) -> None:
    """Check that all queries of a pipeline are `Query` objects, whose ids name the rankings of a run."""
    for value in values:
        if not isinstance(value, Query):
            raise UsageError(
                f"A query is {error_repr(value)}",
                expected="a Query, whose id names its ranking in the run",
                remedy='Pass Query(id="1", text="...")',
            )


def given_first_stage_candidates(values: object, scores: Sequence[float] | None = None) -> list[Candidate]:
    """Convert values to documents with first-stage scores, which they may contain if ``scores`` is None."""
    if isinstance(values, (str, bytes, Document, Mapping)) or not isinstance(values, Iterable):
        raise UsageError(
            f"The documents are {error_repr(values)}",
            expected="a list of documents",
            remedy="Put a single document in a list",
        )
    candidates = [_to_candidate(position, value) for position, value in enumerate(values)]
    if scores is not None:
        if isinstance(scores, (str, bytes)) or not isinstance(scores, Iterable):
            raise UsageError(f"The scores are {error_repr(scores)}", expected="one first-stage score per document")
        scores = list(scores)
        if len(scores) != len(candidates):
            raise UsageError(
                f"There are {len(scores)} scores for {len(candidates)} documents", expected="one score per document"
            )
        candidates = [
            replace(candidate, score=_to_score(position, score))
            for position, (candidate, score) in enumerate(zip(candidates, scores, strict=True))
        ]
    known = sum(candidate.score is not None for candidate in candidates)
    if 0 < known < len(candidates):
        missing = next(position for position, candidate in enumerate(candidates) if candidate.score is None)
        raise DataError(
            f"Document {missing} has no score, but {known} of {len(candidates)} documents have a score",
            expected="a first-stage score for every document, or for none",
        )
    return candidates


def given_first_stage_ranking(query: Query, candidates: Sequence[Candidate]) -> Ranking:
    """Return the candidates as a ranking, with each document's id replaced by its position, since ids may repeat.

    If the candidates have scores, the ranking is sorted by score, and tied documents keep the given order.
    """
    # Positions replace the ids, because ids may repeat or equal the position of another document.
    numbered = [
        document if document.id == str(position) else replace(document, id=str(position))
        for position, document in enumerate(candidate.document for candidate in candidates)
    ]
    if not (scores := [candidate.score for candidate in candidates if candidate.score is not None]):
        return Ranking(query, tuple(numbered))
    order = sorted(range(len(numbered)), key=lambda position: -scores[position])
    return Ranking(query, tuple(numbered[i] for i in order), tuple(scores[i] for i in order))


def _to_candidate(position: int, value: object) -> Candidate:
    """Convert a value to a candidate; if the value has no id, its position in the input becomes the document's id."""
    if isinstance(value, str):
        return Candidate(Document(id=str(position), text=value), has_id=False)
    if isinstance(value, Document):
        content: Mapping[Any, Any] = {key: getattr(value, key) for key in ("id", "text", "title", "image")}
    elif isinstance(value, Mapping):
        content = value
    else:
        raise DataError(f"Document {position} is {error_repr(value)}", expected="a text, a Document or a mapping")
    if "text" not in content and not content.get("image"):
        raise DataError(
            f"Document {position} has neither a text nor an image; its keys are {error_repr(list(content))}",
            expected="a key 'text' or 'image'",
        )
    doc_id = position if content.get("id") is None else content["id"]
    if not isinstance(doc_id, (str, int)) or isinstance(doc_id, bool):
        raise DataError(f"Document {position} has the id {error_repr(doc_id)}", expected="text or a whole number")
    texts = {"text": content.get("text", ""), "title": content.get("title") or "", "image": content.get("image") or ""}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise DataError(f"Document {position} has the {key} {error_repr(text)}", expected="text")
    score = None if content.get("score") is None else _to_score(position, content["score"])
    if isinstance(value, Document):
        return Candidate(value if value.id == str(doc_id) else replace(value, id=str(doc_id)), score)
    source = {key: item for key, item in content.items() if key not in _KEYS}
    return Candidate(Document(id=str(doc_id), **texts, source=source), score, content.get("id") is not None)


def _to_score(position: int, value: object) -> float:
    try:
        score = float(value)  # type: ignore[arg-type]  # also accepts numbers of numpy and torch
    except (TypeError, ValueError):
        score = math.nan
    if isinstance(value, (str, bool)) or not math.isfinite(score):
        raise DataError(f"Document {position} has the score {error_repr(value)}", expected="a finite number")
    return score


class InMemoryCorpus:
    """The documents of a list, in which first stages search.

    Texts and index are stored in the user's cache folder, and are used again for the same documents. Further keys of
    mappings, such as URLs, are not stored, but are part of the documents that are found. The documents are texts,
    `Document` objects or mappings. The id of a document without an id is its position in the list. Scores are ignored.

    Raises:
        UsageError: The documents are not a list.
        DataError: There are no documents, a document has no text, or two documents have the same id.
    """

    def __init__(self, documents: Iterable[DocumentLike], *, name: str = "texts", language: str = "en") -> None:
        self.name, self.language = name, language
        self._documents: dict[str, Document] = {}
        if not isinstance(documents, (str, bytes, Document, Mapping)) and isinstance(documents, Iterable):
            documents = [
                {k: v for k, v in doc.items() if k != "score"} if isinstance(doc, Mapping) else doc for doc in documents
            ]
        for position, candidate in enumerate(given_first_stage_candidates(documents)):
            document = candidate.document
            if document.id in self._documents:
                raise DataError(
                    f"Document {position} has the id {document.id!r}, which an earlier document has",
                    expected="a different id for each document",
                    remedy="Give each document an id of its own, or none of them: the position is then the id",
                )
            self._documents[document.id] = document
        if not self._documents:
            raise DataError("The list has no documents", expected="at least one document to search in")

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for doc in self._documents.values():
            digest.update(repr((doc.id, doc.title, doc.text, doc.image)).encode())
        return digest.hexdigest()

    def docs(self) -> Iterator[Document]:
        return iter(self._documents.values())

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        return {doc_id: self._documents[doc_id] for doc_id in ids if doc_id in self._documents}

    def with_source(self, doc: Document) -> Document:
        """Return a document with the further keys that it has in the list; documents of other sources are unchanged."""
        own = self._documents.get(doc.id)
        return doc if own is None else replace(doc, source=own.source)
