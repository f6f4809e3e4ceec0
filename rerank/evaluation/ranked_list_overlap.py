"""Similarity of two ranked lists that may contain different documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def kendall_tau_union(original: Sequence[str], other: Sequence[str]) -> float | None:
    """Compute Kendall's tau union of two lists, cut to the length of the shorter one.

    Documents are numbered by their position in the union of the lists: first the documents of the original list, then
    those that only the other list contains. Tau compares the two sequences of numbers rank by rank. It measures the
    order of the documents that both lists contain, not how many there are: two lists without a common document have
    tau 1. Source: Breuer, Ferro, Fuhr, Maistro, Sakai, Schaer and Soboroff, How to measure the reproducibility of
    system-oriented IR experiments, SIGIR 2020, section 3.1.

    Returns:
        A value from -1 to 1; None for lists with fewer than two documents.
    """
    from scipy.stats import kendalltau

    length = min(len(original), len(other))
    if length < 2:
        return None
    numbers = {doc: n for n, doc in enumerate(dict.fromkeys([*original[:length], *other[:length]]))}
    return float(kendalltau(range(length), [numbers[doc] for doc in other[:length]]).statistic)


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], p: float = 0.95) -> float | None:
    """Compute rank-biased overlap down to the end of the longer list, divided by its largest value at this depth.

    RBO = (sum over d of p^(d - 1) A_d) / (sum over d of p^(d - 1)), where A_d is the number of documents that the first
    d ranks of both lists share, divided by d. Two equal lists have RBO 1. Sources: Webber, Moffat and Zobel, A
    similarity measure for indefinite rankings, TOIS 2010, equation 4; normalised as by Clarke, Vtyurina and Smucker,
    TOIS 2021.

    Returns:
        A value from 0 to 1; None if both lists are empty.
    """
    depth = max(len(first), len(second))
    if not depth:
        return None
    ranks = {doc: rank for rank, doc in enumerate(second)}
    # rank, from 0, at which a document has been seen in both lists
    joint = [max(rank, ranks[doc]) for rank, doc in enumerate(first) if doc in ranks]
    agreement = np.bincount(np.array(joint, dtype=np.int64), minlength=depth).cumsum() / np.arange(1, depth + 1)
    weights = p ** np.arange(depth)
    return float(agreement @ weights / weights.sum())
