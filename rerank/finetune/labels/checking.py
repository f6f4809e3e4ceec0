"""Checks of training lists: statistics, leaked test queries, and a probe of superficial features.

If the length or the first words of the documents separate the best documents from the worst without the query, a model
may learn only this feature. In one of our experiments, positives had lost their titles and negatives had not: the loss
fell from 5.1 to 2.1, but nDCG on real queries fell from .26 to .13.

The AUC of a feature on a list is the fraction of pairs of a best and a worst document (`best_and_worst`) in which the
best has the larger value; a tie counts 1/2. The report has the mean over the lists of a query, and then over queries,
with a 95 % bootstrap interval over queries. A feature causes a warning if its AUC is at least `WARN` and the interval
is above 0.5; length also if its AUC is at most 1 - `WARN` and the interval is below 0.5.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from rerank.finetune.labels.lists import LabelList, TrainingList
from rerank.finetune.labels.splits import THRESHOLD, find_query_leaks
from rerank.prompts.passages import passage_text

#: Maximum number of leaks that a report lists; the report counts all leaks.
SHOWN = 20
#: Minimum AUC for a warning; real teachers prefer longer passages, but this preference leads to a smaller AUC.
WARN = 0.7
LENGTH, FIRST_WORDS = "length", "first words"
#: With fewer queries than this, the confidence interval is not reliable.
FEW = 20
_DRAWS = 2000
_WORDS = 2
#: Pseudo-count of every word in naive Bayes; it is divided between the two classes in proportion to their documents.
_SMOOTH = 1.0

#: Values of a feature for the best and for the worst documents of a list.
Pairs = tuple[Sequence[float], Sequence[float]]


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

    ``lists`` are the lists with texts, or None, for the ``probe``; ``against`` are test queries by name of the set.
    Returns the values of `label_statistics`, ``probe``, ``leaks`` (their number, or None) and ``leaking`` (the first
    `SHOWN`).
    """
    leaks = find_query_leaks(texts, against, threshold=threshold)
    return {
        **label_statistics(labels),
        "probe": None if lists is None else probe_form(lists, seed=seed).to_dict(),
        "leaks": len(leaks) if against else None,
        "leaking": [asdict(leak) for leak in leaks[:SHOWN]],
    }


def label_statistics(labels: Sequence[LabelList]) -> dict[str, Any]:
    """Compute the statistics of a label file that do not depend on texts.

    ``tau`` is the mean Kendall tau between label and shown order; ``unchanged`` counts labels that are the shown order.
    """
    sizes = [len(label) for label in labels]
    known = [tau for label in labels if (tau := label.tau) is not None]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSeparation:
    """Degree to which a feature separates best from worst documents: mean AUC over queries, with a 95 % interval."""

    feature: str  #: `LENGTH` or `FIRST_WORDS`.
    auc: float
    low: float
    high: float

    @property
    def warns(self) -> bool:
        """True if the AUC is far from 0.5 and the confidence interval excludes 0.5.

        For first words, only a high AUC counts: a low AUC means that the first words do not separate the documents.
        """
        reversed_length = self.feature == LENGTH and 1 - self.auc >= WARN and self.high < 0.5
        return reversed_length or (self.auc >= WARN and self.low > 0.5)

    def to_dict(self) -> dict[str, Any]:
        return {"feature": self.feature, "auc": self.auc, "ci": [self.low, self.high], "warns": self.warns}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """Result of the probe for superficial features, over the lists that have best and worst documents."""

    lists: int
    queries: int  #: Number of distinct queries of these lists.
    features: tuple[FeatureSeparation, ...]  #: Separation by each feature; empty if there are no such lists.
    notes: tuple[str, ...]  #: Warnings and caveats, as sentences.

    @property
    def warns(self) -> bool:
        return any(feature.warns for feature in self.features)

    def to_dict(self) -> dict[str, Any]:
        return {
            "lists": self.lists,
            "queries": self.queries,
            "features": [feature.to_dict() for feature in self.features],
            "warns": self.warns,
            "notes": list(self.notes),
        }


class _Form(NamedTuple):
    """Length and first words of a document in one list. They may differ in a list that truncates the document."""

    doc: str
    length: int
    words: tuple[str, ...]


#: Query id of a list, and the superficial features of its best and of its worst documents.
_Ends = tuple[str, tuple[tuple[_Form, ...], tuple[_Form, ...]]]


