"""The teacher that is a run file: a reranker's or a first stage's result, from here or from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.experiment.spec import RunSpec
from rerank.finetune.labels.teachers.base import Opinion, Task, by_run
from rerank.io.run_files import read_run


@dataclass(frozen=True, slots=True)
class Run:
    """An existing run: candidates in the order of its scores, those that it lacks last and counted.

    Scores that a listwise reranker's run has are positions (1 at rank 1, 1/2 at rank 2 ...), not estimates.

    Attributes:
        path: The file, in any form that `rerank.io.run_files.read_run` reads.
    """

    runs: ClassVar[bool] = False
    judged_only: ClassVar[bool] = False

    path: str

    def scored(self, spec: RunSpec) -> bool:
        """It does."""
        return True

    def label(self, task: Task) -> tuple[Mapping[str, Opinion], Mapping[str, Any]]:
        """See `Teacher`.

        Raises:
            MissingResourceError: There is no such file.
            DataError: It is no run.
        """
        return by_run(task.candidates.values(), read_run(self.path)), {}
