"""Sampling of the next token for one row of a batch. Imports torch at import time."""

from __future__ import annotations

import torch
from transformers.generation.logits_process import TopPLogitsWarper

from rerank.tasks import Sampling


def add_decoding_logits_noise(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """Return logits whose argmax is the next token: unchanged for greedy decoding, with Gumbel noise for sampling.

    The argmax of log-probability + Gumbel noise is a sample from the distribution (Gumbel-max trick). Decoding loops
    can therefore stay greedy, and each row of a batch has its own generator.

    Args:
        logits: Logits of the allowed tokens, of shape (tokens,).
        sampling: Sampling settings, of which temperature and ``top_p`` have an effect.
        generator: Random number generator of the row.
    """
    if sampling.temperature <= 0:
        return logits
    logits = logits.float() / sampling.temperature
    if sampling.top_p < 1:
        logits = TopPLogitsWarper(sampling.top_p)(None, logits[None])[0]
    # If E ~ Exponential(1), then -log E ~ Gumbel(0, 1). The noise is drawn on the CPU, to be the same on all devices.
    noise = torch.empty(logits.shape).exponential_(generator=generator).log_().neg_()
    return logits + noise.to(logits.device)
