"""Plan which prefixes of the prompts in a batch are computed once and kept.

A plan depends only on the prompts of the batch and their boundaries, never on the contents of the cache. The remainders
of the prompts therefore have the same lengths, whether the prefixes are computed now or were computed before. The
results of a resumed run are thus bit-identical to those of an uninterrupted run. This module works on token ids only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rerank.lm.jobs import Job

#: Minimum fraction of the prompt for which a prefix that ends after the first of several passages is kept. Windows of
#: two to four passages often begin with the same passage (in a heap of pairs, three times out of four); windows of
#: twenty passages never do.
_FIRST_PASSAGE_SHARE = 0.25

#: Minimum number of tokens that a prefix must save if only prompts of this batch share it. Its additional forward pass
#: reads all weights, which costs as much as processing about 30 tokens.
_MIN_SAVED = 32


def plan_prefixes(jobs: Sequence[Job]) -> list[tuple[int, ...]]:
    """Return, per prompt of a batch, the lengths in tokens of its prefixes to compute once, in increasing order.

    Each prefix extends the preceding prefix. Among the prefixes that end at its boundaries, a prompt uses
    - the prefixes before its first passage (instruction, worked examples, query), which occur in other batches as well;
    - the prefix that ends after the first of several passages, if it is a large part of the prompt;
    - the prefixes that it shares with other prompts of the batch, up to the point where these prompts differ.

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
    """Return the lengths of the prefixes of one prompt that are computed once and kept.

    Args:
        prefixes: The prefixes of the prompt that end at a boundary of its template.
        others: For each prefix, the number of other prompts of the batch that begin with it.
        repeating: Lengths of the prefixes that are expected to occur in other batches.
    """
    chosen, start = [], 0
    for prefix, sharing, sharing_more in zip(prefixes, others, [*others, 0][1:], strict=True):
        end = len(prefix)
        if end in repeating or (sharing > sharing_more and sharing * (end - start) >= _MIN_SAVED):
            chosen.append(end)
            start = end
    return tuple(chosen)


def _find_repeating_prefixes(job: Job) -> list[int]:
    """Return the lengths of the prefixes of a job's prompt that are expected to occur in other batches."""
    passages = len(job.request.window.docs)
    before = len(job.boundaries) - passages  # the last boundaries are those of the passages
    if passages > 1 and before >= 0 and job.boundaries[before] >= _FIRST_PASSAGE_SHARE * len(job.prompt):
        before += 1
    return _proper_prefix_ends(job, job.boundaries[: max(0, before)])


def _proper_prefix_ends(job: Job, ends: Sequence[int]) -> list[int]:
    """Return the ends for which neither the prefix of the prompt nor the remainder is empty."""
    return [end for end in ends if 0 < end < len(job.prompt)]
