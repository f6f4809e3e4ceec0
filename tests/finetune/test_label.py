"""Ranks of label tokens, for tokenizers that split the same label differently."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from rerank.finetune.component_registry import LOSSES  # noqa: E402
from rerank.finetune.trainer.examples import TargetTokens, render_target_order, tokenize_target_text  # noqa: E402
from rerank.lm.tokenizers import HfTokens  # noqa: E402
from tests.finetune.small import byte_tokenizer, word_tokenizer  # noqa: E402

ORDER = (11, 0, 99)
NAMES = tuple(str(at) for at in range(1, 101))


def made(tokenizer: Any, begun: str = "") -> tuple[TargetTokens, list[str]]:
    tokens = HfTokens(tokenizer, context_size=4096)
    text, spans = render_target_order(ORDER, NAMES, begun)
    label = tokenize_target_text(tokens, f"Order them: {begun}", text, spans)
    return label, [tokenizer.decode([at]) for at in label.ids]


def test_digits_apart() -> None:
    label, shown = made(byte_tokenizer())
    assert shown[:7] == ["[", "1", "2", "]", " ", ">", " "]
    assert label.ranks == (1, 1, 1, 1, 0, 0, 2, 2, 2, 2, 0, 0, 3, 3, 3, 3, 3, 3, 0)
    assert label.first == 1


def test_numbers_whole() -> None:
    label, shown = made(word_tokenizer())
    assert shown == ["[", "12", "]", ">", "[", "1", "]", ">", "[", "100", "]", "</s>"]
    assert label.ranks == (1, 1, 1, 0, 2, 2, 2, 0, 3, 3, 3, 0)


def test_marks_joined() -> None:
    merges = ("Ġ >", "Ġ [", "] Ġ>")
    label, shown = made(byte_tokenizer(merges=merges, across=True))
    assert shown[:6] == ["[", "1", "2", "] >", " [", "1"]
    assert label.ranks == (1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 0), "a token is its first visible character's"


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), word_tokenizer(), byte_tokenizer(merges=("Ġ >", "Ġ ["))])
def test_every_identifier_gets_its_weight_in_every_tokenizer(tokenizer: Any) -> None:
    label, _ = made(tokenizer)
    weights = LOSSES.get("importance")().weights(torch.tensor(label.ranks, dtype=torch.float32))
    seen = {rank: float(weight) for rank, weight in zip(label.ranks, weights, strict=True)}
    assert seen == pytest.approx({1: 2.0, 2: 1.6309, 3: 1.5, 0: 1.0}, abs=1e-4)


def test_a_reply_that_the_prompt_has_begun() -> None:
    label, shown = made(byte_tokenizer(), begun="[")
    assert shown[:4] == ["1", "2", "]", " "]
    assert label.ranks[:4] == (1, 1, 1, 0)
    assert label.first == 0


def test_a_token_over_the_border_is_cut() -> None:
    tokenizer = byte_tokenizer(merges=("Ġ [",), across=True)
    label, shown = made(tokenizer)
    assert shown[0] == "[", "the prompt ends with a space that would be joined to the bracket"
    assert tokenizer.decode(label.ids[:4]) == "[12]"
