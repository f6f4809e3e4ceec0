"""Queries of one set that stand in another, word for word or nearly so. Knows texts, no lists.

Nearly: the Jaccard coefficient of two queries' sets of character trigrams, taken within words that are padded by a
space, so that word order and repeats do not count. It is exact, by a product of sparse matrices; there is no hashing
and nothing is missed. The default threshold is `THRESHOLD`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rerank.errors import UsageError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: From this Jaccard coefficient on, two queries are near-duplicates: a word in seven or so may differ. What that stops
#: and lets pass of real queries is in docs/labels.md.
THRESHOLD = 0.7
_SIZE = 3
_WORDS = re.compile(r"\w+")
#: Queries compared with all others at a time.
_STEP = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Two queries that say the same.

    Attributes:
        train: Id of the query to train on.
        test: Id of the query to test with.
        train_text: Its words.
        test_text: Its words.
        similarity: The coefficient; 1 for the same words.
        exact: Whether they are the same but for case, punctuation and white space.
        where: Which set the query to test with is from; empty where there is one only.
    """

    train: str
    test: str
    train_text: str
    test_text: str
    similarity: float
    exact: bool
    where: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def normalised(text: str) -> str:
    """A query's words in small letters; the text itself where it has no words.

    >>> normalised("  How do I SORT,  a list?")
    'how do i sort a list'
    """
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def grams(text: str) -> frozenset[str]:
    """The trigrams of a text's words.

    >>> sorted(grams("to do"))
    [' do', ' to', 'do ', 'to ']
    """
    padded = (f" {word} " for word in normalised(text).split())
    return frozenset(word[at : at + _SIZE] for word in padded for at in range(len(word) - _SIZE + 1))


def leaks(
    train: Mapping[str, str], test: Mapping[str, str], *, threshold: float = THRESHOLD, where: str = ""
) -> list[Leak]:
    """Every pair of a query to train on and one to test with that say the same, the most alike first.

    Args:
        train: Id -> text.
        test: Id -> text.
        threshold: The least coefficient, above 0 and up to 1.
        where: What to call the second set.

    Raises:
        UsageError: ``threshold`` is out of range.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"--threshold {threshold}", expected="a number above 0 and up to 1, such as 0.7")
    if not train or not test:
        return []
    ours, theirs = list(train.items()), list(test.items())
    found = []
    for a, b, similarity in _alike([text for _, text in ours], [text for _, text in theirs], threshold):
        exact = normalised(ours[a][1]) == normalised(theirs[b][1])
        found.append(
            Leak(
                train=ours[a][0],
                test=theirs[b][0],
                train_text=ours[a][1],
                test_text=theirs[b][1],
                similarity=1.0 if exact else similarity,
                exact=exact,
                where=where,
            )
        )
    return sorted(found, key=lambda leak: (-leak.exact, -leak.similarity, leak.train, leak.test))


def _alike(ours: Sequence[str], theirs: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """Positions and coefficient of every pair from the threshold on."""
    import numpy as np

    places: dict[str, int] = {}
    a = [[places.setdefault(gram, len(places)) for gram in sorted(grams(text))] for text in ours]
    b = [[places.setdefault(gram, len(places)) for gram in sorted(grams(text))] for text in theirs]
    left, right = _matrix(a, len(places)), _matrix(b, len(places))
    sizes = np.array([len(row) for row in a])
    found = []
    for start in range(0, len(theirs), _STEP):
        shared = (left @ right[start : start + _STEP].T).tocoo()
        many = np.array([len(row) for row in b[start : start + _STEP]])
        value = shared.data / (sizes[shared.row] + many[shared.col] - shared.data)
        for at in np.flatnonzero(value >= threshold):
            found.append((int(shared.row[at]), start + int(shared.col[at]), float(value[at])))
    return found


def _matrix(rows: Sequence[Sequence[int]], columns: int) -> csr_array:
    """A row a text, a one for every trigram that it has."""
    import numpy as np
    from scipy.sparse import csr_array

    starts = np.cumsum([0, *(len(row) for row in rows)])
    indices = np.array([at for row in rows for at in row], dtype=np.int64)
    return csr_array((np.ones(len(indices), dtype=np.int32), indices, starts), shape=(len(rows), max(1, columns)))
