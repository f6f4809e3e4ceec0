"""What a run would cost at most: the strategy is driven with a judge that counts and leaves every order as it is.

Strategies that ask according to what they hear (heaps, bubble sort, top-down) are then counted with the most calls that
they can take, and their tokens grow in proportion. Prompt tokens are exact for the first window of a query and close
for later ones, whose documents depend on replies; generated tokens are the most that can come. Asks the model nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerank.experiment.candidates import shuffled
from rerank.experiment.prepare import Prepared
from rerank.experiment.prices import cost
from rerank.judges.base import Asking, TooLong, Verdict
from rerank.pipeline.driver import drive
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
        return [verdict for verdict in self.attempt(windows) if isinstance(verdict, Verdict)]

    def attempt(self, windows: Sequence[Window]) -> list[Verdict | TooLong]:
        return [self._count(window) for window in windows]

    def _count(self, window: Window) -> Verdict | TooLong:
        found = self.judge.ask(window)
        if isinstance(found, TooLong):
            return found
        for request in found:
            self.calls += 1
            self.tokens_in += self.counter.count(request.prompt)
            self.tokens_out += request.sampling.max_tokens + request.sampling.thinking
        return Verdict(order=tuple(range(len(window))), status="ok")


def estimate(prepared: Prepared) -> dict[str, Any]:
    """Count calls and tokens of a prepared run.

    Returns:
        ``queries``; ``calls``, ``tokens_in``, ``tokens_out``, all at most; ``cost`` in US dollars or None if unknown.
    """
    counting = _Counting(judge=prepared.judge(prepared.backend), counter=prepared.backend.tokens)
    lists = shuffled(prepared.first_stage, prepared.spec).values()
    drive(lists, prepared.strategy, counting, passages=prepared.passages)
    calls = max(prepared.calls(), counting.calls) if counting.calls else 0
    tokens_in, tokens_out = (
        math.ceil(tokens * calls / max(1, counting.calls)) for tokens in (counting.tokens_in, counting.tokens_out)
    )
    return {
        "queries": len(prepared.first_stage),
        "calls": calls,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "cost": cost(prepared.spec.model, tokens_in, tokens_out),
    }
