"""A reranker for DSPy, as a module for programs. It requires the extra ``dspy``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rerank.integrations.framework_reranker import FrameworkReranker, RankedPositions, missing_framework_error
from rerank.reranker import Reranker

try:
    import dspy
except ImportError as error:
    raise missing_framework_error("dspy", error) from error


class RerankerModule(dspy.Module):
    """A module that reranks passages for a query; it has the arguments of `FrameworkReranker` and no parameters.

    A passage is a text, a mapping or a `dspy.Example` with ``text``, or a `rerank.Document`. The prediction contains
    ``passages`` (the given objects, best first), their ``scores``, and ``indices`` (their positions in the input).
    """

    def __init__(
        self,
        model: str | None = None,
        settings: dict[str, Any] | None = None,
        *,
        reranker: Reranker | None = None,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> None:
        super().__init__()
        self._ranker = FrameworkReranker(
            model=model, settings=settings or {}, reranker=reranker, top_n=top_n, threshold=threshold
        )

    def forward(self, query: str, passages: Sequence[Any]) -> dspy.Prediction:
        return _predict(passages, self._ranker.rank_positions(query, _documents(passages)))

    async def aforward(self, query: str, passages: Sequence[Any]) -> dspy.Prediction:
        return _predict(passages, await self._ranker.arank_positions(query, _documents(passages)))


def _documents(passages: Sequence[Any]) -> list[Any]:
    return [passage.toDict() if isinstance(passage, dspy.Example) else passage for passage in passages]


def _predict(passages: Sequence[Any], positions: RankedPositions) -> dspy.Prediction:
    return dspy.Prediction(
        passages=[passages[position] for position, _ in positions],
        scores=[score for _, score in positions],
        indices=[position for position, _ in positions],
    )
