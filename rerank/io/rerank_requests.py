"""Parsing and formatting of rerank requests, each a query with its candidates, in the formats of common tools.

Three formats are recognized by their keys: that of rank_llm (``query``, ``candidates``), that of RankGPT (``query``,
``hits``), and that of Rankify and DPR (``question``, ``ctxs``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rerank.errors import DataError
from rerank.io.json_records import DOC_IDS, QUERY_IDS, QUERY_TEXTS, TEXTS, JsonRecord, parse_json_id, parse_json_text
from rerank.types import Document, Query, Ranking

_CANDIDATES = ("candidates", "hits", "ctxs")
#: Keys of a candidate that are parsed; all other keys are returned unchanged with the candidate.
_READ = frozenset({"doc", "document", "docid", "qid", "title", "score", "rank", "image", *DOC_IDS, *TEXTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """A request, read from a file, to rerank the candidates of a query."""

    where: str
    query: Query
    docs: tuple[Document, ...]  #: The candidates in input order.
    scores: tuple[float | None, ...]  #: Scores of the candidates; None for a score that is missing or null.

    @classmethod
    def from_record(cls, record: JsonRecord, number: int) -> RerankRequest:
        """Build a request from an object in any of the three formats; ``number`` is the id of a query without id."""
        entries = record.get(_CANDIDATES)
        if not isinstance(entries, list):
            raise DataError(
                f"{record.where}: there is no list of candidates among the keys {', '.join(record.fields) or '(none)'}",
                expected="one of candidates, hits, ctxs, in addition to query or question",
            )
        query = _parse_query(record, entries, number)
        candidates = [
            _parse_candidate(entry, f"{record.where}, candidate {n}", f"{query.id}:{n}")
            for n, entry in enumerate(entries, 1)
        ]
        seen: set[str] = set()
        for doc, _ in candidates:
            if doc.id in seen:
                raise DataError(
                    f"{record.where}: duplicate document {doc.id!r} in query {query.id!r}", expected="each id once"
                )
            seen.add(doc.id)
        docs, scores = tuple(doc for doc, _ in candidates), tuple(score for _, score in candidates)
        return cls(where=record.where, query=query, docs=docs, scores=scores)

    def in_given_order(self) -> Ranking:
        """Return the candidates in input order, with their scores if all exist and do not increase, else 1 / rank."""
        scores = [score for score in self.scores if score is not None]
        non_increasing = all(below <= above for above, below in pairwise(scores))
        if len(scores) == len(self.docs) and non_increasing:
            return Ranking(self.query, self.docs, tuple(scores))
        return Ranking.from_order(self.query, self.docs)

    def sorted_by_score(self) -> Ranking:
        """Return the candidates sorted by score; ties are broken as in runs (`rerank.types.ranking_tie_sort_key`)."""
        pairs = [(doc, score) for doc, score in zip(self.docs, self.scores, strict=True) if score is not None]
        if len(pairs) < len(self.docs):
            raise DataError(
                f"{self.where}: {len(self.docs) - len(pairs)} of {len(self.docs)} candidates have no score",
                remedy="Remove order=score to keep the input order",
            )
        return Ranking.from_scores(self.query, pairs)


def _parse_query(record: JsonRecord, entries: Sequence[Any], number: int) -> Query:
    value = record.get(("query", "question"))
    inner = JsonRecord(record.where, value) if isinstance(value, Mapping) else None
    words = inner.text(QUERY_TEXTS) if inner else record.text(("query", "question"))
    hit_ids = {str(entry["qid"]) for entry in entries if isinstance(entry, Mapping) and entry.get("qid") is not None}
    if len(hit_ids) > 1:
        raise DataError(
            f"{record.where}: the hits belong to {len(hit_ids)} queries, including {', '.join(sorted(hit_ids)[:3])}",
            expected="hits of one query per request",
        )
    ids = (inner.get(("qid", *QUERY_IDS)) if inner else None, record.get(("qid", *QUERY_IDS)), *hit_ids)
    query_id = next((value for value in ids if value not in (None, "")), number)
    return Query(id=parse_json_id(query_id, "query", record.where), text=parse_json_text(words, record.where))


def _parse_candidate(entry: object, where: str, default_id: str) -> tuple[Document, float | None]:
    """Return the document and the score (None without one) of a string or an object, which may nest its document."""
    if isinstance(entry, str):
        return Document(id=default_id, text=parse_json_text(entry, where)), None
    if not isinstance(entry, Mapping):
        raise DataError(f"{where} is {entry!r:.60}", expected="a string or an object")
    outer = JsonRecord(where, entry)
    doc = outer.get(("doc", "document"))
    inner = JsonRecord(where, doc) if isinstance(doc, Mapping) else outer
    doc_id = outer.get(("docid", *DOC_IDS))
    if doc_id is None:
        doc_id = inner.get(("docid", *DOC_IDS))
    document = Document(
        id=default_id if doc_id in (None, "") else parse_json_id(doc_id, "document", where),
        text=parse_json_text(doc, where) if isinstance(doc, str) else inner.body(),
        title=parse_json_text(inner.get(("title",)) or "", where),
        image=inner.image(),
        source={key: value for key, value in entry.items() if key not in _READ},
    )
    return document, _parse_candidate_score(outer.get(("score",)), where)


def _parse_candidate_score(value: object, where: str) -> float | None:
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: the score is {value!r:.60}", expected="a finite number or null")
    return number


def format_request_row(candidates: Ranking, result: Ranking) -> dict[str, Any]:
    """Return a reranked list in rank_llm's format, with the texts and the other keys of the candidates."""
    docs = {doc.id: doc for doc in candidates.docs}
    hits = [
        {**docs[doc.id].source, "docid": doc.id, "score": score, "doc": _candidate_to_json_record(docs[doc.id])}
        for doc, score in zip(result.docs, result.scores, strict=True)
    ]
    return {"query": {"text": candidates.query.text, "qid": candidates.query.id}, "candidates": hits}


def _candidate_to_json_record(doc: Document) -> dict[str, str]:
    content = {"title": doc.title, "text": doc.text} if doc.title else {"text": doc.text}
    return {**content, "image": doc.image} if doc.image else content
