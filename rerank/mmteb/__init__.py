"""Evaluation of rerankers and first stages on the benchmarks of mteb (MTEB, MMTEB), with results in its format.

The package mteb is imported only when a function first needs it.
"""

from __future__ import annotations

from rerank.mmteb.benchmark_tasks import BENCHMARKS, list_mteb_tasks
from rerank.mmteb.evaluation import TaskResult, describe_mteb_candidates, evaluate_mteb_task
from rerank.mmteb.first_stage import MtebFirstStage, parse_mteb_first_stage
from rerank.mmteb.reranker import MtebReranker

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
