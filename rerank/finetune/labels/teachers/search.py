"""The teacher `search`: a first stage, usually not the one that retrieved the candidates, ranks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.experiment.spec import RunSpec
from rerank.finetune.labels.teachers.base import LabellingTask, TeacherRanking, rank_by_teacher_run
from rerank.retrieval import first_stages, open_first_stage
from rerank.selector import build_from_selector

#: Minimum retrieval depth; candidates that are not retrieved come last and are counted in the report.
DEPTH = 1000


@dataclass(frozen=True, slots=True)
class Search:
    """Teacher that ranks candidates with a first stage, which retrieves at least `DEPTH` documents per query.

    If the depth of the candidate lists is larger than `DEPTH`, the first stage retrieves that many documents.

    Attributes:
        selector: Selector such as ``bm25,k1=1.2`` or ``hybrid:bm25+dense``. A selector with options is enclosed in
            parentheses if it is part of a teacher's selector, as in ``search:(bm25,k1=1.2)``.
    """

    runs: ClassVar[bool] = False
    judged_only: ClassVar[bool] = False

    selector: str

    def __post_init__(self) -> None:
        """Check the selector before anything is retrieved."""
        build_from_selector(first_stages, self._plain)

    @property
    def _plain(self) -> str:
        enclosed = self.selector[:1] + self.selector[-1:] == "()"
        return self.selector[1:-1] if enclosed else self.selector

    def scored(self, spec: RunSpec) -> bool:
        """Return True: the scores come from the first stage."""
        return True

    def label(self, task: LabellingTask) -> tuple[Mapping[str, TeacherRanking], Mapping[str, Any]]:
        """Rank the candidates in the order of the first stage."""
        queries = [ranking.query for ranking in task.candidates.values()]
        run = open_first_stage(self._plain, task.collection).search(queries, max(DEPTH, task.spec.depth))
        return rank_by_teacher_run(task.candidates.values(), run), {}
