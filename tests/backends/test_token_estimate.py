"""Token counters without a tokenizer: estimates, and words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.backends.base.token_estimate import EstimatedTokens, lower_bound
from rerank.prompts.base import Message
from rerank.prompts.passages import make_identifiers
from rerank.prompts.word_tokens import WordTokens
from tests.raising import raises

TOKENS = EstimatedTokens(lambda: 4096)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("   ", 1),
        ("a", 1),
        ("cats", 1),
        ("passage", 2),
        ("two words", 3),
        ("1984", 4),
        ("[12] > [3]", 8),
        ("end.\n\nNew", 4),
        ("NASA", 4),
        ("camelCase", 3),
        ("é", 1),
        ("搜索", 4),
        ("🙂", 2),
    ],
)
def test_estimates(text: str, tokens: int) -> None:
    assert TOKENS.lengths([text]) == [tokens]


def test_turns_cost_something() -> None:
    one, two = (Message("user", "cats"),), (Message("system", "cats"), Message("user", "cats"))
    assert TOKENS.count(()) < TOKENS.count(one) < TOKENS.count(two)
    assert TOKENS.context_size == 4096


def test_at_least_a_token_a_word() -> None:
    assert lower_bound((Message("system", "You rank."), Message("user", " a  b\nc "))) == 5


@given(st.text(max_size=80), st.integers(-1, 60))
def test_cut_is_the_longest_prefix_that_fits(text: str, tokens: int) -> None:
    cut = TOKENS.cut(text, tokens)
    assert text.startswith(cut)
    assert TOKENS.lengths([cut])[0] <= max(0, tokens)
    if TOKENS.lengths([text])[0] <= tokens:
        assert cut == text


@given(st.text(max_size=60), st.text(max_size=60))
def test_joining_texts_with_a_line_break_adds_little(one: str, other: str) -> None:
    (whole,), parts = TOKENS.lengths([f"{one}\n{other}"]), TOKENS.lengths([one, other])
    assert whole <= sum(parts) + 1


def test_letters_are_those_that_are_one_token_everywhere() -> None:
    from rerank.errors import UsageError

    assert make_identifiers("letters", 26, TOKENS)[-1] == "Z"
    with raises(UsageError, "26", "27"):
        make_identifiers("letters", 27, TOKENS)


@pytest.mark.model
def test_ordinary_text_of_a_real_model_takes_no_more(smollm2_texts: list[str]) -> None:
    from transformers import AutoTokenizer

    from rerank.models import model_folder

    tokenizer = AutoTokenizer.from_pretrained(model_folder("smollm2-135m"))
    real = [len(ids) for ids in tokenizer(smollm2_texts, add_special_tokens=False).input_ids]
    estimated = TOKENS.lengths(smollm2_texts)
    assert sum(estimated) < 1.5 * sum(real)
    assert sum(few < many for few, many in zip(estimated, real, strict=True)) < 0.02 * len(real)


@pytest.fixture(scope="module")
def smollm2_texts() -> list[str]:
    from itertools import islice

    from rerank.collections import open_collection

    return [doc.full_text for doc in islice(open_collection("pydoc").docs(), 1000)]


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
