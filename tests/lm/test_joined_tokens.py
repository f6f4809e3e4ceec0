"""Joined tokens against the tokenizer itself, for every family of tokenizers and for texts that are hard for them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("transformers")

from rerank.lm.joined_tokens import JoinedTokenizer, token_starts
from rerank.lm.tokenizers import HfTokens
from rerank.prompts import load_prompt
from tests.lm.small_tokenizers import CORPUS, FAMILIES, TEXTS, WHOLE, gpt2, llama2, llama3, make

families = pytest.mark.parametrize("family", FAMILIES)
all_families = pytest.mark.parametrize("family", [*FAMILIES, *WHOLE])
PROMPTS = ("listwise", "listwise_examples", "listwise_multiturn", "pick", "pointwise", "icr_qa")


@cache
def joined(family: Callable[[], Any]) -> JoinedTokenizer:
    made = JoinedTokenizer.of(make(family))
    assert made is not None, "every family has joints"
    return made


@cache
def tokens_of(family: Callable[[], Any], *, template: bool = True, by_text: bool = False) -> HfTokens:
    """A counter of its own; ``by_text`` tokenizes whole texts, as for a tokenizer without joints."""
    tokens = HfTokens(make(family, template=template), context_size=4096, join=not by_text)
    assert (tokens.joined is None) == (by_text or family in WHOLE)
    return tokens


def check_text(tokenizer: Any, pieces: JoinedTokenizer, text: str) -> None:
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    (divided,) = pieces.divide([text])
    assert divided.joined() == whole["input_ids"]
    assert divided.length == len(whole["input_ids"])
    positions = range(len(text) + 1)
    ends = positions[:: 1 + len(text) // 40]
    for end, length in zip(ends, pieces.prefix_lengths(text, ends), strict=True):
        if length is not None:
            alone = tokenizer(text[:end], add_special_tokens=False)["input_ids"]
            assert whole["input_ids"][:length] == alone
    starts = token_starts(whole["offset_mapping"])
    assert pieces.tokens_before(text, positions) == [bisect_left(starts, position) for position in positions]


@families
@given(text=TEXTS)
@example(text=" ".join(CORPUS))
@example(text="a  <s> b </s>  c\n d\n\n[2] e\u0301 \u0301 x <|im_start|> y<|im_end|> z  ")
@example(text="[MASK]  a [MASK] . \u00a0\u0e33  b")
def test_pieces_give_the_tokens_of_the_whole_text(family: Callable[[], Any], text: str) -> None:
    check_text(make(family), joined(family), text)


@pytest.mark.model
@given(text=TEXTS)
@example(text=" ".join(CORPUS))
def test_pieces_give_the_tokens_of_the_embedded_model(text: str) -> None:
    check_text(*embedded(), text)


@cache
def embedded() -> tuple[Any, JoinedTokenizer]:
    from transformers import AutoTokenizer

    from rerank.models import resolve_model_name

    tokenizer = AutoTokenizer.from_pretrained(resolve_model_name("smollm2-135m"))
    pieces = JoinedTokenizer.of(tokenizer)
    assert pieces is not None
    return tokenizer, pieces


@all_families
@given(texts=st.lists(TEXTS, max_size=4), tokens=st.integers(-1, 40))
def test_cuts_and_lengths_are_those_of_whole_texts(family: Callable[[], Any], texts: list[str], tokens: int) -> None:
    by_pieces, by_text = tokens_of(family), tokens_of(family, by_text=True)
    assert by_pieces.lengths(texts) == by_text.lengths(texts)
    assert [by_pieces.cut(text, tokens) for text in texts] == [by_text.cut(text, tokens) for text in texts]
    assert [by_pieces.plain(text) for text in texts] == [by_text.plain(text) for text in texts]


@all_families
@pytest.mark.parametrize("template", [True, False])
@given(name=st.sampled_from(PROMPTS), query=TEXTS, passages=st.lists(TEXTS, min_size=1, max_size=4))
def test_prompts_have_the_tokens_of_their_text(
    family: Callable[[], Any], template: bool, name: str, query: str, passages: list[str]
) -> None:
    tokens = tokens_of(family, template=template)
    shown = passages[:1] if name == "pointwise" else passages
    prompt = load_prompt(name).render(query, shown)
    text = tokens.chat.render(prompt)
    (ids,) = tokens.encode([prompt])
    assert ids == tokens.tokenizer(text, add_special_tokens=not template)["input_ids"]
    assert tokens.count(prompt) == len(ids)
    assert tokens.render(prompt) == text
    positions = range(0, len(text), 7)
    assert tokens.tokens_before(text, positions) == tokens_of(family, template=template, by_text=True).tokens_before(
        text, positions
    )
    for length in tokens.boundaries(prompt):
        assert 0 < length < len(ids)


class Watched:
    """A tokenizer that records the texts it gets."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: str | list[str], **options: Any) -> Any:
        self.seen += [texts] if isinstance(texts, str) else texts
        return self._tokenizer(texts, **options)

    @property
    def backend_tokenizer(self) -> Any:
        return WatchedBackend(self._tokenizer.backend_tokenizer, self.seen)


class WatchedBackend:
    def __init__(self, backend: Any, seen: list[str]) -> None:
        self._backend, self._seen = backend, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def encode(self, text: str, **options: Any) -> Any:
        self._seen.append(text)
        return self._backend.encode(text, **options)


@pytest.mark.parametrize("family", [gpt2, llama2, llama3])
def test_passages_are_not_tokenized_again(family: Callable[[], Any]) -> None:
    watched = Watched(make(family))
    tokens = HfTokens(watched, context_size=4096)
    passages = [f"Passage {name} is about {name} and other things, see there." for name in ("cats", "fleas", "dogs")]
    template = load_prompt("pick")
    tokens.lengths(passages)
    tokens.count(template.render("fleas", [""] * 2))
    watched.seen.clear()
    for pair in ((0, 1), (1, 2), (2, 0)):
        prompt = template.render("fleas", [passages[index] for index in pair], labels=("A", "B"))
        tokens.count(prompt)
        tokens.encode([prompt])
        for passage in passages:
            tokens.cut(passage, 12)
    # Only what is new: identifiers with the ends and beginnings of passages.
    assert max(map(len, watched.seen)) < 40
    count = len(watched.seen)
    tokens.encode([template.render("fleas", passages[1::-1], labels=("A", "B"))])
    tokens.lengths(passages[::-1])
    assert len(watched.seen) <= count + 2


def test_threads_share_the_memo() -> None:
    tokens, by_text = HfTokens(make(gpt2), context_size=4096), tokens_of(gpt2, by_text=True)
    texts = [f"{line} number {number}" for number in range(40) for line in CORPUS[:5]]
    expected = [by_text.plain(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: [tokens.plain(text) for text in texts], range(4)):
            assert found == expected
