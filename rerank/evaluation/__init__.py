"""Evaluation of runs against relevance judgments: scores, significance tests, comparisons and tables."""

from rerank.evaluation.baseline_comparison import compare_with_baseline
from rerank.evaluation.comparison import (
    Comparison,
    PairComparison,
    RunSummary,
    compare_evaluated_measures,
    compare_evaluated_runs,
    compare_runs,
    score_compared_runs,
)
from rerank.evaluation.evaluator import evaluate_by_group, evaluate_run, evaluate_runs, read_query_groups
from rerank.evaluation.judgment_coverage import bound_measures, cover_runs_by_judgments
from rerank.evaluation.measures import parse_measures
from rerank.evaluation.pairwise_decisions import ComparisonOptions, PairwiseDecisions, compare_all_runs
from rerank.evaluation.power import paired_t_power, topics_needed_for_power
from rerank.evaluation.scores import (
    ScoreMatrix,
    Scores,
    add_coverage_to_evaluation_report,
    add_groups_to_evaluation_report,
    evaluation_records,
    evaluation_report,
    read_score_matrix,
    table_of_evaluation,
    table_of_scores,
)

__all__ = [
    "Comparison",
    "ComparisonOptions",
    "PairComparison",
    "PairwiseDecisions",
    "RunSummary",
    "ScoreMatrix",
    "Scores",
    "add_coverage_to_evaluation_report",
    "add_groups_to_evaluation_report",
    "bound_measures",
    "compare_all_runs",
    "compare_evaluated_measures",
    "compare_evaluated_runs",
    "compare_runs",
    "compare_with_baseline",
    "cover_runs_by_judgments",
    "evaluate_by_group",
    "evaluate_run",
    "evaluate_runs",
    "evaluation_records",
    "evaluation_report",
    "paired_t_power",
    "parse_measures",
    "read_query_groups",
    "read_score_matrix",
    "score_compared_runs",
    "table_of_evaluation",
    "table_of_scores",
    "topics_needed_for_power",
]
