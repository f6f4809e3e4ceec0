"""The speed of a run: what is reused does not count, and tokens in progress are seen before the first reply."""

from __future__ import annotations

from rerank.experiment.execute import RunSpeed
from rerank.tasks import Reply


def test_speed_and_remaining_time_of_new_calls() -> None:
    now = 0.0
    speed = RunSpeed(102, clock=lambda: now)
    assert speed.describe() == ""
    now = 5.0
    speed.add_tokens_in_progress(500)
    assert speed.describe() == "500 tokens, 100/s"  # no reply yet, so no remaining time
    now = 10.0
    speed.add_tokens_in_progress(500)
    speed.add_reply(Reply(tokens_in=1200, tokens_cached=250, tokens_out=50))
    assert speed.describe() == "1,000 tokens, 100/s, at most 17 min left"
    speed.add_reply(Reply(tokens_in=9, reused=True))
    assert speed.describe() == "1,000 tokens, 100/s, at most 17 min left"
    now = 20.0
    speed.add_reply(Reply(tokens_in=1000))
    assert speed.describe() == "2,000 tokens, 100/s, at most 16 min left"
    assert speed.calls == 3


def test_replies_from_a_log_alone_have_no_speed() -> None:
    speed = RunSpeed(2)
    speed.add_reply(Reply(tokens_in=9, reused=True))
    assert speed.describe() == ""
