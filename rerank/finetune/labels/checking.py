"""Checks of a label file before training: statistics, a probe of superficial features, and leaked test queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rerank.finetune.labels.form_probe import probe_training_label_form
from rerank.finetune.labels.label_list import LabelList
from rerank.finetune.labels.leaks import THRESHOLD, find_query_leaks
from rerank.finetune.labels.training_list import TrainingList

#: Maximum number of leaks that a report lists; the report counts all leaks.
SHOWN = 20


def label_statistics(labels: Sequence[LabelList]) -> dict[str, Any]:
    """Compute the statistics of a label file that do not depend on texts.

    Returns:
        A dictionary with ``lists``, ``queries`` and ``documents`` (numbers of lists, distinct queries and distinct
        documents), ``docs_per_list`` (``min``, ``mean`` and ``max``; None without lists), ``tau`` (mean Kendall tau
        between label and shown order; None if no list has two documents), ``unchanged`` (number of lists with at least
        two documents whose label is the shown order), ``with_scores`` and ``with_query`` (number of lists with scores,
        and with a query text), ``repeated`` (number of duplicate lists) and ``teachers`` (number of lists by name of
        the teacher).
    """
    sizes = [len(label) for label in labels]
    taus = [label.tau for label in labels]
    known = [tau for tau in taus if tau is not None]
    counts = Counter((label.qid, label.initial, label.final) for label in labels)
    return {
        "lists": len(labels),
        "queries": len({label.qid for label in labels}),
        "documents": len({doc_id for label in labels for doc_id in label.initial}),
        "docs_per_list": {"min": min(sizes), "mean": sum(sizes) / len(sizes), "max": max(sizes)} if sizes else None,
        "tau": sum(known) / len(known) if known else None,
        "unchanged": sum(label.initial == label.final for label in labels if len(label) > 1),
        "with_scores": sum(bool(label.scores) for label in labels),
        "with_query": sum(bool(label.query) for label in labels),
        "repeated": sum(count - 1 for count in counts.values()),
        "teachers": dict(Counter(label.teacher for label in labels if label.teacher)),
    }


def check_labels(
    labels: Sequence[LabelList],
    lists: Sequence[TrainingList] | None,
    *,
    texts: Mapping[str, str],
    against: Mapping[str, Mapping[str, str]],
    threshold: float = THRESHOLD,
    seed: int = 0,
) -> dict[str, Any]:
    """Check labelled lists before training: statistics, the probe of superficial features, and leaked test queries.

    Args:
        labels: The lists.
        lists: The same lists with texts, for the probe; None if the texts are not available.
        texts: Mapping from query ids to texts, for queries whose text is known.
        against: Test queries that must not be trained on: for each name of a test set, a mapping from query ids to
            texts.
        threshold: Minimum similarity of near-duplicate queries, as in `find_query_leaks`.
        seed: Random seed of the bootstrap.

    Returns:
        The values of `label_statistics`; ``probe`` (result of `ProbeReport.to_dict`; None without texts); ``leaks``
        (number of leaks; None without test queries); and ``leaking`` (the first `SHOWN` leaks).
    """
    leaks = [
        leak
        for name, test in against.items()
        for leak in find_query_leaks(texts, test, threshold=threshold, where=name)
    ]
    return {
        **label_statistics(labels),
        "probe": None if lists is None else probe_training_label_form(lists, seed=seed).to_dict(),
        "leaks": len(leaks) if against else None,
        "leaking": [leak.to_dict() for leak in leaks[:SHOWN]],
    }
