"""Two sets of judgments of the same topics: what the second makes of the first's conclusions, and how far they agree.

People against people, a language model against people, gold with holes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank.adjudication.agreement import Agreement, agreement, shared
from rerank.adjudication.categories import Codes
from rerank.adjudication.measuring import by_measure
from rerank.adjudication.notes import about_grades, about_tests
from rerank.adjudication.verdicts import Procedure, Verdicts, row
from rerank.errors import DataError
from rerank.evaluation import parse_measures
from rerank.types import Qrels, Run


@dataclass(frozen=True, eq=False, kw_only=True)
class Conclusions:
    """What was found.

    Attributes:
        topics: Those that both judge; only they count.
        left_out: How many topics only one of them judges.
        systems: The runs' names.
        procedures: Tests with their corrections.
        gold: Measure -> what the first judgments say.
        other: Measure -> what the second ones say.
        agreement: On the documents that both judge.
        relevant: The lowest grade that counted as relevant.
        notes: What a reader must know before believing the tests.
    """

    topics: tuple[str, ...]
    left_out: int
    systems: tuple[str, ...]
    procedures: tuple[Procedure, ...]
    gold: Mapping[str, Verdicts]
    other: Mapping[str, Verdicts]
    agreement: Agreement
    relevant: int
    notes: tuple[str, ...] = ()

    def codes(self) -> dict[tuple[str, Procedure], Codes]:
        """(pairs,) the category of each pair, by measure and procedure."""
        return {
            (measure, procedure): codes
            for measure, gold in self.gold.items()
            for procedure, codes in zip(self.procedures, self.other[measure].beside(gold), strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """What ``rerank qrels compare --format json`` prints."""
        results = []
        for (measure, procedure), codes in self.codes().items():
            about = {"measure": measure, "test": procedure.test, "correction": procedure.correction}
            results.append({**about, **row(codes, self.other[measure].alike(self.gold[measure]))})
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


def compare_qrels(
    runs: Sequence[Run],
    gold: Qrels,
    other: Qrels,
    measures: Sequence[str] = ("nDCG@10",),
    *,
    procedures: Sequence[Procedure] = (Procedure("t", "bh"),),
    relevant: int = 1,
    alpha: float = 0.05,
) -> Conclusions:
    """Hold the conclusions of one set of judgments, which is believed, against those of another.

    Args:
        runs: The systems; two or more.
        gold: What is believed.
        other: What is held against it.
        measures: Names of measures.
        procedures: Tests with their corrections.
        relevant: The lowest grade that binary measures count.
        alpha: The level.

    Raises:
        DataError: Fewer than two topics are judged by both, or fewer than two runs.
        UnknownNameError: No such measure or test.
    """
    topics = shared(gold, other)
    if len(topics) < 2:
        raise DataError(
            f"{len(topics)} topics are judged by both {gold.name} and {other.name}", expected="at least 2 to test on"
        )
    names = [str(measure) for measure in parse_measures(measures, relevant=relevant)]
    parts = [Qrels({topic: qrels[topic] for topic in topics}, name=qrels.name) for qrels in (gold, other)]
    matrices = [by_measure(part, runs, names) for part in parts]
    believed, held = (
        {name: Verdicts.of(m.values, m.systems, procedures, alpha) for name, m in found.items()} for found in matrices
    )
    told = list(about_tests((matrix for found in matrices for matrix in found.values()), procedures, alpha))
    told += [note for part in parts for note in about_grades(part, names, relevant)]
    return Conclusions(
        topics=topics,
        left_out=len(set(gold) ^ set(other)),
        systems=tuple(run.name for run in runs),
        procedures=tuple(procedures),
        gold=believed,
        other=held,
        agreement=agreement(gold, other),
        relevant=relevant,
        notes=tuple(dict.fromkeys(told)),
    )
