"""Smaller benchmarks that say the same: fewer tasks, fewer queries, smaller corpora, and what each does to conclusions.

Source of the first two ideas: Enevoldsen et al., MMTEB: Massive Multilingual Text Embedding Benchmark, ICLR 2025
(arXiv 2502.13595), which drops the tasks that others predict and keeps hard negatives alone. What is added here is the
question whether the significant differences between systems are kept, not their order alone.
"""

from __future__ import annotations

from rerank.downsampling.goals import Goal, Paired, Procedure
from rerank.downsampling.pools import choose_pool
from rerank.downsampling.queries import choose_queries
from rerank.downsampling.results import Choice, Step
from rerank.downsampling.tables import Table, read_table
from rerank.downsampling.tasks import Design, choose_tasks

__all__ = [
    "Choice",
    "Design",
    "Goal",
    "Paired",
    "Procedure",
    "Step",
    "Table",
    "choose_pool",
    "choose_queries",
    "choose_tasks",
    "read_table",
]
