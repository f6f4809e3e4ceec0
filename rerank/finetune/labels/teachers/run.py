"""The teacher `run`: candidates are ranked as in a run file of a reranker or a first stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.experiment.spec import RunSpec
from rerank.finetune.labels.teachers.base import LabellingTask, TeacherRanking, rank_by_teacher_run
from rerank.io.run_files import read_run


@dataclass(frozen=True, slots=True)
class Run:
    """Teacher that ranks as in an existing run. Candidates that are missing in the run come last.

    The report of the labelling counts the missing candidates.

    The scores in the run of a listwise reranker are reciprocal ranks (1, 1/2 ...), not relevance estimates.

    Attributes:
        path: Run file, in any format that `rerank.io.run_files.read_run` supports.
    """

    runs: ClassVar[bool] = False
    judged_only: ClassVar[bool] = False

    path: str

    def scored(self, spec: RunSpec) -> bool:
        """Return True: the scores come from the run."""
        return True

    def label(self, task: LabellingTask) -> tuple[Mapping[str, TeacherRanking], Mapping[str, Any]]:
        """Rank the candidates in the order of the run file."""
        return rank_by_teacher_run(task.candidates.values(), read_run(self.path)), {}
