"""Compute log-likelihoods of token sequences given prompts, with as few forward passes as possible.

Inputs are token ids. Imports torch at import time.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from rerank.errors import UsageError
from rerank.lm.forward_pass import OutputHead, call_forward, kv_cache_of_output, temporary_settings
from rerank.lm.grouped_attention import packs_rows
from rerank.lm.out_of_memory import BatchLimit, run_batches
from rerank.lm.prefix_cache import (
    CachedPrefix,
    compute_on_cache,
    compute_packed_logits,
    compute_padded_logits,
    make_filled_cache,
)

_Ids = Sequence[int]
#: Number of continuations processed in one batch; each needs a copy of the prompt's KV cache.
_BATCH = 8


def compute_log_likelihoods(
    model: Any,
    prompts: Sequence[_Ids],
    continuations: Sequence[Sequence[_Ids]],
    *,
    pad: int = 0,
    prefixes: Sequence[CachedPrefix] = (),
    as_logits: bool = False,
) -> list[list[float]]:
    """Compute log P(y | x) = sum_i log P(y_i | x, y_<i) of each continuation y given its prompt x, or the logit of y.

    Prompts with a single continuation, or whose continuations differ only in their last token, share one forward
    pass. Other continuations share the KV cache of their prompt. Logits are computed only at the needed positions,
    but for the whole vocabulary, because log-probabilities require the softmax's normaliser. The output head is in
    float32.

    The empty continuation has probability 1. ``pad`` may be any token, since padding is masked. ``prefixes`` are
    the cached prefixes, each shorter than its prompt; with none, whole prompts are computed. ``as_logits`` returns
    logits before the softmax, for continuations of a single token.
    """
    if not all(map(len, prompts)):
        raise UsageError("Likelihoods after an empty prompt are not defined", expected="a prompt of at least one token")
    prefixes = prefixes or [CachedPrefix()] * len(prompts)
    results: list[list[float]] = [[] for _ in prompts]
    nonempty = [index for index, texts in enumerate(continuations) if texts]
    # Simple: continuations with at most one token after their common prefix. A single pass scores all of them.
    shared = {index: len(_shared_tokens(continuations[index])) for index in nonempty}
    simple = [index for index in nonempty if max(map(len, continuations[index])) <= shared[index] + 1]
    with temporary_settings(model) as grouped, OutputHead(model):
        if simple:
            rows = [(prompts[index], continuations[index], prefixes[index]) for index in simple]
            scores = _score_in_prefill(model, rows, pad, packed=grouped, as_logits=as_logits)
            for index, row in zip(simple, scores, strict=True):
                results[index] = row
        for index in sorted(set(nonempty) - set(simple)):
            results[index] = _score_with_kv_cache(model, prompts[index], continuations[index], pad, prefixes[index])
    return results


def _shared_tokens(texts: Sequence[_Ids]) -> list[int]:
    """Return the common prefix of the texts, excluding the last token of the longest text, which needs no logits."""
    shared = []
    for tokens in zip(*texts, strict=False):
        if len(set(tokens)) > 1:
            break
        shared.append(tokens[0])
    return shared[: max(0, max(map(len, texts)) - 1)]


def _score_in_prefill(
    model: Any,
    rows: Sequence[tuple[_Ids, Sequence[_Ids], CachedPrefix]],
    pad: int,
    *,
    packed: bool,
    as_logits: bool = False,
) -> list[list[float]]:
    """Score, in one pass, rows whose continuations have at most one token after their common prefix."""
    prefixes = [prefix for _, _, prefix in rows]
    shared = [_shared_tokens(texts) for _, texts, _ in rows]
    inputs = [[*prompt, *tokens] for (prompt, _, _), tokens in zip(rows, shared, strict=True)]
    last = [len(tokens) + 1 for tokens in shared]
    if not any(prefix.length for prefix in prefixes):
        batch = _prefill(model, inputs, max(last), pad).logits[:, -max(last) :].float()
        logits = [row[-count:] for row, count in zip(batch, last, strict=True)]
    elif packed and packs_rows(model, [len(row) - prefix.length for row, prefix in zip(inputs, prefixes, strict=True)]):
        logits = compute_packed_logits(model, inputs, prefixes, last)
    else:
        logits = compute_padded_logits(model, inputs, prefixes, last, pad)
    # Shape (shared + 1, vocabulary) per row: the position before each shared token, and that after the last one.
    logs = [row if as_logits else row.log_softmax(dim=-1) for row in logits]
    return _sums(logs, [texts for _, texts, _ in rows])


def _score_with_kv_cache(
    model: Any, prompt: _Ids, texts: Sequence[_Ids], pad: int, prefix: CachedPrefix
) -> list[float]:
    """Score continuations of one prompt: prefill their common prefix once, then process each remainder."""
    shared = _shared_tokens(texts)
    inputs = [*prompt, *shared]
    if prefix.length:
        cache: Any = make_filled_cache(model, prefix.segments, len(inputs))
        output = compute_on_cache(model, cache, prefix.length, inputs[prefix.length :], last=len(shared) + 1)
        logits = output.logits[:, -len(shared) - 1 :].float()
    else:
        output = _prefill(model, [inputs], len(shared) + 1, pad, use_cache=True)
        logits, cache = output.logits[:, -len(shared) - 1 :].float(), kv_cache_of_output(model, output)
    if not hasattr(cache, "batch_repeat_interleave"):  # a state that cannot be copied: one full pass per continuation
        return [_score_in_prefill(model, [(prompt, [text], prefix)], pad, packed=False)[0][0] for text in texts]
    # Shape (shared + 1, vocabulary): log P of each shared token, and of the first token after the shared tokens.
    logs = logits[0].log_softmax(dim=-1)
    (scores,) = _sums([logs], [[text[: len(shared) + 1] for text in texts]])
    longer = [index for index, text in enumerate(texts) if len(text) > len(shared) + 1]

    def score_rests(batch: Sequence[int]) -> list[list[float]]:
        # The first token of a remainder is scored above; here it is the input that predicts the second token.
        rests = [texts[index][len(shared) :] for index in batch]
        copies = deepcopy(cache)
        copies.batch_repeat_interleave(len(rests))
        cached, width = len(inputs), max(map(len, rests)) - 1
        # Padded on the right, where causal attention hides the padding from all real tokens.
        ids = torch.tensor([[*rest[:-1], *[pad] * (width - len(rest) + 1)] for rest in rests], device=model.device)
        mask = torch.ones((len(rests), cached + width), dtype=torch.long, device=model.device)
        positions = torch.arange(cached, cached + width, device=model.device).expand(len(rests), -1)
        output = call_forward(
            model, cache=copies, input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True
        )
        # (rests, width, vocabulary): position i is after token i of a remainder and predicts token i + 1.
        return _sums(output.logits.float().log_softmax(dim=-1), [[rest[1:]] for rest in rests])

    limit = BatchLimit()
    for start in range(0, len(longer), _BATCH):
        piece = longer[start : start + _BATCH]
        lengths = {index: len(prompt) + len(texts[index]) for index in piece}
        for batch, found in run_batches(
            piece, score_rests, length=lengths.__getitem__, limit=limit, what="continuations"
        ):
            if found is None:
                raise MemoryError(limit.reason)
            for index, (score,) in zip(batch, found, strict=True):
                scores[index] += score
    return scores


def _prefill(model: Any, rows: Sequence[_Ids], last: int, pad: int, *, use_cache: bool = False) -> Any:
    """Return the output of a forward pass with the logits of at least the last ``last`` positions."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # RoPE positions count real tokens only
    return call_forward(
        model, input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=use_cache, logits_to_keep=last
    )


def _sums(logs: Sequence[Tensor], texts: Sequence[Sequence[_Ids]]) -> list[list[float]]:
    """Return sum_i logs[i, y_i] for all texts y of each row, in one transfer from the device.

    ``logs`` has the shape (positions, vocabulary) per row, and position i predicts y_i.
    """
    values = []
    for row, own in zip(logs, texts, strict=True):
        positions = [index for text in own for index in range(len(text))]
        values.append(row[positions, [token for text in own for token in text]])
    parts = iter(torch.split(torch.cat(values).cpu(), [len(text) for own in texts for text in own]))
    return [[float(next(parts).sum()) for _ in own] for own in texts]
