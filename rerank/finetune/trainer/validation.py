"""A collection that is ranked while a model trains, by the method that is trained for. Knows no trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.evaluation import Comparison, compare, evaluate
from rerank.experiment.candidates import load, retrieve
from rerank.experiment.spec import RunSpec
from rerank.finetune.recipe import ValidationTable
from rerank.judges.base import Asking
from rerank.pipeline.driver import drive
from rerank.strategies import Strategy
from rerank.types import Qrels, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Candidates, judgments, and the measure that decides.

    Attributes:
        candidates: First-stage lists of the judged queries.
        qrels: Their judgments.
        measure: Name of the measure.
        relevant: Lowest grade that binary measures count.
    """

    candidates: Run
    qrels: Qrels
    measure: str
    relevant: int

    @classmethod
    def of(cls, table: ValidationTable) -> Validation:
        """Search once; what is ranked stays the same for the whole training.

        Raises:
            RerankError: Whatever stands in the way of a run with this collection.
        """
        spec = RunSpec(
            collection=table.collection,
            first_stage=table.first_stage,
            depth=table.depth,
            max_queries=table.max_queries,
            queries=table.queries,
            qrels=table.qrels,
        )
        collection, queries, qrels = load(spec)
        found = retrieve(spec, collection, queries)
        return cls(candidates=found, qrels=qrels, measure=table.measure, relevant=collection.relevant)

    def rank(self, strategy: Strategy, judge: Asking, name: str) -> tuple[Run, float]:
        """The candidates reranked, and the share of windows that said nothing."""
        outcome = drive(self.candidates.values(), strategy, judge)
        return Run(outcome.rankings, name=name), outcome.failure_rate()

    def measured(self, run: Run) -> float:
        """The measure of a run."""
        scores = evaluate(self.qrels, run, [self.measure], relevant=self.relevant)
        return float(next(iter(scores.summary().values())))

    def compared(self, runs: Sequence[Run]) -> Comparison:
        """The runs side by side, with significance (paired t, Holm)."""
        return compare(self.qrels, runs, self.measure, relevant=self.relevant)
