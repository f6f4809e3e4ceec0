"""Reduction of benchmarks to fewer tasks, fewer queries or smaller corpora, and its effect on conclusions.

The reduction of tasks and corpora follows Enevoldsen et al., MMTEB: Massive Multilingual Text Embedding Benchmark, ICLR
2025 (arXiv 2502.13595), which removes tasks that other tasks predict and keeps only hard negatives in corpora. This
package also checks whether the significant differences between systems are retained, not only their order.
"""

from rerank.adjudication.conclusions import Procedure
from rerank.downsampling.reduction import (
    Goal,
    ReducedBenchmark,
    ReductionStep,
    SignificanceCriterion,
    TaskReductionDesign,
    choose_fewest_queries,
    choose_fewest_tasks,
    choose_smallest_pool,
)
from rerank.downsampling.score_table import ScoreTable, read_benchmark_table

__all__ = [
    "Goal",
    "Procedure",
    "ReducedBenchmark",
    "ReductionStep",
    "ScoreTable",
    "SignificanceCriterion",
    "TaskReductionDesign",
    "choose_fewest_queries",
    "choose_fewest_tasks",
    "choose_smallest_pool",
    "read_benchmark_table",
]
