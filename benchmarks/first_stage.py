"""Our BM25 stage against bm25s' own scores with a plain selection, on a synthetic corpus: how much the rest costs.

    python benchmarks/first_stage.py --documents 50000

Words follow Zipf's law, documents have 30 to 90 of them, queries 8. Our side includes reading the documents' text;
the bare side ignores ties and returns positions. The ratio is ours / bare: near 1 is good.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rerank.retrieval import open_first_stage
from rerank.retrieval.base.stages import RetrieverSource
from rerank.types import Document, Query

VOCABULARY = 100_000


class Synthetic:
    """A corpus of random words."""

    language = "en"

    def __init__(self, documents: int) -> None:
        self.name = f"synthetic-{documents}"
        self.documents = documents
        self.fingerprint = hashlib.sha256(self.name.encode()).hexdigest()
        weights = 1 / np.arange(1, VOCABULARY + 1)
        self._cumulative = np.cumsum(weights / weights.sum())

    def text(self, random: np.random.Generator, length: int) -> str:
        ranks = np.minimum(np.searchsorted(self._cumulative, random.random(length)), VOCABULARY - 1)
        return " ".join(f"w{rank}x" for rank in ranks)

    def docs(self) -> Iterator[Document]:
        random = np.random.default_rng(1)
        for number in range(self.documents):
            yield Document(id=f"d{number}", text=self.text(random, int(random.integers(30, 90))))


def main() -> None:
    """Build, open again, search, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        os.environ["XDG_CACHE_HOME"] = room
        corpus, random = Synthetic(options.documents), np.random.default_rng(0)
        queries = [Query(id=str(n), text=corpus.text(random, 8)) for n in range(options.queries)]
        build = clock(lambda: open_first_stage("bm25", corpus))
        reopen = clock(lambda: open_first_stage("bm25", corpus))
        stage = open_first_stage("bm25", corpus)
        ours = min(clock(lambda: stage.search(queries, 100)) for _ in range(3))
        bare = min(clock(lambda: bare_search(stage, queries)) for _ in range(3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    times = {"build_seconds": build, "reopen_seconds": reopen, "search_seconds": ours, "bare_seconds": bare}
    print(json.dumps({"documents": options.documents, **times, "ratio": ours / bare, "peak_mib": peak}))


def clock(action: Callable[[], object]) -> float:
    """Return the seconds that a function takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def bare_search(stage: RetrieverSource, queries: list[Query]) -> None:
    """Search with bm25s alone, from tokens that it knows, in the only shard of the index."""
    searcher: Any = stage.retriever
    index = searcher._index
    (shard,) = index.shards
    for query in queries:
        known = [index.vocabulary[term] for term in searcher._analyze(query.text) if term in index.vocabulary]
        scores = shard.get_scores_from_ids(known)
        np.argpartition(scores, -min(100, len(scores)))[-100:]


if __name__ == "__main__":
    main()
