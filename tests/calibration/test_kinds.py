"""The kinds of scores that judges declare are those that the calibration knows."""

from __future__ import annotations

from rerank.backends.fake import Fake
from rerank.calibration import is_absolute_score_to_calibrate
from rerank.judges import judges, open_judge
from rerank.prompts import load_prompt


def test_the_scope_of_every_judge_is_known() -> None:
    scopes = {}
    for name in judges.names():
        judge = open_judge(name, Fake("reversed"), load_prompt(judges.get(name).prompt or "listwise"))
        if judge.score_kind is not None:
            scopes[name] = judge.score_kind.scope
            assert is_absolute_score_to_calibrate(judge.score_kind.name) == (judge.score_kind.scope == "absolute"), name
    assert set(scopes.values()) == {"absolute", "within"}
