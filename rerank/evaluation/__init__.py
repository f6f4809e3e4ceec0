"""Evaluation of runs against relevance judgments: scores, significance tests, comparisons and tables.

SciPy and ir_measures are imported when first used.
"""

from __future__ import annotations

from rerank.evaluation.comparison import compare, compare_scores
from rerank.evaluation.comparison_report import Comparison, PairComparison, RunSummary
from rerank.evaluation.evaluator import evaluate, evaluate_all
from rerank.evaluation.measures import parse_measures
from rerank.evaluation.pairwise_decisions import PairwiseDecisions, decide_pairs
from rerank.evaluation.power import paired_t_power, topics_needed
from rerank.evaluation.query_groups import add_groups, evaluate_by_group, read_groups
from rerank.evaluation.score_matrix import ScoreMatrix, read_matrix
from rerank.evaluation.scores import Scores, evaluation_report
from rerank.evaluation.tables import scores_table

__all__ = [
    "Comparison",
    "PairComparison",
    "PairwiseDecisions",
    "RunSummary",
    "ScoreMatrix",
    "Scores",
    "add_groups",
    "compare",
    "compare_scores",
    "decide_pairs",
    "evaluate",
    "evaluate_all",
    "evaluate_by_group",
    "evaluation_report",
    "paired_t_power",
    "parse_measures",
    "read_groups",
    "read_matrix",
    "scores_table",
    "topics_needed",
]
