"""Runs against judgments: scores, comparisons with significance, tables. SciPy and ir_measures load when first used."""

from __future__ import annotations

from rerank.evaluation.comparison import Comparison, Pair, RunSummary, compare, compare_scores
from rerank.evaluation.measures import parse_measures
from rerank.evaluation.scores import Scores, evaluate, evaluate_all, evaluation_report
from rerank.evaluation.tables import comparison_table, scores_table

__all__ = [
    "Comparison",
    "Pair",
    "RunSummary",
    "Scores",
    "compare",
    "compare_scores",
    "comparison_table",
    "evaluate",
    "evaluate_all",
    "evaluation_report",
    "parse_measures",
    "scores_table",
]
