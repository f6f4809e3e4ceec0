"""Judgments whose grade `rerank.types.EXCLUDED` means that a document must not be ranked for a query."""

from __future__ import annotations

from rerank.types import EXCLUDED, Qrels


def excluded_documents_of_qrels(qrels: Qrels) -> dict[str, frozenset[str]]:
    """Return query id -> ids of the documents that must not be ranked for it; queries without any are omitted."""
    rows = {query: frozenset(doc for doc, g in grades.items() if g == EXCLUDED) for query, grades in qrels.items()}
    return {query: docs for query, docs in rows.items() if docs}


def qrels_without_excluded_documents(qrels: Qrels) -> Qrels:
    """Return the judgments of documents that may be ranked. All queries are kept."""
    if not any(EXCLUDED in grades.values() for grades in qrels.values()):
        return qrels
    rows = {query: {doc: g for doc, g in grades.items() if g != EXCLUDED} for query, grades in qrels.items()}
    return Qrels(rows, name=qrels.name)
