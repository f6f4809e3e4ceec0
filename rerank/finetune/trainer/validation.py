"""Validation during training: reranking of a collection with the method of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.evaluation import Comparison, compare_runs, evaluate_run, parse_measures
from rerank.experiment.candidates import load_queries, retrieve_lists
from rerank.experiment.spec import RunSpec
from rerank.finetune.recipe import ValidationTable
from rerank.judges.base import PromptJudge
from rerank.pipeline.stream import rank_together
from rerank.strategies import Strategy
from rerank.types import Qrels, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Validation data (first-stage candidates and relevance judgments), and the measure that selects a checkpoint.

    Attributes:
        candidates: First-stage rankings of the judged queries.
        qrels: Relevance judgments.
        measure: Name of the measure.
        relevant: Lowest grade that binary measures count as relevant.
    """

    candidates: Run
    qrels: Qrels
    measure: str
    relevant: int

    @classmethod
    def of(cls, table: ValidationTable) -> Validation:
        """Create the validation that a recipe describes; its candidates are retrieved once for the whole training."""
        parse_measures([table.ranking_measure])  # report an invalid measure before the training, not after it
        spec = RunSpec(
            collection=table.collection,
            first_stage=table.first_stage,
            depth=table.depth,
            max_queries=table.max_queries,
            queries=table.queries,
            qrels=table.qrels,
        )
        collection, queries, qrels = load_queries(spec)
        candidates = retrieve_lists(spec, collection, queries)
        return cls(candidates=candidates, qrels=qrels, measure=table.ranking_measure, relevant=collection.relevant)

    def rank(self, strategy: Strategy, judge: PromptJudge, name: str) -> tuple[Run, float]:
        """Rerank the candidates with a strategy and a judge; return the run and the fraction of windows that failed."""
        outcome = rank_together(self.candidates.values(), strategy, judge, judge.backend)
        return Run(outcome.rankings, name=name), outcome.failure_rate()

    def measure_run(self, run: Run) -> float:
        """Return the mean value of the measure over queries."""
        scores = evaluate_run(self.qrels, run, [self.measure], relevant=self.relevant)
        return float(next(iter(scores.summary().values())))

    def compare_runs(self, runs: Sequence[Run]) -> Comparison:
        """Compare runs pairwise, with paired t-tests and Holm correction."""
        return compare_runs(self.qrels, runs, self.measure, relevant=self.relevant)
