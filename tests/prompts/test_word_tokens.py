from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from rerank.prompts.word_tokens import WordTokens


@given(st.text(max_size=60) | st.text(st.characters(max_codepoint=127), max_size=60))
@example("snake_case, 3 x\x1cy... [12]\n")
@example("é, 中文")
def test_lengths_are_the_numbers_of_words_and_punctuation_marks(text: str) -> None:
    assert WordTokens(10).lengths([text]) == [len(re.findall(r"\w+|[^\w\s]", text))]
