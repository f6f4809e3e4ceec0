"""UMBRELA's prompt is the text of its authors."""

from __future__ import annotations

from hashlib import sha256

from rerank.prompts import load_prompt


def test_the_text_is_that_of_the_authors_file() -> None:
    (message,) = load_prompt("umbrela").render("{query}", ["{passage}"])
    assert sha256(message.content.encode()).hexdigest() == (
        "c92537a4f97293dfe1fd5f3dccc3f7dea44e3ace65061a74dbf8afc833441546"
    )
    assert message.role == "user"


def test_braces_and_brackets_of_texts_are_kept() -> None:
    (message,) = load_prompt("umbrela").render("who is [1]", ["a {b} [2]"])
    assert "\nQuery: who is [1]\nPassage: a {b} [2]\n\nSplit" in message.content
