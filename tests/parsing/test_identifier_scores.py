"""Scores of passages in a reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.parsing import parse_identifier_scores


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ('{"[1]": 5, "[2]": 3.5}', {0: 5.0, 1: 3.5}),
        ("{'1': 5, \n '2' : -3}", {0: 5.0, 1: -3.0}),
        ('{"[1]]": "5"}', {0: 5.0}),
        ('<reason>{"[1]": 9}</reason><answer> {"[1]": 2} </answer>', {0: 2.0}),
        ('{"[1]": 9} or rather {"[2]": 1}', {1: 1.0}),
        ('{"[1]": 5, "[2]": 1', {0: 5.0}),
        ('{"[1]": NaN, "[2]": 1e400, "[9]": 3, "[0]": 3}', {}),
        ('{"[1]": 5, "[2]": 9}\nNote: {none}', {0: 5.0, 1: 9.0}),
        ('{"[1]": 5, "[2]": {"score": 9}}', {0: 5.0}),
        ("[1]: 5\n[2]: 9\n[3]: 0.", {0: 5.0, 1: 9.0}),
        ("", {}),
    ],
)
def test_the_last_object_counts(text: str, scores: dict[int, float]) -> None:
    assert parse_identifier_scores(text, 3) == scores


@given(st.text(alphabet='{}[]":,.-0123456789 \n<think>') | st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    assert set(parse_identifier_scores(text, 3)) <= {0, 1, 2}
