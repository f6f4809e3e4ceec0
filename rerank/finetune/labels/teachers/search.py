"""The teacher that is a first stage: candidates in the order in which another search finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.experiment.spec import RunSpec
from rerank.finetune.labels.teachers.base import Opinion, Task, by_run
from rerank.retrieval import first_stages, open_retriever
from rerank.selector import build

#: How deep is searched: documents that are not found by then come last and are counted.
DEPTH = 1000


@dataclass(frozen=True, slots=True)
class Search:
    """A first stage over the whole collection, 1000 documents deep or as deep as the candidates.

    Attributes:
        selector: Which, e.g. ``bm25,k1=1.2`` or ``hybrid:bm25+dense``; in parentheses where it has options and this
            teacher is named itself.

    Raises:
        UnknownNameError: There is none, or it has no such option.
    """

    runs: ClassVar[bool] = False
    judged_only: ClassVar[bool] = False

    selector: str

    def __post_init__(self) -> None:
        """Check it before anything is retrieved."""
        build(first_stages, self._plain)

    @property
    def _plain(self) -> str:
        enclosed = self.selector[:1] + self.selector[-1:] == "()"
        return self.selector[1:-1] if enclosed else self.selector

    def scored(self, spec: RunSpec) -> bool:
        """It does."""
        return True

    def label(self, task: Task) -> tuple[Mapping[str, Opinion], Mapping[str, Any]]:
        """See `Teacher`.

        Raises:
            RerankError: Whatever the first stage raises.
        """
        queries = [ranking.query for ranking in task.candidates.values()]
        found = open_retriever(self._plain, task.collection).search(queries, max(DEPTH, task.spec.depth))
        return by_run(task.candidates.values(), found), {}
