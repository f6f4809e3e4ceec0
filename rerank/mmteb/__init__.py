"""Our rerankers and first stages on mteb's benchmarks (MTEB, MMTEB), with results in mteb's own format.

mteb is imported when something is run; listing what is here needs it not.
"""

from __future__ import annotations

from rerank.mmteb.benchmark_tasks import BENCHMARKS, list_tasks
from rerank.mmteb.evaluation import TaskResult, describe_lists, evaluate
from rerank.mmteb.first_stage import MtebFirstStage, parse_first_stage
from rerank.mmteb.reranker import MtebReranker

__all__ = [
    "BENCHMARKS",
    "MtebFirstStage",
    "MtebReranker",
    "TaskResult",
    "describe_lists",
    "evaluate",
    "list_tasks",
    "parse_first_stage",
]
