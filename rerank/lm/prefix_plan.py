"""The plan of a batch: which prefixes of its prompts are computed once and kept.

A plan depends only on the prompts of the batch and their boundaries, never on what is cached. The remainders of the
prompts therefore have the same lengths whether the prefixes are computed now or were computed before, so that a resumed
run gives the same bits as an uninterrupted one. This module works on token ids only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rerank.lm.jobs import Job

#: A prefix up to the first of several passages is kept if it is at least this fraction of the prompt. Windows of two to
#: four passages begin with the same passage again and again (in a heap of pairs, three times out of four); windows of
#: twenty never do.
_FIRST_PASSAGE_SHARE = 0.25

#: Number of tokens that a prefix must save if only prompts of this batch share it: reading all weights for one more
#: forward pass costs as much as about 30 tokens.
_MIN_SAVED = 32


def plan_prefixes(jobs: Sequence[Job]) -> list[tuple[int, ...]]:
    """Return the prefixes that each prompt of a batch uses, as increasing lengths in tokens.

    Each prefix extends the one before it. A prompt uses, of the prefixes that end at its boundaries:

    - those before its first passage (instruction, worked examples, query): other batches begin with them as well;
    - the one up to the first of several passages, if it is a large part of the prompt;
    - those that it shares with other prompts of the batch, up to where they part.

    At least one token of each prompt remains, since its logits are needed.

    Args:
        jobs: The jobs of the batch.
    """
    prefixes = [[tuple(job.prompt[:end]) for end in _proper_prefix_ends(job, job.boundaries)] for job in jobs]
    counts = Counter(prefix for row in prefixes for prefix in row)
    return [
        _choose_prefix_ends(row, [counts[prefix] - 1 for prefix in row], _find_repeating_prefixes(job))
        for job, row in zip(jobs, prefixes, strict=True)
    ]


def _choose_prefix_ends(
    prefixes: Sequence[Sequence[int]], others: Sequence[int], repeating: Sequence[int]
) -> tuple[int, ...]:
    """Return the lengths of the prefixes that one prompt uses.

    Args:
        prefixes: The prefixes that end at a boundary.
        others: Number of other prompts of the batch that begin with each of them.
        repeating: Lengths of those that prompts of other batches are expected to begin with.
    """
    chosen, start = [], 0
    for prefix, sharing, sharing_more in zip(prefixes, others, [*others, 0][1:], strict=True):
        end = len(prefix)
        if end in repeating or (sharing > sharing_more and sharing * (end - start) >= _MIN_SAVED):
            chosen.append(end)
            start = end
    return tuple(chosen)


def _find_repeating_prefixes(job: Job) -> list[int]:
    """Return the ends of the prefixes that prompts of other batches are expected to begin with."""
    passages = len(job.request.window.docs)
    before = len(job.boundaries) - passages  # the last boundaries are those of the passages
    if passages > 1 and before >= 0 and job.boundaries[before] >= _FIRST_PASSAGE_SHARE * len(job.prompt):
        before += 1
    return _proper_prefix_ends(job, job.boundaries[: max(0, before)])


def _proper_prefix_ends(job: Job, ends: Sequence[int]) -> list[int]:
    """Return the ends that leave a prefix and a remainder."""
    return [end for end in ends if 0 < end < len(job.prompt)]
