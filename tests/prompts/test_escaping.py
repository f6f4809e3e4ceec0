"""What stands in brackets in a passage can never be read as an identifier."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rerank.parsing import parse_permutation
from rerank.parsing.clean import normalize_reply_signs
from rerank.parsing.mentions import find_mentions, parse_reply_tokens
from rerank.prompts.escaping import escape_passage_brackets
from rerank.prompts.loading import prompt_template_from_yaml

MARKS = st.sampled_from([*"[]［］【】〔〕〖〗⟦⟧()（）", *",;:>=|#&<-–.*_`\"'\\ \n", "&gt;"])
NUMBERS = st.sampled_from([*"1279０５²₃①⑫⑴㉑٣", "12", "100"])
WORDS = st.sampled_from(["Passage", "doc", "documents", "id", "and", "段落", "a", "passage_id", "see", "²"])
TEXTS = st.lists(MARKS | NUMBERS | WORDS, max_size=25).map("".join)


@settings(deadline=None, max_examples=1000)
@given(TEXTS | st.text(alphabet="[]［】(1, -a中") | st.text())
@example("[2 > [1]")
@example("1] > [a]")
@example("[1, 2")
@example("[a [b] 1]")
@example("[a (1)]")
@example("(1] [2)")
def test_the_parser_finds_no_bracketed_identifier(text: str) -> None:
    escaped = escape_passage_brackets(text)
    mentions, _ = find_mentions(parse_reply_tokens(normalize_reply_signs(escaped)))
    assert not [mention for mention in mentions if mention.form in ("bracket", "list")]
    assert "bracket" not in parse_permutation(escaped, 100).detail
    assert parse_permutation(escaped, 100).status != "ok"
    assert len(escaped) == len(text)
    assert escape_passage_brackets(escaped) == escaped


@settings(deadline=None)
@given(TEXTS, st.integers(0, 60))
@example("[[[[1(", 5)
def test_a_passage_that_is_cut_is_escaped_again_where_it_is_shown(text: str, end: int) -> None:
    """A cut may take away what made a bracket harmless, as the end of ``[0, 1)``; rendering escapes what was cut."""
    template = prompt_template_from_yaml('body: "[{rank}] {candidate}"\nsuffix: "{query}"', "x")
    (message,) = template.render("q", [escape_passage_brackets(text)[:end]])
    shown = message.content.removeprefix("[1] ").removesuffix("q")
    assert not [
        m for m in find_mentions(parse_reply_tokens(normalize_reply_signs(shown)))[0] if m.form in ("bracket", "list")
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[12]", "(12)"),
        ("[ 7 ]", "( 7 )"),
        ("[#5]", "(#5)"),
        ("[1:2]", "(1:2)"),
        ("[6.]", "(6.)"),
        ("[1, 2] [3-5]", "(1, 2) (3-5)"),
        ("[Passage 3] [doc7]", "(Passage 3) (doc7)"),
        ("【７】［8］", "(７)(8)"),
        ("[²] [①]", "(²) (①)"),
        ("[see 3] > [see 1]", "(see 3) > (see 1)"),
        ("[[4]]", "[(4)]"),
        ("[2 > [1]", "(2 > (1)"),
        ("2] > [1]", "2) > (1)"),
        ("ends in [1, 2", "ends in (1, 2"),
        ("a[i] [] [sic] (1) [a (1)] [0, 1)", "a[i] [] [sic] (1) [a (1)] [0, 1)"),
    ],
)
def test_what_is_rewritten_and_what_is_not(text: str, expected: str) -> None:
    assert escape_passage_brackets(text) == expected


@pytest.mark.parametrize("unit", ["[", "[1", "[1]", "1", "[a"])
@pytest.mark.slow  # a time, which a busy machine can spoil
def test_time_is_linear(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        begun = time.process_time()
        escape_passage_brackets(text)
        return time.process_time() - begun

    small = min(seconds(20_000) for _ in range(3))
    assert min(seconds(320_000) for _ in range(3)) < 64 * small + 0.05
