"""First-stage retrieval without a reranker: search, time, index size and scores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from rerank.evaluation import evaluate, parse_measures
from rerank.experiment.candidates import load_queries, lowest_relevant, retrieve
from rerank.experiment.spec import RunSpec
from rerank.retrieval import index_bytes, open_retriever
from rerank.types import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStageResult:
    """The result of a first stage and its cost.

    Attributes:
        run: A ranking per query, empty if nothing was found.
        seconds: Time to open the stage, which includes building its index the first time, and to search.
        index_mb: Size of its index on disk in megabytes (10^6 bytes), without the document texts; 0 without an index.
        scores: Mean per measure; empty without relevance judgments.
    """

    run: Run
    seconds: float
    index_mb: float
    scores: Mapping[str, float]


def search(spec: RunSpec) -> FirstStageResult:
    """Search all queries of a collection, judged or not, with the first stage of a specification.

    Raises:
        RerankError: The collection, the first stage or the measures cannot be used.
    """
    collection, queries, qrels = load_queries(spec, judged_only=False)
    relevant = lowest_relevant(spec, collection)
    parse_measures(spec.measures, relevant=relevant)  # before an index is built, which can take hours
    start = time.perf_counter()
    retriever = open_retriever(spec.first_stage, collection)
    run = retrieve(spec, collection, queries, retriever=retriever)
    seconds = time.perf_counter() - start
    scores = evaluate(qrels, run, spec.measures, relevant=relevant).summary() if qrels else {}
    return FirstStageResult(run=run, seconds=seconds, index_mb=index_bytes(retriever) / 1e6, scores=scores)
