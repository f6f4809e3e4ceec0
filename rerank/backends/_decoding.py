"""Token ids in, token ids out: one batch through ``generate`` of transformers, with limits and chance per row.

Imports torch at its top, so it is imported only when a model is there. Knows token ids, not chats.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.logits_process import TopPLogitsWarper

from rerank.backends import _attention
from rerank.backends._cache import roomy_cache
from rerank.backends.base import Sampling


def decode(
    model: Any, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling], seeds: Sequence[int]
) -> list[list[int]]:
    """Continue each prompt, end-of-sequence token included where one came.

    Args:
        model: A causal language model of transformers.
        prompts: Token ids, one list a row; padded here, on the left.
        samplings: How to decode each row.
        seeds: Where each row's chance starts; a row's draws do not depend on the rest of its batch.

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
    fast = _attention.is_plain(model)
    cache = _cache_argument(model, width + config.max_new_tokens) if fast else {}
    with torch.inference_mode(), _Borrowed(model, config, _attention.NAME if fast else ""):
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([_Rows(samplings, seeds, ends, width)]),
            stopping_criteria=StoppingCriteriaList([_Limits(samplings, width)]),
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


def _cache_argument(model: Any, capacity: int) -> dict[str, Any]:
    """Our cache under the name that this version of transformers gives to caches."""
    names = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in names else "past_key_values": roomy_cache(model.config.num_hidden_layers, capacity)}


class _Borrowed:
    """Changes a model for a while and gives it back as it was.

    Its own decoding defaults go (a repetition penalty would forbid identifiers), and our attention comes, if named.
    """

    def __init__(self, model: Any, config: GenerationConfig, attention: str) -> None:
        self._model, self._config, self._attention = model, config, attention

    def __enter__(self) -> None:
        self._kept = self._model.generation_config
        self._model.generation_config = self._config
        if self._attention:
            _attention.register()
            self._model.set_attn_implementation(self._attention)

    def __exit__(self, *_: object) -> None:
        self._model.generation_config = self._kept
        if self._attention:
            self._model.set_attn_implementation("sdpa")


class _Rows(LogitsProcessor):
    """Each row's minimal length and chance, so that requests of different sampling share a batch.

    Sampling is the Gumbel-max trick: the largest of (log-probability + Gumbel noise) is a draw from the distribution.
    So the loop stays greedy, and each row has a generator of its own.
    """

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
            if sampling.temperature > 0:
                scores[row] = self._draw(scores[row], row)
        return scores

    def _draw(self, scores: torch.Tensor, row: int) -> torch.Tensor:
        sampling = self._samplings[row]
        scores = scores.float() / sampling.temperature
        if sampling.top_p < 1:
            scores = TopPLogitsWarper(sampling.top_p)(None, scores[None])[0]
        noise = torch.empty(scores.shape).exponential_(generator=self._chance[row]).log_().neg_()
        return scores + noise.to(scores.device)


class _Limits(StoppingCriteria):
    """Ends each row at its own ``max_tokens``."""

    def __init__(self, samplings: Sequence[Sampling], width: int) -> None:
        self._limits = [s.max_tokens for s in samplings]
        self._width = width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Which rows have had enough."""
        done = input_ids.shape[1] - self._width
        return torch.tensor([done >= limit for limit in self._limits], device=input_ids.device)
