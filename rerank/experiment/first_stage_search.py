"""First-stage retrieval without a reranker, with its search time, index size and scores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from rerank.engines import open_engine
from rerank.evaluation import evaluate_run, parse_measures
from rerank.experiment.candidates import (
    load_experiment_queries,
    lowest_relevant_grade_of_spec,
    retrieve_spec_candidates_for_queries,
)
from rerank.experiment.spec import Execution, RunSpec
from rerank.retrieval import check_first_stage, open_first_stage, retriever_index_bytes
from rerank.types import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStageResult:
    """The run that a first stage returns, and its cost.

    Attributes:
        run: One ranking per query; a ranking is empty if nothing was found for its query.
        seconds: Time to open the first stage and to search, including building the index if it does not exist.
        index_mb: Size of the index on disk in megabytes (10^6 bytes), without the document texts; 0 without an index.
        scores: Mapping from each measure to its mean over queries; empty without relevance judgments.
    """

    run: Run
    seconds: float
    index_mb: float
    scores: Mapping[str, float]


def run_first_stage_experiment(spec: RunSpec, execution: Execution | None = None) -> FirstStageResult:
    """Search all queries of a collection, judged or not, with the first stage of a specification.

    Args:
        spec: The specification.
        execution: Options that select the engine whose workers encode the texts; by default, this process encodes them.
    """
    collection, queries, qrels = load_experiment_queries(spec, judged_only=False)
    relevant = lowest_relevant_grade_of_spec(spec, collection)
    parse_measures(spec.measures, relevant=relevant)  # fail before an index is built, which can take hours
    execution = execution or Execution()
    with closing(open_engine(execution.engine, **execution.engine_options())) as engine:
        workers = engine.worker_map()
        check_first_stage(spec.first_stage, with_workers=workers is not None)
        engine.start(None)
        start = time.perf_counter()
        retriever = open_first_stage(spec.first_stage, collection, workers=workers)
        run = retrieve_spec_candidates_for_queries(spec, collection, queries, retriever=retriever)
        seconds = time.perf_counter() - start
    scores = evaluate_run(qrels, run, spec.measures, relevant=relevant).summary() if qrels else {}
    return FirstStageResult(run=run, seconds=seconds, index_mb=retriever_index_bytes(retriever) / 1e6, scores=scores)
