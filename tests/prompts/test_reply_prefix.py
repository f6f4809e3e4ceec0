"""The beginning of the answer, put into the model's mouth."""

from __future__ import annotations

import pytest

from rerank.errors import ContextOverflowError, DataError
from rerank.prompts import parse_template
from rerank.prompts.base import Message, Prompt, reply_prefix_of_prompt
from rerank.prompts.budget import PromptBudget
from rerank.types import Document, Query, Window
from tests.raising import raises

YAML = """
prefix: "{num} about {query}"
body: "[{rank}] {candidate}"
suffix: "order"
"""
BEGUN = YAML + 'reply_prefix: "["\n'


class Characters:
    """Every character of a chat is a token."""

    def __init__(self, context_size: int) -> None:
        self.context_size = context_size

    def count(self, prompt: Prompt) -> int:
        return sum(len(message.content) for message in prompt)

    def lengths(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    def cut(self, text: str, tokens: int) -> str:
        return text[:tokens]


def test_the_last_turn_is_the_assistants() -> None:
    chat = parse_template(BEGUN, "x").render("milk", ["cow"])
    assert chat == (Message("user", "1 about milk\n[1] cow\norder"), Message("assistant", "["))
    assert reply_prefix_of_prompt(chat) == "["


def test_without_one_the_last_turn_is_the_users() -> None:
    chat = parse_template(YAML, "x").render("milk", ["cow"])
    assert [message.role for message in chat] == ["user"]
    assert reply_prefix_of_prompt(chat) == reply_prefix_of_prompt(()) == ""
    assert parse_template(YAML + "reply_prefix: ''", "x").render("milk", ["cow"]) == chat


def test_it_comes_after_the_examples_and_once() -> None:
    example = "examples: [{query: tea, passages: [pot, cup], order: [2, 1]}]\n"
    chat = parse_template(BEGUN + example, "x").render("milk", ["cow"])
    assert [message.role for message in chat] == ["user", "assistant", "user", "assistant"]
    assert [message.content for message in chat[1::2]] == ["[2] > [1]", "["]


def test_it_is_text_and_no_template() -> None:
    text = YAML + "reply_prefix: '{query} {{ num }} {'"
    assert reply_prefix_of_prompt(parse_template(text, "x").render("milk", ["cow"])) == "{query} {{ num }} {"


def test_it_changes_the_digest() -> None:
    digests = {parse_template(text, "x").digest for text in (YAML, BEGUN, BEGUN.replace('"["', '"[1"'))}
    assert len(digests) == 3


@pytest.mark.parametrize("value", ["3", "[a]", "{a: b}", "true", "null"])
def test_other_kinds_are_refused(value: str) -> None:
    with raises(DataError, "'reply_prefix'", "'x'"):
        parse_template(f"{YAML}reply_prefix: {value}\n", "x")


def test_the_budget_counts_it_and_never_cuts_it() -> None:
    window = Window(Query(id="q", text="milk"), (Document(id="d", text="c" * 50),))
    prefix = "Sure: ["
    begun, plain = (parse_template(f"{YAML}reply_prefix: '{prefix}'", "x"), parse_template(YAML, "x"))
    budget = PromptBudget(Characters(60), floor=5)
    with_it, without = (budget.fit(template, window, reply_tokens=10) for template in (begun, plain))
    assert with_it.tokens == without.tokens == 50
    assert len(without.passages[0]) == len(with_it.passages[0]) + len(prefix)
    assert with_it.dropped > without.dropped > ()
    assert reply_prefix_of_prompt(with_it.prompt) == prefix
    long = parse_template(f"{YAML}reply_prefix: '{'x' * 60}'", "x")
    with pytest.raises(ContextOverflowError):
        budget.fit(long, window, reply_tokens=10)
