"""Judging order that follows run files, such as a language model's ranking of the pool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder
from rerank.adjudication.orders.depth import Depth
from rerank.adjudication.pools import Floats, PooledTopic
from rerank.errors import DataError
from rerank.io.run_files import read_run


class Llm(StaticOrder):
    """Order given by run files, such as the output of ``rerank run``. Other documents follow.

    Documents that no run file contains come last, ordered by their best rank in the runs of the pool.

    Args:
        path: A run file, or a folder of run files. Several runs are combined by reciprocal rank fusion with k = 60.
    """

    title: ClassVar[str] = "order of an LLM"

    def __init__(self, path: str) -> None:
        """Read the run files."""
        location = Path(path)
        files = sorted(f for f in location.iterdir() if f.is_file()) if location.is_dir() else [location]
        if not files:
            raise DataError(f"The folder {path} is empty", expected="a folder with run files")
        self._fused: dict[str, dict[str, float]] = {}
        for file in files:
            for query, ranking in read_run(file).items():
                scores = self._fused.setdefault(query, {})
                for rank, doc in enumerate(ranking.doc_ids, 1):
                    # reciprocal rank fusion with k = 60
                    scores[doc] = scores.get(doc, 0.0) + 1 / (60 + rank)

    def scores(self, topic: PooledTopic) -> Floats:
        """Return (docs,) scores: the fused score of documents in the run files, the negated best rank of the others."""
        fused: Mapping[str, float] = self._fused.get(topic.id, {})
        known = np.array([fused.get(doc, 0.0) for doc in topic.docs])
        # fused scores are positive and negated ranks are negative, so documents in the run files precede all others
        return np.where(known > 0, known, Depth().scores(topic))
