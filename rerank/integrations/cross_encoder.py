"""A reranker with the interface of a cross-encoder of sentence-transformers, which need not be installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rerank.integrations.framework_reranker import FrameworkReranker


class RerankerCrossEncoder(FrameworkReranker):
    """A reranker with the methods ``rank`` and ``predict`` of `sentence_transformers.CrossEncoder`."""

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, return_documents: bool = False
    ) -> list[dict[str, Any]]:
        """Return one mapping per document, best first, with ``corpus_id``, ``score`` and, if asked, ``text``."""
        return [
            {"corpus_id": position, "score": score, **({"text": documents[position]} if return_documents else {})}
            for position, score in self.rank_positions(query, documents, top_k)
        ]

    def predict(self, sentences: Sequence[tuple[str, str]] | tuple[str, str]) -> NDArray[np.float64] | np.float64:
        """Return the relevance score of each pair of a query and a document, in the order of the pairs.

        The documents of a query are ranked together, and a single pair gets a single score. Without a calibration,
        scores of different queries have no common scale. Every pair gets a score, whatever ``top_n`` and
        ``threshold`` are.
        """
        is_pair = len(sentences) > 0 and isinstance(sentences[0], str)
        pairs = cast(Sequence[tuple[str, str]], [sentences] if is_pair else sentences)
        rows: dict[str, list[int]] = {}
        for row, (query, _) in enumerate(pairs):
            rows.setdefault(query, []).append(row)
        scores = np.zeros(len(pairs))
        lists = [(query, [pairs[row][1] for row in rows[query]]) for query in rows]
        for query, positions in zip(rows, self.rank_many_positions(lists, is_cut=False), strict=True):
            for position, score in positions:
                scores[rows[query][position]] = score
        return scores[0] if is_pair else scores
