"""A draw from a model's distribution, for one row. Imports torch at its top."""

from __future__ import annotations

import torch
from transformers.generation.logits_process import TopPLogitsWarper

from rerank.tasks import Sampling


def draw(scores: torch.Tensor, sampling: Sampling, chance: torch.Generator) -> torch.Tensor:
    """Scores whose largest is the token to take: as they are when greedy, with noise when by chance.

    The noise is the Gumbel-max trick: the largest of (log-probability + Gumbel noise) is a draw from the distribution.
    So every loop stays greedy, and each row has a generator of its own.

    Args:
        scores: (tokens,) logits of those that may come.
        sampling: Temperature and nucleus.
        chance: Where the draw comes from.
    """
    if sampling.temperature <= 0:
        return scores
    scores = scores.float() / sampling.temperature
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores[None])[0]
    noise = torch.empty(scores.shape).exponential_(generator=chance).log_().neg_()
    return scores + noise.to(scores.device)
