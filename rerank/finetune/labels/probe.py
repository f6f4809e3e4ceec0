"""A probe that looks at form alone: can the best documents be told from the worst without the query?

If length or the first words tell them apart, a model may learn that and nothing else. In a trial of ours positives had
lost their titles and negatives had not: the loss fell from 5.1 to 2.1, and nDCG on real queries from .26 to .13.

Every list gives its best and its worst documents (`extremes`). A number is computed for each from its form alone, and
the AUC of a list is the share of its pairs (a best, a worst) in which the best one has the larger number, ties counting
half. What is reported is the mean over queries (of the means of their lists), with the percentiles 2.5 and 97.5 of
means over queries drawn with replacement (the bootstrap); .5 is chance. A feature warns from an AUC of `WARN` on,
length also from 1 - `WARN` down, where the interval leaves .5 out. Knows texts and labels, no model and no teacher.
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

#: From here on form is reported to give labels away. Real teachers' liking for longer passages stays below it.
WARN = 0.7
LENGTH, FIRST_WORDS = "length", "first words"
#: Below so many queries an interval says little.
FEW = 20
_DRAWS = 2000
_WORDS = 2
#: Pseudo-count of every word in naive Bayes, shared by the sides as their documents are.
_SMOOTH = 1.0

Pairs = tuple[Sequence[float], Sequence[float]]
#: A place, from 0, and the word there.
_Key = tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """How well one feature tells the best documents from the worst.

    Attributes:
        feature: `LENGTH` or `FIRST_WORDS`.
        auc: The mean over lists.
        low: Lower end of the 95 % interval.
        high: Upper end.
        warns: Whether it gives labels away.
    """

    feature: str
    auc: float
    low: float
    high: float

    @property
    def warns(self) -> bool:
        """Whether it tells too much: far from .5, and surely not .5. Words that mislead tell nothing."""
        turned = self.feature == LENGTH and 1 - self.auc >= WARN and self.high < 0.5
        return turned or (self.auc >= WARN and self.low > 0.5)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"feature": self.feature, "auc": self.auc, "ci": [self.low, self.high], "warns": self.warns}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What the probe found.

    Attributes:
        lists: Lists that could be looked at: those with a best and a worst document.
        queries: Their queries.
        features: What each feature tells.
        notes: Warnings and caveats, in words.
    """

    lists: int
    queries: int
    features: tuple[Telling, ...]
    notes: tuple[str, ...]

    @property
    def warns(self) -> bool:
        """Whether any feature gives labels away."""
        return any(one.warns for one in self.features)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        features = [one.to_dict() for one in self.features]
        return {
            "lists": self.lists,
            "queries": self.queries,
            "features": features,
            "warns": self.warns,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class _Seen:
    """One document as the probe sees it; cut and whole, it is two."""

    doc: str
    length: int
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Ends:
    """The best and the worst documents of a list of a query."""

    query: str
    best: tuple[_Seen, ...]
    worst: tuple[_Seen, ...]

    @property
    def sides(self) -> tuple[tuple[_Seen, ...], tuple[_Seen, ...]]:
        return self.best, self.worst


def probe(lists: Iterable[TrainingList], *, seed: int = 0) -> Probed:
    """Ask of length and of the first two words how much they tell.

    Args:
        lists: Training lists with their texts.
        seed: For the bootstrap.
    """
    found: list[_Ends] = []
    for one in lists:
        best, worst = extremes(one)
        if best and worst:
            found.append(_Ends(one.query.id, *(tuple(_look(one, at) for at in end) for end in (best, worst))))
    if not found:
        none = "No list has two documents that its label tells apart."
        return Probed(lists=0, queries=0, features=(), notes=(none,))
    lengths = [([float(s.length) for s in ends.best], [float(s.length) for s in ends.worst]) for ends in found]
    by_feature: dict[str, Sequence[Pairs]] = {LENGTH: lengths, FIRST_WORDS: _by_first_words(found)}
    queries = [ends.query for ends in found]
    features = tuple(_telling(name, pairs, queries, seed) for name, pairs in by_feature.items())
    count = len(set(queries))
    return Probed(lists=len(found), queries=count, features=features, notes=tuple(_notes(features, count, lengths)))


def extremes(one: TrainingList) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Positions of the best and of the worst documents.

    Where scores tie, as grades do, these are all documents with the best and with the worst score; else the first and
    the last quarter of the label, at least one document each.
    """
    if one.scores and len(set(one.scores)) < len(one.scores):
        high, low = max(one.scores), min(one.scores)
        if high == low:
            return (), ()
        ends = ([at for at, s in enumerate(one.scores) if s == wanted] for wanted in (high, low))
        return tuple(next(ends)), tuple(next(ends))
    count = max(1, len(one) // 4)
    return (one.order[:count], one.order[-count:]) if len(one) > 1 else ((), ())


def auc(best: Sequence[float], worst: Sequence[float]) -> float:
    """The share of pairs in which the best one has the larger number, ties counting half.

    >>> auc([3, 1], [1, 0])
    0.875
    """
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in best for b in worst)
    return wins / (len(best) * len(worst))


def _telling(feature: str, pairs: Sequence[Pairs], queries: Sequence[str], seed: int) -> Telling:
    by_query: dict[str, list[float]] = {}
    for query, (best, worst) in zip(queries, pairs, strict=True):
        by_query.setdefault(query, []).append(auc(best, worst))
    values = np.array([sum(found) / len(found) for found in by_query.values()])
    chance = np.random.default_rng(seed)
    means = [values[chance.integers(0, len(values), size=len(values))].mean() for _ in range(_DRAWS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Telling(feature=feature, auc=float(values.mean()), low=float(low), high=float(high))


def _look(one: TrainingList, at: int) -> _Seen:
    words = passage_text(one.docs[at], escape=False).split()
    return _Seen(one.docs[at].id, len(words), tuple(word.casefold() for word in words[:_WORDS]))


def _by_first_words(found: Sequence[_Ends]) -> list[Pairs]:
    """Naive Bayes over the words at the first places: log-odds of best against worst, learned on other queries.

    For each query it is learned on documents that are not in the query's own lists, wherever these stand: a document
    that is often the best would be known by its first words, and that is no matter of form. All documents of a list are
    put to one and the same model, so that nothing but their words makes a difference.
    """
    seen = [[one for ends in found for one in ends.sides[side]] for side in (0, 1)]
    words = [_counted((one, 1) for one in side) for side in seen]
    appearances = [Counter(side) for side in seen]
    total = [len(side) for side in seen]
    own: dict[str, set[_Seen]] = {}
    for ends in found:
        own.setdefault(ends.query, set()).update(ends.best, ends.worst)
    models: dict[str, tuple[Counter[_Key], Counter[_Key]]] = {}
    for query, docs in own.items():
        gone = [_counted((one, counts[one]) for one in docs) for counts in appearances]
        models[query] = (words[0] - gone[0], words[1] - gone[1])
    pairs: list[Pairs] = []
    for ends in found:
        best, worst = ([_odds(one, models[ends.query], total) for one in side] for side in ends.sides)
        pairs.append((best, worst))
    return pairs


def _odds(seen: _Seen, model: tuple[Counter[_Key], Counter[_Key]], total: Sequence[int]) -> float:
    """The log-odds log P(words | best) - log P(words | worst); 0 for words that the model has not met."""
    odds = 0.0
    for key in enumerate(seen.words):
        for side, sign in ((0, 1), (1, -1)):
            odds += sign * math.log((_SMOOTH * total[side] / sum(total) + model[side][key]) / total[side])
    return odds


def _counted(seen: Iterable[tuple[_Seen, int]]) -> Counter[_Key]:
    """(Place, word) -> how often it stands there."""
    counts: Counter[_Key] = Counter()
    for one, times in seen:
        for key in enumerate(one.words):
            counts[key] += times
    return counts


def _notes(features: Sequence[Telling], queries: int, lengths: Sequence[Pairs]) -> Iterable[str]:
    for one in features:
        if one.warns and one.feature == LENGTH:
            best, worst = (np.mean([np.mean(pair[side]) for pair in lengths]) for side in (0, 1))
            yield (
                f"Length gives the labels away: the best documents have {best:.0f} words, the worst {worst:.0f} "
                f"(AUC {one.auc:.2f}, {one.low:.2f} to {one.high:.2f}). Were some of them cut, or titles taken from "
                "some only?"
            )
        elif one.warns:
            yield (
                f"The first words give the labels away (AUC {one.auc:.2f}, {one.low:.2f} to {one.high:.2f}). Do the "
                "best documents begin otherwise than the others, without a title for instance?"
            )
    if queries < FEW:
        yield f"Only {queries} queries: an interval over so few says little."
