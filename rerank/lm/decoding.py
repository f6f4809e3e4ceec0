"""Token ids in, token ids out: one batch through ``generate`` of transformers, with limits and chance per row.

Imports torch at its top, so it is imported only when a model is there. Knows token ids, not chats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)

from rerank.lm.forward_pass import cache_name
from rerank.lm.kv_cache import roomy_cache
from rerank.lm.sampling import draw
from rerank.lm.temporary_settings import Borrowed
from rerank.tasks import Sampling


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    seeds: Sequence[int],
    *,
    until: tuple[str, Any] | None = None,
    seen: Mapping[str, Any] | None = None,
) -> list[list[int]]:
    """Continue each prompt, end-of-sequence token included where one came.

    Args:
        model: A causal language model of transformers.
        prompts: Token ids, one list a row; padded here, on the left.
        samplings: How to decode each row.
        seeds: Where each row's chance starts; a row's draws do not depend on the rest of its batch.
        until: A text that ends a row too, and the tokenizer that finds it.
        seen: What the model is given besides, such as pictures; for a single row.

    Returns:
        New token ids of each row.
    """
    width = max(map(len, prompts))
    ends = eos_ids(model)
    pad = ends[0] if ends else 0
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max(s.max_tokens for s in samplings),
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=pad,
        use_cache=True,
    )
    with Borrowed(model, config) as fast:
        cache = {cache_name(model): roomy_cache(model.config, width + config.max_new_tokens)} if fast else {}
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([_Rows(samplings, seeds, ends, width)]),
            stopping_criteria=_endings(samplings, width, until),
            **(seen or {}),
            **cache,
        )
    rows = out[:, width:].tolist()
    return [_until_end(row[: s.max_tokens], ends) for row, s in zip(rows, samplings, strict=True)]


def eos_ids(model: Any) -> list[int]:
    """All tokens that end a reply; chat models often name several in their generation config."""
    for source in (model.generation_config, model.config):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    return []


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure means that a smaller batch could do."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    )


def _until_end(row: list[int], ends: list[int]) -> list[int]:
    stop = next((at for at, token in enumerate(row) if token in ends), None)
    return row if stop is None else row[: stop + 1]


def _endings(samplings: Sequence[Sampling], width: int, until: tuple[str, Any] | None) -> StoppingCriteriaList:
    criteria: list[StoppingCriteria] = [_Limits(samplings, width)]
    if until is not None:
        text, tokenizer = until
        criteria.append(StopStringCriteria(tokenizer, [text]))
    return StoppingCriteriaList(criteria)


class _Rows(LogitsProcessor):
    """Each row's minimal length and chance, so that requests of different sampling share a batch."""

    def __init__(self, samplings: Sequence[Sampling], seeds: Sequence[int], ends: list[int], width: int) -> None:
        self._samplings, self._ends, self._width = samplings, ends, width
        self._chance = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Change the (rows, vocabulary) scores of the next token."""
        done = input_ids.shape[1] - self._width
        scores = scores.clone()
        for row, sampling in enumerate(self._samplings):
            if done < sampling.min_tokens:
                scores[row, self._ends] = -torch.inf
            scores[row] = draw(scores[row], sampling, self._chance[row])
        return scores


class _Limits(StoppingCriteria):
    """Ends each row at its own ``max_tokens``."""

    def __init__(self, samplings: Sequence[Sampling], width: int) -> None:
        self._limits = [s.max_tokens for s in samplings]
        self._width = width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Which rows have had enough."""
        done = input_ids.shape[1] - self._width
        return torch.tensor([done >= limit for limit in self._limits], device=input_ids.device)
