"""Verbatim prompts: marks of turns are kept, and sections are tokenized one by one if the prompt says so."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")

from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import Message
from tests.lm.small_tokenizers import FAMILIES, make

SECTIONS = ("<|im_start|>user\nfleas live.", "\n[1] a cat's.", "\nNumber 007<|im_end|>")


def tokens_of(family: Any, *, template: bool) -> HfTokens:
    return HfTokens(make(family, template=template), context_size=999)


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_sections_are_tokenized_one_by_one(family: Any, template: bool) -> None:
    tokens = tokens_of(family, template=template)
    prompt = tuple(Message("verbatim", text) for text in SECTIONS)
    start = tokens.chat.text_start
    assert tokens.render(prompt) == start + "".join(SECTIONS)
    pieces = [
        tokens.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (start + SECTIONS[0], *SECTIONS[1:])
    ]
    whole = [token for ids in pieces for token in ids]
    around = tokens.tokenizer("fleas", add_special_tokens=not template)["input_ids"]
    own = tokens.tokenizer("fleas", add_special_tokens=False)["input_ids"]
    before = around[: around.index(own[0])]
    (ids,) = tokens.encode([prompt])
    assert ids[: len(before) + len(whole)] == before + whole
    assert len(ids) == tokens.count(prompt) == len(whole) + len(around) - len(own)
    ends = [len(before) + len(pieces[0]), len(before) + len(pieces[0]) + len(pieces[1])]
    assert list(tokens.boundaries(prompt)) == ends


@pytest.mark.parametrize("family", FAMILIES)
def test_one_section_is_a_text_with_its_marks(family: Any) -> None:
    tokens = tokens_of(family, template=True)
    text = "<|im_start|>user\nfleas<|im_end|>\n"
    assert tokens.render((Message("verbatim", text),)) == tokens.chat.text_start + text
    begun = (Message("verbatim", text), Message("assistant", "["))
    assert tokens.render(begun) == f"{tokens.chat.text_start}{text}["
    assert tokens.encode([begun])[0] == tokens.ids(tokens.render(begun))
