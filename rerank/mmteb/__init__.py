"""Our rerankers and first stages on mteb's benchmarks (MTEB, MMTEB), with results in mteb's own format.

mteb is imported when something is run; listing what is here needs it not.
"""

from __future__ import annotations

from rerank.mmteb.first import MtebFirstStage, first_stage_of
from rerank.mmteb.listing import BENCHMARKS, tasks_of
from rerank.mmteb.model import MtebReranker
from rerank.mmteb.running import Evaluated, evaluate, lists_from

__all__ = [
    "BENCHMARKS",
    "Evaluated",
    "MtebFirstStage",
    "MtebReranker",
    "evaluate",
    "first_stage_of",
    "lists_from",
    "tasks_of",
]
