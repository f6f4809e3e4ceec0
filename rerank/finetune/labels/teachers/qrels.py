"""The teacher that is a set of judgments: falling grades, ties in first-stage order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.collections import judgments
from rerank.errors import DataError
from rerank.experiment.spec import RunSpec
from rerank.finetune.labels.teachers.base import Opinion, Task, by_scores


@dataclass(frozen=True, slots=True)
class Qrels:
    """Judgments. A document without one counts as grade 0, as in every evaluation, and such are counted.

    A list whose documents all have the same grade has no label: its order would be the first stage's own.

    Attributes:
        file: A file of judgments or a collection's selector; those of the run where it is left out.
    """

    runs: ClassVar[bool] = False
    judged_only: ClassVar[bool] = True

    file: str = ""

    def scored(self, spec: RunSpec) -> bool:
        """It does."""
        return True

    def label(self, task: Task) -> tuple[Mapping[str, Opinion], Mapping[str, Any]]:
        """See `Teacher`. The scores are the grades.

        Raises:
            DataError: There are no judgments.
        """
        qrels = judgments(self.file)[0] if self.file else task.qrels
        if not qrels:
            raise DataError(
                f"The collection {task.collection.name!r} has no judgments",
                expected="some, for the teacher qrels",
                remedy="Name a file with --qrels, or take another --teacher",
            )
        found: dict[str, Opinion] = {}
        unjudged = 0
        for query, ranking in task.candidates.items():
            judged = qrels.get(query, {})
            grades = {one: float(judged.get(one, 0)) for one in ranking.doc_ids}
            unjudged += sum(one not in judged for one in ranking.doc_ids)
            opinion = by_scores(ranking, grades)
            if not judged:
                opinion = Opinion(order=ranking.doc_ids, failed="the query has no judgments")
            elif len(set(grades.values())) == 1 and len(grades) > 1:
                opinion = Opinion(order=ranking.doc_ids, failed="all candidates have the same grade")
            found[query] = opinion
        return found, {"unjudged": unjudged}
