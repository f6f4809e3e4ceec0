"""Evaluation with mteb (MTEB, MMTEB), with results in its format; mteb is imported when a function first needs it."""

from rerank.mmteb.evaluation import (
    BENCHMARKS,
    MtebFirstStage,
    MtebReranker,
    TaskResult,
    describe_mteb_candidates,
    evaluate_mteb_task,
    list_mteb_tasks,
    parse_mteb_first_stage,
)

__all__ = [
    "BENCHMARKS",
    "MtebFirstStage",
    "MtebReranker",
    "TaskResult",
    "describe_mteb_candidates",
    "evaluate_mteb_task",
    "list_mteb_tasks",
    "parse_mteb_first_stage",
]
