"""BM25 weights of the terms of a query, useful for long queries, whose terms are repeated and differ in importance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence


def saturated_query_term_weights(terms: Sequence[str], k3: float) -> dict[str, float]:
    """Return a mapping from each query term to its weight: its number of occurrences, saturated by ``k3``.

    The weight is (k3 + 1) qtf / (k3 + qtf), where qtf is the number of occurrences of the term in the query. It
    approaches qtf as ``k3`` grows. Sources: Robertson et al., Okapi at TREC-3, 1994, and Robertson and Zaragoza, The
    Probabilistic Relevance Framework: BM25 and Beyond, 2009.
    """
    return {term: (k3 + 1) * count / (k3 + count) for term, count in Counter(terms).items()}


def query_side_bm25_weights(
    terms: Sequence[str], idf: Callable[[str], float], *, k1: float, b: float, average_length: float
) -> dict[str, float]:
    """Return a mapping from each term to its BM25 weight in the query, treated as a document (query-side BM25).

    The weight is idf(t) qtf / (qtf + k1 (1 - b + b |q| / avgdl)), where qtf is the number of occurrences of the term in
    the query. Sources: Ge, Sharifymoghaddam and Lin, Lighting the Way for BRIGHT, 2025 (arXiv 2509.02558), and
    Anserini's QuerySideBm25QueryGenerator.

    Args:
        terms: The terms of the query.
        idf: Function that returns the inverse document frequency of a term.
        k1: Saturation of the term's frequency in the query.
        b: Normalization by the length of the query.
        average_length: Average number of terms per document of the collection.
    """
    saturation = k1 * (1 - b + b * len(terms) / average_length)
    return {term: idf(term) * count / (count + saturation) for term, count in Counter(terms).items()}


def lucene_inverse_document_frequency(document_count: int, document_frequency: int) -> float:
    """Return Lucene's inverse document frequency of a term, which is never negative.

    For N documents, of which df contain the term, it is log(1 + (N - df + 0.5) / (df + 0.5)).
    """
    return math.log(1 + (document_count - document_frequency + 0.5) / (document_frequency + 0.5))