def probe_form(lists: Iterable[TrainingList], *, seed: int = 0) -> ProbeReport:
    """Measure how well length and the first two words separate the best documents from the worst."""
    ends: list[_Ends] = []
    for training_list in lists:
        best, worst = best_and_worst(training_list)
        if best and worst:
            ends.append((training_list.query.id, (_forms(training_list, best), _forms(training_list, worst))))
    if not ends:
        return ProbeReport(lists=0, queries=0, features=(), notes=("No list has two documents with different labels.",))
    lengths: list[Pairs] = [([f.length for f in best], [f.length for f in worst]) for _, (best, worst) in ends]
    queries = [query for query, _ in ends]
    features = (
        _separation(LENGTH, lengths, queries, seed),
        _separation(FIRST_WORDS, _first_word_scores(ends), queries, seed),
    )
    notes = []
    for feature in features:
        if feature.warns and feature.feature == LENGTH:
            mean_best, mean_worst = (np.mean([np.mean(pair[side]) for pair in lengths]) for side in (0, 1))
            notes.append(
                f"Length separates the labels: the best documents have {mean_best:.0f} words, the worst "
                f"{mean_worst:.0f} (AUC {feature.auc:.2f}, 95 % CI {feature.low:.2f} to {feature.high:.2f}). Check "
                "whether only some documents were truncated or lost their title."
            )
        elif feature.warns:
            notes.append(
                f"The first words separate the labels (AUC {feature.auc:.2f}, 95 % CI {feature.low:.2f} to "
                f"{feature.high:.2f}). Check whether the best documents start differently, such as without a title."
            )
    if (count := len(set(queries))) < FEW:
        notes.append(f"There are only {count} queries, so the confidence intervals are not reliable.")
    return ProbeReport(lists=len(ends), queries=count, features=features, notes=tuple(notes))


def best_and_worst(training_list: TrainingList) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the positions of the best documents of a list, and the positions of its worst documents.

    If some scores are equal, as with grades, these are all documents with the highest and with the lowest score;
    otherwise the first and the last quarter of the label, at least one document each. No positions are returned if all
    scores are equal or the list has a single document.
    """
    scores, order = training_list.scores, training_list.order
    if scores and len(set(scores)) < len(scores):
        high, low = max(scores), min(scores)
        if high == low:
            return (), ()
        best, worst = ([i for i, score in enumerate(scores) if score == extreme] for extreme in (high, low))
        return tuple(best), tuple(worst)
    count = max(1, len(order) // 4)
    return (order[:count], order[-count:]) if len(order) > 1 else ((), ())


def _forms(training_list: TrainingList, positions: Iterable[int]) -> tuple[_Form, ...]:
    forms = []
    for doc in (training_list.docs[position] for position in positions):
        words = passage_text(doc).split()
        forms.append(_Form(doc.id, len(words), tuple(word.casefold() for word in words[:_WORDS])))
    return tuple(forms)


def separation_auc(best: Sequence[float], worst: Sequence[float]) -> float:
    """Return the fraction of (best, worst) pairs in which the best document has the larger value; a tie counts 1/2.

    >>> separation_auc([3, 1], [1, 0])
    0.875
    """
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in best for b in worst) / (len(best) * len(worst))


def _separation(feature: str, pairs: Sequence[Pairs], queries: Sequence[str], seed: int) -> FeatureSeparation:
    by_query: dict[str, list[float]] = {}
    for query, (best, worst) in zip(queries, pairs, strict=True):
        by_query.setdefault(query, []).append(separation_auc(best, worst))
    values = np.array([sum(aucs) / len(aucs) for aucs in by_query.values()])
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), size=len(values))].mean() for _ in range(_DRAWS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return FeatureSeparation(feature=feature, auc=float(values.mean()), low=float(low), high=float(high))


def _first_word_scores(all_ends: Sequence[_Ends]) -> list[Pairs]:
    """Score documents by the log-odds of best against worst in a naive Bayes model of their first words.

    The model for a query is trained without the documents in the lists of this query, also where they occur in other
    lists. Otherwise a document that is often among the best would be recognised by its first words. All documents of a
    list are scored by the same model, so that only their words matter.
    """
    appearances = [Counter(form for _, sides in all_ends for form in sides[side]) for side in (0, 1)]
    words = [_count_words(counts) for counts in appearances]
    total = [counts.total() for counts in appearances]
    own: dict[str, set[_Form]] = {}
    for query, sides in all_ends:
        own.setdefault(query, set()).update(*sides)
    models = {
        query: [words[side] - _count_words({form: appearances[side][form] for form in forms}) for side in (0, 1)]
        for query, forms in own.items()
    }

    def log_odds(form: _Form, query: str) -> float:
        """Return log P(words | best) - log P(words | worst); words that the model does not contain count 0."""
        odds = 0.0
        for key in enumerate(form.words):
            for side, sign in ((0, 1), (1, -1)):
                # Laplace smoothing: the pseudo-count is proportional to the number of documents in the class.
                smoothed = _SMOOTH * total[side] / sum(total) + models[query][side][key]
                odds += sign * math.log(smoothed / total[side])
        return odds

    return [
        ([log_odds(form, query) for form in best], [log_odds(form, query) for form in worst])
        for query, (best, worst) in all_ends
    ]


def _count_words(times: Mapping[_Form, int]) -> Counter[tuple[int, str]]:
    counts: Counter[tuple[int, str]] = Counter()
    for form, number in times.items():
        counts.update(dict.fromkeys(enumerate(form.words), number))
    return counts
