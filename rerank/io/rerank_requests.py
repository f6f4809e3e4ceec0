"""One request for a rerank, as the tools of the field write it: a query and its candidates, in order.

Three dialects, told apart by their keys: rank_llm's (``query``, ``candidates``), RankGPT's (``query``, ``hits``) and
Rankify's or DPR's (``question``, ``ctxs``). Knows the objects, not the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rerank.errors import DataError
from rerank.io.json_records import DOC_IDS, QUERY_IDS, QUERY_TEXTS, TEXTS, Record, identifier, text
from rerank.types import Document, Query, Ranking, Run

_CANDIDATES = ("candidates", "hits", "ctxs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        where: File and line (or number in the list), for messages.
        query: The query.
        docs: The candidates in their given order.
        scores: Their scores; None where there is none or it is null.
    """

    where: str
    query: Query
    docs: tuple[Document, ...]
    scores: tuple[float | None, ...]

    @classmethod
    def read(cls, record: Record, place: int) -> Request:
        """Take an object apart.

        Args:
            record: The object.
            place: Its number in the file, from 1: the query's id where the object gives none.

        Raises:
            DataError: It has another shape, or a document twice.
        """
        entries = record.get(_CANDIDATES)
        if not isinstance(entries, list):
            raise DataError(
                f"{record.where}: no list of candidates among the keys {', '.join(record.fields) or '(none)'}",
                expected="one of candidates, hits, ctxs, beside query or question",
            )
        query = _query(record, entries, place)
        found = [
            _candidate(entry, f"{record.where}, candidate {n}", f"{query.id}:{n}") for n, entry in enumerate(entries, 1)
        ]
        seen: set[str] = set()
        for doc, _ in found:
            if doc.id in seen:
                raise DataError(
                    f"{record.where}: document {doc.id!r} stands twice in query {query.id!r}", expected="each id once"
                )
            seen.add(doc.id)
        docs, scores = tuple(doc for doc, _ in found), tuple(score for _, score in found)
        return cls(where=record.where, query=query, docs=docs, scores=scores)

    def given(self) -> Ranking:
        """The list in its given order, with its scores where all are there and none is above the one before it."""
        scores = [score for score in self.scores if score is not None]
        falling = all(below <= above for above, below in pairwise(scores))
        if len(scores) == len(self.docs) and falling:
            return Ranking(self.query, self.docs, tuple(scores))
        return Ranking.from_order(self.query, self.docs)

    def scored(self) -> Ranking:
        """The list sorted by its scores, ties by the rule of this package.

        Raises:
            DataError: A score is missing.
        """
        pairs = [(doc, score) for doc, score in zip(self.docs, self.scores, strict=True) if score is not None]
        if len(pairs) < len(self.docs):
            raise DataError(
                f"{self.where}: {len(self.docs) - len(pairs)} of {len(self.docs)} candidates have no score",
                remedy="Leave out order=score, and the given order stands",
            )
        return Ranking.from_scores(self.query, pairs)


def _query(record: Record, entries: Sequence[Any], place: int) -> Query:
    asked = record.get(("query", "question"))
    inner = Record(record.where, asked) if isinstance(asked, Mapping) else None
    words = inner.text(QUERY_TEXTS) if inner else record.text(("query", "question"))
    hits = {str(entry["qid"]) for entry in entries if isinstance(entry, Mapping) and entry.get("qid") is not None}
    if len(hits) > 1:
        raise DataError(f"{record.where}: its hits belong to the queries {', '.join(sorted(hits)[:3])}", expected="one")
    given = (inner.get(("qid", *QUERY_IDS)) if inner else None, record.get(("qid", *QUERY_IDS)), *hits)
    query_id = next((value for value in given if value not in (None, "")), place)
    return Query(id=identifier(query_id, "query", record.where), text=text(words, record.where))


def _candidate(entry: object, where: str, default_id: str) -> tuple[Document, float | None]:
    """A candidate is a text, or an object whose document is a text, an object, or its own fields."""
    if isinstance(entry, str):
        return Document(id=default_id, text=text(entry, where)), None
    if not isinstance(entry, Mapping):
        raise DataError(f"{where}: {entry!r:.60}", expected="a text or an object")
    outer = Record(where, entry)
    doc = outer.get(("doc", "document"))
    inner = Record(where, doc) if isinstance(doc, Mapping) else outer
    doc_id = outer.get(("docid", *DOC_IDS))
    if doc_id is None:
        doc_id = inner.get(("docid", *DOC_IDS))
    made = Document(
        id=default_id if doc_id in (None, "") else identifier(doc_id, "document", where),
        text=_body(doc, inner),
        title=text(inner.get(("title",)) or "", where),
        image=inner.image(),
    )
    return made, _score(outer.get(("score",)), where)


def _body(doc: object, inner: Record) -> str:
    if isinstance(doc, str):
        return text(doc, inner.where)
    return inner.text(TEXTS) if not inner.image() or inner.get(TEXTS) is not None else ""


def _score(value: object, where: str) -> float | None:
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: score {value!r:.60}", expected="a finite number or null")
    return number


def request_rows(candidates: Run, result: Run) -> list[dict[str, Any]]:
    """Reranked lists in rank_llm's shape, texts included.

    Args:
        candidates: What was reranked, with queries and documents.
        result: The same lists in their new order; its documents may be ids alone. Empty lists may be missing.
    """
    rows = []
    for query_id, given in candidates.items():
        ranking = result.get(query_id, given)
        docs = {doc.id: doc for doc in given.docs}
        hits = [
            {"docid": doc.id, "score": score, "doc": _content(docs[doc.id])}
            for doc, score in zip(ranking.docs, ranking.scores, strict=True)
        ]
        rows.append({"query": {"text": given.query.text, "qid": query_id}, "candidates": hits})
    return rows


def _content(doc: Document) -> dict[str, str]:
    content = {"title": doc.title, "text": doc.text} if doc.title else {"text": doc.text}
    return {**content, "image": doc.image} if doc.image else content
