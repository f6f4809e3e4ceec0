"""A label file looked through before anybody trains on it: counts, form, leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rerank.finetune.labels.leaks import THRESHOLD, leaks
from rerank.finetune.labels.lists import LabelList
from rerank.finetune.labels.probe import probe
from rerank.finetune.labels.training_list import TrainingList

#: Leaks that a report shows; all are counted.
SHOWN = 20


def statistics(labels: Sequence[LabelList]) -> dict[str, Any]:
    """What there is, without looking at texts.

    Returns:
        ``lists``, ``queries``, ``documents`` (different ones), ``docs_per_list`` (``min``, ``mean``, ``max``), ``tau``
        (mean agreement of label and list as shown; None where no list has two documents), ``unchanged`` (lists whose
        label is the order in which they are shown), ``with_scores``, ``with_query``, ``repeated`` (lists that are there
        twice, label and order and all) and ``teachers`` (name -> lists).
    """
    sizes = [len(label) for label in labels]
    taus = [label.tau for label in labels]
    known = [tau for tau in taus if tau is not None]
    seen = Counter((label.qid, label.initial, label.final) for label in labels)
    return {
        "lists": len(labels),
        "queries": len({label.qid for label in labels}),
        "documents": len({one for label in labels for one in label.initial}),
        "docs_per_list": {"min": min(sizes), "mean": sum(sizes) / len(sizes), "max": max(sizes)} if sizes else None,
        "tau": sum(known) / len(known) if known else None,
        "unchanged": sum(label.initial == label.final for label in labels if len(label) > 1),
        "with_scores": sum(bool(label.scores) for label in labels),
        "with_query": sum(bool(label.query) for label in labels),
        "repeated": sum(count - 1 for count in seen.values()),
        "teachers": dict(Counter(label.teacher for label in labels if label.teacher)),
    }


def check(
    labels: Sequence[LabelList],
    lists: Sequence[TrainingList] | None,
    *,
    texts: Mapping[str, str],
    against: Mapping[str, Mapping[str, str]],
    threshold: float = THRESHOLD,
    seed: int = 0,
) -> dict[str, Any]:
    """Look a label file through.

    Args:
        labels: Its lists.
        lists: The same with texts, for the probe; None where texts are not at hand.
        texts: Query id -> text, as far as they are known.
        against: Queries that nothing should be trained on: what they are called -> id -> text.
        threshold: See `rerank.finetune.labels.leaks`.
        seed: For the probe's bootstrap.

    Returns:
        What `statistics` returns, and ``probe`` (as `Probed.to_dict`; None without texts), ``leaks`` (their number;
        None where nothing was held against the lists) and ``leaking`` (the first `SHOWN` of them).
    """
    found = [leak for name, test in against.items() for leak in leaks(texts, test, threshold=threshold, where=name)]
    return {
        **statistics(labels),
        "probe": None if lists is None else probe(lists, seed=seed).to_dict(),
        "leaks": len(found) if against else None,
        "leaking": [leak.to_dict() for leak in found[:SHOWN]],
    }
