"""Detection of leaks: training queries that are duplicates or near-duplicates of test queries.

The similarity is the Jaccard coefficient between the sets of character trigrams of two queries. Trigrams are taken
within words that are padded with spaces, so word order and repetitions have no effect. The similarity is computed
exactly, with a product of sparse matrices instead of hashing.
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

#: Minimum Jaccard coefficient of near-duplicate queries: about one word in seven may differ. docs/labels.md shows which
#: real queries are found.
THRESHOLD = 0.7
_SIZE = 3
_WORDS = re.compile(r"\w+")
#: Number of test queries that are compared with all training queries at a time.
_STEP = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A pair of a training query and a test query that are duplicates or near-duplicates.

    Attributes:
        train: Id of the training query.
        test: Id of the test query.
        train_text: Text of the training query.
        test_text: Text of the test query.
        similarity: Jaccard coefficient of the trigrams; 1 if both have the same words.
        exact: True if the texts differ only in case, punctuation and whitespace.
        where: Name of the test set; empty if there is only one.
    """

    train: str
    test: str
    train_text: str
    test_text: str
    similarity: float
    exact: bool
    where: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def normalise_query_for_leaks(text: str) -> str:
    """Return the words of a query in lower case, joined by spaces, or the stripped text if it has no words.

    >>> normalise_query_for_leaks("  How do I SORT,  a list?")
    'how do i sort a list'
    """
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def query_trigrams(text: str) -> frozenset[str]:
    """Return the character trigrams of the words of a text.

    >>> sorted(query_trigrams("to do"))
    [' do', ' to', 'do ', 'to ']
    """
    padded = (f" {word} " for word in normalise_query_for_leaks(text).split())
    return frozenset(word[start : start + _SIZE] for word in padded for start in range(len(word) - _SIZE + 1))


def find_query_leaks(
    train: Mapping[str, str], test: Mapping[str, str], *, threshold: float = THRESHOLD, where: str = ""
) -> list[Leak]:
    """Find all pairs of a training query and a test query that are near-duplicates, the most similar first.

    Args:
        train: Mapping from the ids of the training queries to their texts.
        test: Mapping from the ids of the test queries to their texts.
        threshold: Minimum Jaccard coefficient, above 0 and at most 1.
        where: Name of the test set, which is stored in the leaks.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"--threshold is {threshold}", expected="a number above 0 and at most 1, such as 0.7")
    if not train or not test:
        return []
    ours, theirs = list(train.items()), list(test.items())
    leaks = []
    for a, b, similarity in _similar_query_pairs([text for _, text in ours], [text for _, text in theirs], threshold):
        exact = normalise_query_for_leaks(ours[a][1]) == normalise_query_for_leaks(theirs[b][1])
        leaks.append(
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
    return sorted(leaks, key=lambda leak: (-leak.exact, -leak.similarity, leak.train, leak.test))


def _similar_query_pairs(ours: Sequence[str], theirs: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """Return (position in ``ours``, position in ``theirs``, similarity) for query pairs that reach the threshold."""
    import numpy as np

    columns: dict[str, int] = {}  # trigram -> column
    a = [[columns.setdefault(gram, len(columns)) for gram in sorted(query_trigrams(text))] for text in ours]
    b = [[columns.setdefault(gram, len(columns)) for gram in sorted(query_trigrams(text))] for text in theirs]
    left, right = _training_leak_trigram_matrix(a, len(columns)), _training_leak_trigram_matrix(b, len(columns))
    sizes = np.array([len(row) for row in a])
    pairs = []
    for start in range(0, len(theirs), _STEP):
        shared = (left @ right[start : start + _STEP].T).tocoo()
        test_sizes = np.array([len(row) for row in b[start : start + _STEP]])
        # |A and B| / |A or B|, for the pairs with a common trigram.
        value = shared.data / (sizes[shared.row] + test_sizes[shared.col] - shared.data)
        for index in np.flatnonzero(value >= threshold):
            pairs.append((int(shared.row[index]), start + int(shared.col[index]), float(value[index])))
    return pairs


def _training_leak_trigram_matrix(rows: Sequence[Sequence[int]], columns: int) -> csr_array:
    """Return a sparse matrix of shape (texts, trigrams) with a 1 for every trigram of a text."""
    import numpy as np
    from scipy.sparse import csr_array

    starts = np.cumsum([0, *(len(row) for row in rows)])
    indices = np.array([column for row in rows for column in row], dtype=np.int64)
    return csr_array((np.ones(len(indices), dtype=np.int32), indices, starts), shape=(len(rows), max(1, columns)))
