"""Creation of relevance judgments: pools, judging orders, budgets, and the effect of cheaper judgments."""

from rerank.adjudication.agreement import Agreement, AssessorPanel
from rerank.adjudication.conclusions import PairCategories, Procedure, cross_significance_procedures
from rerank.adjudication.few_judgments import estimate_from_few_judgments
from rerank.adjudication.leave_out import LeaveOutStudy, leave_groups_out
from rerank.adjudication.orders import open_judging_order
from rerank.adjudication.pools import Pool, pool_runs
from rerank.adjudication.qrels_comparison import QrelsComparison, compare_with_gold_qrels
from rerank.adjudication.studies import AdjudicationStudy, StudyDesign, run_study
from rerank.adjudication.walks import AdjudicationBudget, JudgingSequence, judge_pool_in_order

__all__ = [
    "AdjudicationBudget",
    "AdjudicationStudy",
    "Agreement",
    "AssessorPanel",
    "JudgingSequence",
    "LeaveOutStudy",
    "PairCategories",
    "Pool",
    "Procedure",
    "QrelsComparison",
    "StudyDesign",
    "compare_with_gold_qrels",
    "cross_significance_procedures",
    "estimate_from_few_judgments",
    "judge_pool_in_order",
    "leave_groups_out",
    "open_judging_order",
    "pool_runs",
    "run_study",
]
