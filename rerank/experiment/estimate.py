"""What a run would cost: the strategy is driven for real, with a judge that counts and leaves every order as it is.

Calls are exact. Prompt tokens are exact for the first window of a query and close for later ones, whose documents
depend on replies; generated tokens are the most that can come. Asks the model nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerank.experiment.prepare import Prepared, shuffled
from rerank.judges.base import Asking, SupportsCapacity, Verdict
from rerank.pipeline import drive
from rerank.prices import cost
from rerank.prompts.base import TokenCounter
from rerank.types import Window


@dataclass(kw_only=True)
class _Counting:
    judge: Asking
    counter: TokenCounter
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def order(self, windows: Sequence[Window]) -> list[Verdict]:
        for window in windows:
            for request in self.judge.requests(window):
                self.calls += 1
                self.tokens_in += self.counter.count(request.prompt)
                self.tokens_out += request.sampling.max_tokens + request.sampling.thinking
        return [Verdict(order=tuple(range(len(window))), status="ok") for window in windows]

    def capacity(self, window: Window) -> int:
        return self.judge.capacity(window) if isinstance(self.judge, SupportsCapacity) else len(window)


def estimate(prepared: Prepared) -> dict[str, Any]:
    """Count calls and tokens of a prepared run.

    Returns:
        ``queries``, ``calls``, ``tokens_in``, ``tokens_out`` (the most), ``cost`` in US dollars or None if unknown.
    """
    counting = _Counting(judge=prepared.judge(prepared.backend), counter=prepared.backend.tokens)
    drive(shuffled(prepared.first_stage, prepared.spec).values(), prepared.strategy, counting)
    return {
        "queries": len(prepared.first_stage),
        "calls": counting.calls,
        "tokens_in": counting.tokens_in,
        "tokens_out": counting.tokens_out,
        "cost": cost(prepared.spec.model, counting.tokens_in, counting.tokens_out),
    }
