"""The token counter without a tokenizer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rerank.prompts.base import Message
from rerank.prompts.word_tokens import WordTokens

WORDS = WordTokens(100)


def test_words_and_marks_count() -> None:
    assert WORDS.context_size == 100
    assert WORDS.lengths(["", "one", "one, two!", "[2] > [1]", "日本 語"]) == [0, 1, 4, 7, 2]
    assert WORDS.count((Message("system", "a b"), Message("user", "c"))) == 2 + 1 + 2 * 4


@given(text=st.text(), tokens=st.integers(-1, 30))
def test_a_cut_is_the_longest_prefix_that_fits(text: str, tokens: int) -> None:
    cut = WORDS.cut(text, tokens)
    assert text.startswith(cut)
    assert WORDS.lengths([cut])[0] == min(WORDS.lengths([text])[0], max(0, tokens))
