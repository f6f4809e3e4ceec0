"""How likely token ids are after other token ids: log-probabilities from as few forward passes as will do.

Imports torch at its top, so it is imported only when a model is there. Knows token ids, not text.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from rerank.errors import UsageError
from rerank.lm.forward_pass import cache_of, forward
from rerank.lm.output_head import Head
from rerank.lm.temporary_settings import Borrowed

_Ids = Sequence[int]
#: Continuations that are read side by side; each takes a copy of the prompt's keys and values.
_BRANCHES = 8


def weigh(
    model: Any, prompts: Sequence[_Ids], continuations: Sequence[Sequence[_Ids]], *, pad: int = 0
) -> list[list[float]]:
    """Natural-log probability of each continuation after its prompt.

    Prompts whose continuations differ in one token only, or that have a single one, share one forward pass, and only
    the logits that are needed are computed. Continuations that differ in more share their prompt's key-value cache.
    The last matrix product (`Head`) and the log-softmax are in float32 whatever the model's dtype.

    Args:
        model: A causal language model of transformers.
        prompts: Token ids, one list a row; padded here, on the left.
        continuations: Token ids, any number of lists a row. The empty one has probability 1.
        pad: Any token id; it is masked.

    Returns:
        One number a continuation, in order: the sum over its tokens of log P(token | prompt, the tokens before it).

    Raises:
        UsageError: A prompt is empty, so that nothing comes before the first token.
    """
    if not all(map(len, prompts)):
        raise UsageError("The likelihood of a text after an empty prompt", expected="a prompt of at least one token")
    found: list[list[float]] = [[] for _ in prompts]
    asked = [at for at, texts in enumerate(continuations) if texts]
    simple = [at for at in asked if max(map(len, continuations[at])) <= len(_beginning(continuations[at])) + 1]
    with Borrowed(model), Head(model):
        if simple:
            rows = _one_pass(model, [prompts[at] for at in simple], [continuations[at] for at in simple], pad)
            for at, row in zip(simple, rows, strict=True):
                found[at] = row
        for at in set(asked) - set(simple):
            found[at] = _from_cache(model, prompts[at], continuations[at], pad)
    return found


def _beginning(texts: Sequence[_Ids]) -> list[int]:
    """What all texts begin with, less the last token of the longest: that one is predicted and never read."""
    shared = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*texts, strict=False))
    return [token for token, *_ in shared][: max(0, max(map(len, texts)) - 1)]


def _one_pass(
    model: Any, prompts: Sequence[_Ids], continuations: Sequence[Sequence[_Ids]], pad: int
) -> list[list[float]]:
    """Rows whose continuations have at most one token behind their common beginning."""
    begun = [_beginning(texts) for texts in continuations]
    bodies = [[*prompt, *beginning] for prompt, beginning in zip(prompts, begun, strict=True)]
    logits, _ = _read(model, bodies, max(map(len, begun)) + 1, pad)
    rows = []
    for row, beginning, texts in zip(logits, begun, continuations, strict=True):
        logs = row[-len(beginning) - 1 :].log_softmax(dim=-1)
        rows.append([_sum(logs, text) for text in texts])
    return rows


def _from_cache(model: Any, prompt: _Ids, texts: Sequence[_Ids], pad: int) -> list[float]:
    """One row with continuations of any kind: what they share is read once, then the rest of each."""
    begun = _beginning(texts)
    body = [*prompt, *begun]
    logits, cache = _read(model, [body], len(begun) + 1, pad, keep=True)
    if not hasattr(cache, "batch_repeat_interleave"):  # a state that cannot be copied: read the prompt again for each
        return [_one_pass(model, [prompt], [[text]], pad)[0][0] for text in texts]
    logs = logits[0].log_softmax(dim=-1)
    found = [_sum(logs, text[: len(begun) + 1]) for text in texts]
    longer = [at for at, text in enumerate(texts) if len(text) > len(begun) + 1]
    for start in range(0, len(longer), _BRANCHES):
        part = longer[start : start + _BRANCHES]
        branch = deepcopy(cache)
        rest = _branches(model, branch, len(body), [texts[at][len(begun) :] for at in part], pad)
        for at, value in zip(part, rest, strict=True):
            found[at] += value
    return found


def _branches(model: Any, cache: Any, read: int, texts: Sequence[_Ids], pad: int) -> list[float]:
    """Log-probability of each text after its own first token, all on top of a cache of ``read`` tokens."""
    cache.batch_repeat_interleave(len(texts))
    width = max(map(len, texts)) - 1
    # Padded on the right, where causal attention keeps it out of everything that is read.
    ids = torch.tensor([[*text[:-1], *[pad] * (width - len(text) + 1)] for text in texts], device=model.device)
    mask = torch.ones((len(texts), read + width), dtype=torch.long, device=model.device)
    positions = torch.arange(read, read + width, device=model.device).expand(len(texts), -1)
    out = forward(model, cache=cache, input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
    logs = out.logits.float().log_softmax(dim=-1)
    return [_sum(row, text[1:]) for row, text in zip(logs, texts, strict=True)]


def _read(model: Any, rows: Sequence[_Ids], kept: int, pad: int, *, keep: bool = False) -> tuple[Tensor, Any]:
    """Float32 logits of the last ``kept`` positions of each row, (rows, kept, vocabulary), and the cache."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = forward(
        model, input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=keep, logits_to_keep=kept
    )
    return out.logits[:, -kept:].float(), cache_of(model, out)


def _sum(logs: Tensor, text: _Ids) -> float:
    """Log-probability of ``text``, whose tokens are predicted by the first ``len(text)`` rows of ``logs``."""
    return float(logs[range(len(text)), list(text)].sum())
