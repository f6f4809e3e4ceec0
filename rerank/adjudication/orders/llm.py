"""The order of a language model's ranking of the pool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import ByScore
from rerank.adjudication.orders.depth import Depth
from rerank.adjudication.pools import Floats, Topic
from rerank.errors import DataError
from rerank.io.run_files import read_run


class Llm(ByScore):
    """As a run ranks the pool, such as one of ``rerank run`` over the pool's documents; the rest by best rank after it.

    Args:
        path: A run file, or a folder of them, which are fused by reciprocal rank (k = 60).

    Raises:
        MissingResourceError: It is not there.
        DataError: A folder without runs.
    """

    title: ClassVar[str] = "order of an LLM"

    def __init__(self, path: str) -> None:
        """Read it."""
        place = Path(path)
        files = sorted(f for f in place.iterdir() if f.is_file()) if place.is_dir() else [place]
        if not files:
            raise DataError(f"{path} is empty", expected="run files in it")
        self._fused: dict[str, dict[str, float]] = {}
        for file in files:
            for query, ranking in read_run(file).items():
                scores = self._fused.setdefault(query, {})
                for rank, doc in enumerate(ranking.doc_ids, 1):
                    scores[doc] = scores.get(doc, 0.0) + 1 / (60 + rank)

    def scores(self, topic: Topic) -> Floats:
        """See `ByScore`: those of the run are above 0, those of the best ranks below."""
        fused: Mapping[str, float] = self._fused.get(topic.id, {})
        known = np.array([fused.get(doc, 0.0) for doc in topic.docs])
        return np.where(known > 0, known, Depth().scores(topic))
