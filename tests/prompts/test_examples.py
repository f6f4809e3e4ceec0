"""Worked examples: chat turns in the prompt's own words, before the question."""

from __future__ import annotations

import pytest

from rerank.errors import DataError
from rerank.prompts import load_prompt, parse_template
from tests.raising import raises

YAML = """
prefix: "{num} about {query}"
body: "[{rank}] {candidate}"
suffix: "order"
examples:
  - {query: tea, passages: [cup, pot, tree], order: [2, 1, 3]}
"""


def test_an_example_is_asked_and_answered_like_the_question() -> None:
    chat = parse_template(YAML, "x").render("milk", ["cow", "moon"])
    assert [message.role for message in chat] == ["user", "assistant", "user"]
    assert chat[0].content == "3 about tea\n[1] cup\n[2] pot\n[3] tree\norder"
    assert chat[1].content == "[2] > [1] > [3]"
    assert chat[2].content == "2 about milk\n[1] cow\n[2] moon\norder"


def test_examples_change_the_digest() -> None:
    other = YAML.replace("[2, 1, 3]", "[1, 2, 3]")
    assert parse_template(YAML, "x").digest != parse_template(other, "x").digest


@pytest.mark.parametrize("order", ["[1, 2]", "[0, 1, 2]", "[1, 1, 2]"])
def test_an_order_that_is_no_permutation_is_refused(order: str) -> None:
    with raises(DataError, "3 passages"):
        parse_template(YAML.replace("[2, 1, 3]", order), "x")


@pytest.mark.parametrize(
    "examples",
    [
        "[tea]",
        "[{query: tea}]",
        "7",
        "[{query: a, passages: [b], order: [1], odrer: [1]}]",
        "[{query: a, passages: [b], order: [x]}]",
    ],
)
def test_other_shapes_are_refused(examples: str) -> None:
    text = YAML.partition("examples:")[0] + f"examples: {examples}\n"
    with raises(DataError, "examples"):
        parse_template(text, "x")


def test_the_shipped_prompt_shows_two_questions_before_the_real_one() -> None:
    chat = load_prompt("listwise_examples").render("q", ["a"])
    assert [message.role for message in chat] == ["system", *["user", "assistant"] * 3]
    assert chat[-1].content == "["  # its reply_prefix


def test_examples_and_scores_exclude_each_other() -> None:
    with raises(DataError, "'examples'"):
        parse_template(YAML.replace("{candidate}", "{candidate} {score}"), "x")
