"""Display of the progress of a run on stderr: calls, tokens per second and the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rerank.experiment.prepare import PreparedRun
from rerank.progress import format_time_left, show_detailed_progress
from rerank.tasks import Reply
from rerank.tasks.backends import traits

#: Minimum number of seconds between two updates: layers report tokens more often than anyone can read.
_SECONDS_BETWEEN_UPDATES = 0.2


@contextmanager
def show_run_progress(prepared: PreparedRun, title: str = "") -> Generator[Callable[[Reply], None]]:
    """Show the progress of a run, and yield the function that `execute_run` calls with each reply.

    A local model also reports the tokens of the batch in progress, so that the speed is known before the first reply.
    """
    total = prepared.calls()
    with show_detailed_progress(title or prepared.setup.method.name, total, bound="at most") as show:
        speed, shown = RunSpeed(total), 0.0

        def on_reply(reply: Reply) -> None:
            speed.add_reply(reply)
            show(speed.calls, speed.describe())

        def on_tokens(tokens: float) -> None:
            nonlocal shown
            speed.add_tokens_in_progress(tokens)
            if (now := time.monotonic()) - shown >= _SECONDS_BETWEEN_UPDATES:
                shown = now
                show(speed.calls, speed.describe())

        backend = traits(prepared.backend)
        backend.report_tokens_to(on_tokens)
        try:
            yield on_reply
        finally:
            backend.report_tokens_to(None)


class RunSpeed:
    """Speed of a run so far. Replies that are reused from a log are counted as calls, but not for the speed."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.calls = 0
        self._total, self._clock, self._started = total, clock, clock()
        self._new_calls, self._tokens, self._in_progress = 0, 0, 0.0

    def add_reply(self, reply: Reply) -> None:
        """Count a reply; its tokens replace those counted for incomplete replies."""
        self.calls += 1
        if not reply.reused:
            self._new_calls += 1
            self._tokens += reply.tokens_in - reply.tokens_cached + reply.tokens_out
            self._in_progress = 0.0

    def add_tokens_in_progress(self, tokens: float) -> None:
        """Count tokens processed for an incomplete reply; a token after half of the layers counts as 0.5."""
        self._in_progress += tokens

    def describe(self) -> str:
        """Describe the number of tokens, the speed and, from the first new reply on, the time left at this speed."""
        seconds = max(self._clock() - self._started, 1e-9)
        tokens = self._tokens + self._in_progress
        speed = [f"{tokens:,.0f} tokens", f"{tokens / seconds:,.0f}/s"] if tokens else []
        more = self._total - self.calls
        left = more * seconds / self._new_calls if more > 0 and self._new_calls else None
        return ", ".join(filter(None, [*speed, format_time_left(left, bound="at most")]))
