"""Selection of judgments with the grade `rerank.types.EXCLUDED`, whose documents must not be ranked for the query."""

from __future__ import annotations

from rerank.types import EXCLUDED, Qrels


def excluded_documents_of_qrels(qrels: Qrels) -> dict[str, frozenset[str]]:
    """Return, by query id, the ids of documents that must not be ranked; queries without such documents are omitted."""
    rows = {query: frozenset(doc for doc, g in grades.items() if g == EXCLUDED) for query, grades in qrels.items()}
    return {query: docs for query, docs in rows.items() if docs}


def qrels_without_excluded_documents(qrels: Qrels) -> Qrels:
    """Return the judgments without the grade `rerank.types.EXCLUDED`. All queries are kept."""
    if not any(EXCLUDED in grades.values() for grades in qrels.values()):
        return qrels
    rows = {query: {doc: g for doc, g in grades.items() if g != EXCLUDED} for query, grades in qrels.items()}
    return Qrels(rows, name=qrels.name)
