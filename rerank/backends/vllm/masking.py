"""Restrict a batch of logits to the tokens that the grammar of each row allows. Imports torch at import time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch


def mask_vllm_logits(logits: torch.Tensor, allowed: Mapping[int, Sequence[int]]) -> torch.Tensor:
    """Set the logits of all tokens that are not allowed to minus infinity, in place.

    All rows are changed together, with one transfer to the device and a few kernel calls for any number of rows.

    Args:
        logits: Logits of shape (rows, vocabulary).
        allowed: Mapping from each restricted row to its allowed tokens; rows that are missing are not restricted.

    Returns:
        The same tensor.
    """
    rows = [row for row, tokens in allowed.items() for _ in tokens]
    tokens = [token for tokens in allowed.values() for token in tokens]
    if not allowed:
        return logits
    indices = torch.tensor([*rows, *tokens, *allowed], device=logits.device)
    row, token, restricted = indices[: len(rows)], indices[len(rows) : -len(allowed)], indices[-len(allowed) :]
    values = logits[row, token]
    if len(allowed) == len(logits):  # the usual case: all rows have a grammar
        logits.fill_(-torch.inf)
    else:
        logits.index_fill_(0, restricted, -torch.inf)
    return logits.index_put_((row, token), values)
