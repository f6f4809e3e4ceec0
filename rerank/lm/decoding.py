"""Batched generation with ``generate`` of transformers; every row has its own limits and sampling settings.

Input and output are token ids. Imports torch at import time.
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
from transformers.generation.logits_process import TopPLogitsWarper

from rerank.lm.forward_pass import kv_cache_argument_name, make_kv_cache, temporary_settings
from rerank.lm.grouped_attention import has_full_attention, on_cpu
from rerank.lm.model_process import check_scores
from rerank.tasks import Sampling


def decode_continuations(
    model: Any,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    seeds: Sequence[int],
    *,
    until: tuple[str, Any] | None = None,
    extra_inputs: Mapping[str, Any] | None = None,
) -> list[list[int]]:
    """Generate a continuation of each prompt, including the end-of-sequence token if it was generated.

    The samples of a row depend on its seed and not on the other rows of the batch. ``until`` is a stop string, with
    the tokenizer that is needed to find it.
    """
    width = max(map(len, prompts))
    ends = end_of_sequence_tokens(model)
    pad = ends[0] if ends else 0  # any token, since it is masked
    # (rows, width) each, padded on the left, so that all rows generate their next token in the last column.
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max(s.max_tokens for s in samplings),  # _LengthCriteria ends shorter rows at their own limits
        do_sample=False,  # sampling adds Gumbel noise to the logits, see `_SamplingProcessor`
        eos_token_id=ends or None,
        pad_token_id=pad,
        use_cache=True,
    )
    criteria = StoppingCriteriaList([_LengthCriteria(samplings, width)])
    if until is not None:
        text, tokenizer = until
        criteria.append(StopStringCriteria(tokenizer, [text]))
    with temporary_settings(model, config) as grouped:
        name = kv_cache_argument_name(model)
        # The cache of transformers is copied for every token. Models with a cache class of their own keep it.
        preallocated = grouped or (not on_cpu(model) and has_full_attention(model.config))
        cache = {name: make_kv_cache(model.config, width + config.max_new_tokens)} if preallocated else {}
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([_SamplingProcessor(samplings, seeds, ends, width)]),
            stopping_criteria=criteria,
            **(extra_inputs or {}),
            **cache,
        )
    # generate() pads rows that end early, so each is cut at its end token and its own limit.
    rows = []
    for row, sampling in zip(output[:, width:].tolist(), samplings, strict=True):
        end = next((index + 1 for index, token in enumerate(row) if token in ends), len(row))
        rows.append(row[: min(end, sampling.max_tokens)])
    return rows


def end_of_sequence_tokens(model: Any) -> list[int]:
    """Return the ids of all end-of-sequence tokens; the generation config of chat models often lists several."""
    for source in (model.generation_config, model.config):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    return []


class _SamplingProcessor(LogitsProcessor):
    """A logits processor that applies the minimum length and sampling settings of each row, which may differ."""

    def __init__(self, samplings: Sequence[Sampling], seeds: Sequence[int], ends: list[int], width: int) -> None:
        self._samplings, self._ends, self._width = samplings, ends, width
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (rows, vocabulary) whose argmax is the next token of each row."""
        generated = input_ids.shape[1] - self._width
        if not generated:
            check_scores(scores.logsumexp(dim=-1).tolist(), "logits")  # NaN if a logit is; some models mask tokens
        scores = scores.clone()
        for row, sampling in enumerate(self._samplings):
            if generated < sampling.min_tokens:
                scores[row, self._ends] = -torch.inf
            # Shape (vocabulary,): logits / temperature + Gumbel noise, whose argmax is a sample (Gumbel-max trick).
            scores[row] = add_noise(scores[row], sampling, self._generators[row])
        return scores


class _LengthCriteria(StoppingCriteria):
    """A stopping criterion that ends each row at its own ``max_tokens``."""

    def __init__(self, samplings: Sequence[Sampling], width: int) -> None:
        self._limits = [s.max_tokens for s in samplings]
        self._width = width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        generated = input_ids.shape[1] - self._width
        return torch.tensor([generated >= limit for limit in self._limits], device=input_ids.device)


def add_noise(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """Return logits, of shape (tokens,), whose argmax is the next token: with Gumbel noise, unless decoding is greedy.

    The argmax of log-probability + Gumbel noise is a sample from the distribution (Gumbel-max trick). Decoding
    loops can therefore stay greedy, and each row of a batch has its own generator.
    """
    if sampling.temperature <= 0:
        return logits
    logits = logits.float() / sampling.temperature
    if sampling.top_p < 1:
        logits = TopPLogitsWarper(sampling.top_p)(None, logits[None])[0]
    # If E ~ Exponential(1), then -log E ~ Gumbel(0, 1). The noise is drawn on the CPU, to be the same on all devices.
    noise = torch.empty(logits.shape).exponential_(generator=generator).log_().neg_()
    return logits + noise.to(logits.device)
