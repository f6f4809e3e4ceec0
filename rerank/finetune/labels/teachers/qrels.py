"""The teacher `qrels`: candidates are ranked by descending grade; ties keep first-stage order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.collections import open_collection_qrels
from rerank.errors import DataError
from rerank.experiment.spec import RunSpec
from rerank.finetune.labels.teachers.base import LabellingTask, TeacherRanking, rank_by_teacher_scores


@dataclass(frozen=True, slots=True)
class Qrels:
    """Teacher that ranks by relevance judgments. Unjudged documents count as grade 0; the report states their number.

    A list whose documents all have the same grade has no label, because its order would be the first-stage order.

    Attributes:
        file: A qrels file or the selector of a collection; if empty, the qrels of the run specification are used.
    """

    runs: ClassVar[bool] = False
    judged_only: ClassVar[bool] = True

    file: str = ""

    def scored(self, spec: RunSpec) -> bool:
        """Return True: the scores are grades."""
        return True

    def label(self, task: LabellingTask) -> tuple[Mapping[str, TeacherRanking], Mapping[str, Any]]:
        """Rank the candidates by grade."""
        qrels = open_collection_qrels(self.file)[0] if self.file else task.qrels
        if not qrels:
            raise DataError(
                f"The collection {task.collection.name!r} has no judgments",
                expected="relevance judgments, which the teacher qrels needs",
                remedy="Name a file with --qrels, or use another --teacher",
            )
        rankings: dict[str, TeacherRanking] = {}
        unjudged = 0
        for query, ranking in task.candidates.items():
            judged = qrels.get(query, {})
            grades = {doc_id: float(judged.get(doc_id, 0)) for doc_id in ranking.doc_ids}
            unjudged += sum(doc_id not in judged for doc_id in ranking.doc_ids)
            by_grade = rank_by_teacher_scores(ranking, grades)
            if not judged:
                by_grade = TeacherRanking(order=ranking.doc_ids, failed="the query has no judgments")
            elif len(set(grades.values())) == 1 and len(grades) > 1:
                by_grade = TeacherRanking(order=ranking.doc_ids, failed="all candidates have the same grade")
            rankings[query] = by_grade
        return rankings, {"unjudged": unjudged}
