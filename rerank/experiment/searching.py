"""A first stage alone: searched, timed, weighed and scored. Knows no reranker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from rerank.evaluation import evaluate, parse_measures
from rerank.experiment.candidates import load, lowest_relevant, retrieve
from rerank.experiment.spec import RunSpec
from rerank.retrieval import index_bytes, open_retriever
from rerank.types import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What a first stage found, and what it took.

    Attributes:
        run: A list for every query, empty where nothing was found.
        seconds: For opening the stage, which builds its index the first time, and searching.
        index_mb: Megabytes (10^6 bytes) on disk of its index, documents' texts left out; 0 where it keeps none.
        scores: Measure -> mean; empty where there are no judgments.
    """

    run: Run
    seconds: float
    index_mb: float
    scores: Mapping[str, float]


def search(spec: RunSpec) -> Searched:
    """Search a collection with the first stage of a specification, all its queries, judged or not.

    Raises:
        RerankError: Whatever the collection, the stage or the measures raise.
    """
    collection, queries, qrels = load(spec, judged_only=False)
    relevant = lowest_relevant(spec, collection)
    parse_measures(spec.measures, relevant=relevant)  # now, not after hours of indexing
    began = time.perf_counter()
    retriever = open_retriever(spec.first_stage, collection)
    run = retrieve(spec, collection, queries, retriever=retriever)
    seconds = time.perf_counter() - began
    scores = evaluate(qrels, run, spec.measures, relevant=relevant).summary() if qrels else {}
    return Searched(run=run, seconds=seconds, index_mb=index_bytes(retriever) / 1e6, scores=scores)
