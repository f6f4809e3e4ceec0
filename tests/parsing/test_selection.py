"""Sets of passages that a reply selects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.parsing import parse_selection


@pytest.mark.parametrize(
    ("text", "order", "status"),
    [
        ("Selection: [3] > [1]", (2, 0), "ok"),
        ("[3] > [1]", (2, 0), "ok"),
        ("**Selection:** [3] > [1]", (2, 0), "ok"),
        ("## My final selection: [2]", (1,), "ok"),
        ("A date [1] [2]; a place [4].\nSelection: [4] > [2]", (3, 1), "ok"),
        ("Selection: [1]\nNo, better:\nSelection: [2]", (1,), "ok"),
        ("<think>Selection: [1]</think>Selection: [4]", (3,), "ok"),
        ("Selection: [2], [3]\nThey answer both parts.", (1, 2), "repaired"),
        ("Selection: [2]\n\nNote: Passages [1], [3] and [4] do not help.", (1,), "repaired"),
        ("Selection: [2], [1]. I left out [3] and [4].", (1, 0), "repaired"),
        ("Selection: [2] > [1]\n[3] is redundant.", (1, 0), "repaired"),
        ("Selection:\n- [2]: a date\n- [4]: a place\n\nThe others do not help: [1]", (1, 3), "repaired"),
        ('{"selection": [2, 3]}', (1, 2), "repaired"),
        ("Passages 2 and 3 suffice.", (1, 2), "repaired"),
        ("Selection: [9] > [2] > [2]", (1,), "repaired"),
        ("Selection: none.", (), "ok"),
        ("No passages", (), "ok"),
        ("Selection: []", (), "ok"),
        ("A date [1] [2].\nSelection:", (), "empty"),
        ("", (), "empty"),
        ("I cannot help with this.", (), "refused"),
    ],
)
def test_the_last_selection_counts(text: str, order: tuple[int, ...], status: str) -> None:
    parsed = parse_selection(text, 4)
    assert (parsed.order, parsed.status) == (order, status)


@given(st.text(alphabet="Selection: none[]>,0123456789\n*") | st.text(), st.integers(0, 30))
def test_any_text_is_a_selection_and_no_passage_is_lost(text: str, count: int) -> None:
    for reply in (text, f"Selection: {text}"):
        parsed = parse_selection(reply, count)
        assert sorted(parsed.order + parsed.missing) == list(range(count))
        assert list(parsed.missing) == sorted(parsed.missing)
        assert parsed.status in ("ok", "repaired", "empty", "refused")
        assert parsed.order == () or parsed.status in ("ok", "repaired")


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.permutations(range(n)), st.integers(1, n))))
def test_a_written_selection_comes_back(case: tuple[int, list[int], int]) -> None:
    count, permutation, size = case
    chosen = tuple(permutation[:size])
    parsed = parse_selection("Selection: " + " > ".join(f"[{position + 1}]" for position in chosen), count)
    assert (parsed.order, parsed.status) == (chosen, "ok")
