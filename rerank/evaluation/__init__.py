"""Runs against judgments: scores, comparisons with significance, tables. SciPy and ir_measures load when first used."""

from __future__ import annotations

from rerank.evaluation.comparison import compare, compare_scores
from rerank.evaluation.groups import evaluate_by, read_groups, with_groups
from rerank.evaluation.matrix import Matrix, read_matrix
from rerank.evaluation.measures import parse_measures
from rerank.evaluation.measuring import evaluate, evaluate_all
from rerank.evaluation.pairs import Decisions, decide
from rerank.evaluation.power import paired_t_power, topics_needed
from rerank.evaluation.report import Comparison, Pair, RunSummary
from rerank.evaluation.scores import Scores, evaluation_report
from rerank.evaluation.tables import comparison_table, scores_table

__all__ = [
    "Comparison",
    "Decisions",
    "Matrix",
    "Pair",
    "RunSummary",
    "Scores",
    "compare",
    "compare_scores",
    "comparison_table",
    "decide",
    "evaluate",
    "evaluate_all",
    "evaluate_by",
    "evaluation_report",
    "paired_t_power",
    "parse_measures",
    "read_groups",
    "read_matrix",
    "scores_table",
    "topics_needed",
    "with_groups",
]
