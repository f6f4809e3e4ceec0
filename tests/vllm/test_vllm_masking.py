"""The tokens that vLLM may generate next, for a whole batch at once; without vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

pytest.importorskip("torch")

import torch

from rerank.backends.vllm.grammar import mask_logits


@pytest.mark.parametrize(
    "allowed", [{3: (7,), 0: (0, 49, 12), 4: ()}, {row: range(row, 50, 7) for row in (2, 0, 1, 4, 3)}]
)
def test_each_row_keeps_its_own_tokens(allowed: Mapping[int, Sequence[int]]) -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    assert mask_logits(logits, allowed) is logits
    for row in range(5):
        kept = set(allowed.get(row, range(50)))
        for token in range(50):
            expected = before[row, token] if token in kept else -torch.inf
            assert logits[row, token] == expected


def test_a_batch_without_grammars_is_not_changed() -> None:
    logits = torch.randn(2, 5)
    assert torch.equal(mask_logits(logits.clone(), {}), logits)
