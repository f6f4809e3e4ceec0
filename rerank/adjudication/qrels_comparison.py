"""Comparison of two sets of judgments for the same topics: their agreement, and the conclusions drawn from each.

Use it to compare two people, a language model and people, or incomplete and complete judgments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank.adjudication.agreement import Agreement, compute_assessor_agreement, topics_judged_by_both
from rerank.adjudication.pair_categories import Codes
from rerank.adjudication.pool_measures import score_matrices_of_judged_pool
from rerank.adjudication.significance_verdicts import Procedure, SignificanceVerdicts, gold_judgment_comparison_row
from rerank.adjudication.study_notes import note_study_judgments, note_study_tests
from rerank.errors import DataError
from rerank.evaluation import parse_measures
from rerank.types import Qrels, Run


@dataclass(frozen=True, eq=False, kw_only=True)
class QrelsComparison:
    """Results of comparing two sets of judgments.

    Attributes:
        topics: Topics in both sets of judgments. Only these topics are evaluated.
        left_out: Number of topics in only one of the sets.
        systems: Names of the runs.
        procedures: Tests with their corrections.
        gold: Measure -> significance decisions with the gold judgments.
        other: Measure -> significance decisions with the other judgments.
        agreement: Agreement on the documents in both sets of judgments.
        relevant: Lowest grade that counts as relevant.
        notes: Caveats for the reader.
    """

    topics: tuple[str, ...]
    left_out: int
    systems: tuple[str, ...]
    procedures: tuple[Procedure, ...]
    gold: Mapping[str, SignificanceVerdicts]
    other: Mapping[str, SignificanceVerdicts]
    agreement: Agreement
    relevant: int
    notes: tuple[str, ...] = ()

    def codes(self) -> dict[tuple[str, Procedure], Codes]:
        """Return (measure, procedure) -> category codes of shape (pairs,)."""
        return {
            (measure, procedure): codes
            for measure, gold in self.gold.items()
            for procedure, codes in zip(self.procedures, self.other[measure].categorise_against(gold), strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``rerank qrels compare --format json``."""
        results = []
        for (measure, procedure), codes in self.codes().items():
            about = {"measure": measure, "test": procedure.test, "correction": procedure.correction}
            results.append(
                {
                    **about,
                    **gold_judgment_comparison_row(codes, self.other[measure].compare_ranking(self.gold[measure])),
                }
            )
        return {
            "topics": len(self.topics),
            "topics_left_out": self.left_out,
            "systems": len(self.systems),
            "pairs": len(next(iter(self.gold.values())).differences),
            "relevant": self.relevant,
            "agreement": self.agreement.to_dict(self.relevant),
            "results": results,
            "notes": list(self.notes),
        }


def compare_with_gold_qrels(
    runs: Sequence[Run],
    gold: Qrels,
    other: Qrels,
    measures: Sequence[str] = ("nDCG@10",),
    *,
    procedures: Sequence[Procedure] = (Procedure("t", "bh"),),
    relevant: int = 1,
    alpha: float = 0.05,
) -> QrelsComparison:
    """Compare the conclusions drawn from a set of judgments with the conclusions drawn from gold judgments.

    Args:
        runs: At least two runs.
        gold: Reference judgments.
        other: Judgments to compare with the reference judgments.
        measures: Names of measures.
        procedures: Tests with their corrections.
        relevant: Lowest grade that counts as relevant in binary measures.
        alpha: Significance level.

    Raises:
        DataError: Fewer than two topics are in both sets of judgments, or there are fewer than two runs.
        UnknownNameError: A measure or test does not exist.
    """
    topics = topics_judged_by_both(gold, other)
    if len(topics) < 2:
        raise DataError(
            f"{len(topics)} topics are judged by both {gold.name} and {other.name}", expected="at least 2 topics"
        )
    names = [str(measure) for measure in parse_measures(measures, relevant=relevant)]
    shared_qrels = [Qrels({topic: qrels[topic] for topic in topics}, name=qrels.name) for qrels in (gold, other)]
    matrices = [score_matrices_of_judged_pool(qrels, runs, names) for qrels in shared_qrels]
    gold_verdicts, other_verdicts = (
        {name: SignificanceVerdicts.from_scores(m.values, m.systems, procedures, alpha) for name, m in row.items()}
        for row in matrices
    )
    notes = list(note_study_tests((matrix for row in matrices for matrix in row.values()), procedures, alpha))
    notes += [note for qrels in shared_qrels for note in note_study_judgments(qrels, runs, names, relevant)]
    return QrelsComparison(
        topics=topics,
        left_out=len(set(gold) ^ set(other)),
        systems=tuple(run.name for run in runs),
        procedures=tuple(procedures),
        gold=gold_verdicts,
        other=other_verdicts,
        agreement=compute_assessor_agreement(gold, other),
        relevant=relevant,
        notes=tuple(dict.fromkeys(notes)),
    )
