"""A probe that tests whether superficial features alone separate the best documents from the worst.

If the length or the first words of the documents separate them without the query, a model may learn only this feature.
In one of our experiments, positives had lost their titles and negatives had not: the loss fell from 5.1 to 2.1, but
nDCG on real queries fell from .26 to .13.

Every list contributes its best and worst documents (`best_and_worst_labelled`). A feature value is computed for each of
these documents. The AUC of a list is the fraction of (best, worst) pairs in which the best document has the larger
value; a tie counts 1/2. The AUC of a query is the mean over its lists. The report contains the mean AUC over queries,
with a 95 % bootstrap interval over queries; 0.5 means no separation. A feature causes a warning if its AUC is at least
`WARN` and the interval is above 0.5. Length also causes a warning if its AUC is at most 1 - `WARN` and the interval is
below 0.5.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rerank.finetune.labels.training_list import TrainingList
from rerank.prompts.passages import passage_text

#: Minimum AUC for a warning; real teachers prefer longer passages, but this preference leads to a smaller AUC.
WARN = 0.7
LENGTH, FIRST_WORDS = "length", "first words"
#: With fewer queries than this, the confidence interval is not reliable.
FEW = 20
_DRAWS = 2000
_WORDS = 2
#: Pseudo-count of every word in naive Bayes; it is divided between the two classes in proportion to their documents.
_SMOOTH = 1.0

Pairs = tuple[Sequence[float], Sequence[float]]
#: The position of a word, from 0, and the word.
_Key = tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSeparation:
    """Degree to which one feature separates the best documents from the worst.

    Attributes:
        feature: `LENGTH` or `FIRST_WORDS`.
        auc: Mean AUC over queries.
        low: Lower end of the 95 % confidence interval of the mean AUC.
        high: Upper end of the 95 % confidence interval of the mean AUC.
    """

    feature: str
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
        """Return the fields as a JSON object."""
        return {"feature": self.feature, "auc": self.auc, "ci": [self.low, self.high], "warns": self.warns}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """Result of the probe for superficial features.

    Attributes:
        lists: Number of lists that have best and worst documents.
        queries: Number of distinct queries of these lists.
        features: Separation by each feature; empty if there are no such lists.
        notes: Warnings and caveats, as sentences.
    """

    lists: int
    queries: int
    features: tuple[FeatureSeparation, ...]
    notes: tuple[str, ...]

    @property
    def warns(self) -> bool:
        """True if length or first words separate best from worst documents, which causes a warning."""
        return any(feature.warns for feature in self.features)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        features = [feature.to_dict() for feature in self.features]
        return {
            "lists": self.lists,
            "queries": self.queries,
            "features": features,
            "warns": self.warns,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class _Form:
    """Length and first words of a document in one list. They may differ in a list that truncates the document."""

    doc: str
    length: int
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Ends:
    """Superficial features of the best and the worst documents of a list."""

    query: str
    best: tuple[_Form, ...]
    worst: tuple[_Form, ...]

    @property
    def sides(self) -> tuple[tuple[_Form, ...], tuple[_Form, ...]]:
        return self.best, self.worst


def probe_training_label_form(lists: Iterable[TrainingList], *, seed: int = 0) -> ProbeReport:
    """Measure how well length and the first two words separate the best documents from the worst.

    Args:
        lists: Training lists with texts.
        seed: Random seed of the bootstrap.
    """
    all_ends: list[_Ends] = []
    for training_list in lists:
        best, worst = best_and_worst_labelled(training_list)
        if best and worst:
            sides = (
                tuple(_form_of_labelled_document(training_list, position) for position in side)
                for side in (best, worst)
            )
            all_ends.append(_Ends(training_list.query.id, *sides))
    if not all_ends:
        note = "No list has two documents with different labels."
        return ProbeReport(lists=0, queries=0, features=(), notes=(note,))
    lengths = [([float(form.length) for form in e.best], [float(form.length) for form in e.worst]) for e in all_ends]
    by_feature: dict[str, Sequence[Pairs]] = {LENGTH: lengths, FIRST_WORDS: _first_word_scores_of_labels(all_ends)}
    queries = [ends.query for ends in all_ends]
    features = tuple(_separation_of_training_labels(name, pairs, queries, seed) for name, pairs in by_feature.items())
    count = len(set(queries))
    return ProbeReport(
        lists=len(all_ends),
        queries=count,
        features=features,
        notes=tuple(_training_label_form_notes(features, count, lengths)),
    )


def best_and_worst_labelled(training_list: TrainingList) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the positions of the best documents of a list, and the positions of its worst documents.

    If some scores are equal, as with grades, the best documents are all documents with the highest score, and the worst
    are all documents with the lowest score. Otherwise the best documents are the first quarter of the label, and the
    worst are the last quarter, with at least one document each. No positions are returned if all scores are equal or
    the list has a single document.
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


def training_label_separation_auc(best: Sequence[float], worst: Sequence[float]) -> float:
    """Return the fraction of (best, worst) pairs in which the best document has the larger value; a tie counts 1/2.

    >>> training_label_separation_auc([3, 1], [1, 0])
    0.875
    """
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in best for b in worst)
    return wins / (len(best) * len(worst))


def _separation_of_training_labels(
    feature: str, pairs: Sequence[Pairs], queries: Sequence[str], seed: int
) -> FeatureSeparation:
    by_query: dict[str, list[float]] = {}
    for query, (best, worst) in zip(queries, pairs, strict=True):
        by_query.setdefault(query, []).append(training_label_separation_auc(best, worst))
    values = np.array([sum(aucs) / len(aucs) for aucs in by_query.values()])
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), size=len(values))].mean() for _ in range(_DRAWS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return FeatureSeparation(feature=feature, auc=float(values.mean()), low=float(low), high=float(high))


def _form_of_labelled_document(training_list: TrainingList, position: int) -> _Form:
    doc = training_list.docs[position]
    words = passage_text(doc).split()
    return _Form(doc.id, len(words), tuple(word.casefold() for word in words[:_WORDS]))


def _first_word_scores_of_labels(all_ends: Sequence[_Ends]) -> list[Pairs]:
    """Score documents by the log-odds of best against worst in a naive Bayes model of their first words.

    The model for a query is trained without the documents in the lists of this query, even where they occur in lists of
    other queries. Otherwise a document that is often among the best would be recognised by its first words, even if
    nothing about its form is unusual. All documents of a list are scored by the same model, so that only their words
    matter.
    """
    forms = [[form for ends in all_ends for form in ends.sides[side]] for side in (0, 1)]
    words = [_count_words_of_labels((form, 1) for form in side) for side in forms]
    appearances = [Counter(side) for side in forms]
    total = [len(side) for side in forms]
    own: dict[str, set[_Form]] = {}
    for ends in all_ends:
        own.setdefault(ends.query, set()).update(ends.best, ends.worst)
    models: dict[str, tuple[Counter[_Key], Counter[_Key]]] = {}
    for query, docs in own.items():
        removed = [_count_words_of_labels((form, counts[form]) for form in docs) for counts in appearances]
        models[query] = (words[0] - removed[0], words[1] - removed[1])
    pairs: list[Pairs] = []
    for ends in all_ends:
        best, worst = (
            [_training_label_log_odds(form, models[ends.query], total) for form in side] for side in ends.sides
        )
        pairs.append((best, worst))
    return pairs


def _training_label_log_odds(form: _Form, model: tuple[Counter[_Key], Counter[_Key]], total: Sequence[int]) -> float:
    """Return log P(words | best) - log P(words | worst); words that the model does not contain count 0."""
    odds = 0.0
    for key in enumerate(form.words):
        for side, sign in ((0, 1), (1, -1)):
            # Laplace smoothing: the pseudo-count is proportional to the number of documents in the class.
            odds += sign * math.log((_SMOOTH * total[side] / sum(total) + model[side][key]) / total[side])
    return odds


def _count_words_of_labels(forms: Iterable[tuple[_Form, int]]) -> Counter[_Key]:
    """Count the (position, word) pairs in the first words of documents, each given with its number of occurrences."""
    counts: Counter[_Key] = Counter()
    for form, times in forms:
        for key in enumerate(form.words):
            counts[key] += times
    return counts


def _training_label_form_notes(
    features: Sequence[FeatureSeparation], queries: int, lengths: Sequence[Pairs]
) -> Iterable[str]:
    for feature in features:
        if feature.warns and feature.feature == LENGTH:
            best, worst = (np.mean([np.mean(pair[side]) for pair in lengths]) for side in (0, 1))
            yield (
                f"Length separates the labels: the best documents have {best:.0f} words, the worst {worst:.0f} "
                f"(AUC {feature.auc:.2f}, 95 % CI {feature.low:.2f} to {feature.high:.2f}). Check whether only some "
                "documents were truncated or lost their title."
            )
        elif feature.warns:
            yield (
                f"The first words separate the labels (AUC {feature.auc:.2f}, 95 % CI {feature.low:.2f} to "
                f"{feature.high:.2f}). Check whether the best documents start differently, such as without a title."
            )
    if queries < FEW:
        yield f"There are only {queries} queries, so the confidence intervals are not reliable."
