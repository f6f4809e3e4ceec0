"""Near-duplicates, and maximal marginal relevance, for texts and vectors in the order of a ranking.

Sources: shingles and their resemblance (the Jaccard index): Broder 1997, "On the resemblance and containment of
documents"; maximal marginal relevance: Carbonell and Goldstein, SIGIR 1998, equation 1.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank.errors import ensure
from rerank.indexing.text_analysis import split_into_terms
from rerank.judges.attention.evidence import split_words

SHINGLE = 3  #: Number of words per shingle.
_K1, _B = 0.9, 0.4  #: Parameters of BM25, the same as the defaults of the first stage.
#: One row per text. Rows have the length 1, or less if terms that occur in no other text are left out.
Vectors = NDArray[np.float64]


def make_shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Return the sets of `SHINGLE` consecutive words; a shorter text is one shingle, and a text without words has none.

    Case and punctuation are ignored. In scripts without spaces, every character is a word.

    >>> sorted(make_shingles("It rains, it snows."))
    [('it', 'rains', 'it'), ('rains', 'it', 'snows')]
    """
    plain = re.sub(r"[^\w\s]+", " ", text.casefold())
    words = [plain[start:end] for start, end in split_words(plain)]
    starts = range(max(1, len(words) - SHINGLE + 1)) if words else ()
    return frozenset(tuple(words[start : start + SHINGLE]) for start in starts)


def find_near_duplicates(texts: Sequence[str], threshold: float) -> dict[int, tuple[int, float]]:
    """Return, for each near-duplicate, the position of the kept text that is most similar to it, and the similarity.

    The similarity is the exact Jaccard index |A and B| / |A or B| of the shingles, and near-duplicates have at least
    ``threshold``. Texts are compared with the kept ones only, so a chain of small changes is not followed.
    """
    found: dict[int, tuple[int, float]] = {}
    kept: list[int] = []
    shingles = [make_shingles(text) for text in texts]
    for position, own in enumerate(shingles):
        shared = [(len(own & shingles[other]), other) for other in kept]
        pairs = ((n / max(1, len(own) + len(shingles[other]) - n), -other) for n, other in shared)
        jaccard, other = max(pairs, default=(0.0, 0))
        if jaccard >= threshold:
            found[position] = -other, jaccard
        else:
            kept.append(position)
    return found


def weigh_terms(texts: Sequence[str]) -> Vectors:
    """Return vectors of BM25 term weights with the length 1, without terms of a single text, which affect no cosine.

    The weight of term t in text d is log(1 + (N - n_t + 0.5) / (n_t + 0.5)) f / (f + k1 (1 - b + b |d| / mean length)),
    with f occurrences of t in d, n_t of the N given texts that contain t, k1 = 0.9 and b = 0.4. Terms are lower-case
    words of at least two characters (character pairs in scripts without spaces), without stop words or stemming.
    """
    counts = [Counter(split_into_terms(text)) for text in texts]
    containing = Counter(term for count in counts for term in count)
    columns = {term: column for column, term in enumerate(term for term, n in containing.items() if n > 1)}
    mean = sum(count.total() for count in counts) / max(1, len(counts)) or 1.0
    vectors = np.zeros((len(texts), len(columns)))
    for row, count in enumerate(counts):
        saturation = _K1 * (1 - _B + _B * count.total() / mean)
        weights = {
            term: math.log(1 + (len(texts) - containing[term] + 0.5) / (containing[term] + 0.5)) * f / (f + saturation)
            for term, f in count.items()
        }
        norm = math.hypot(*weights.values()) or 1.0
        for term in weights.keys() & columns.keys():
            vectors[row, columns[term]] = weights[term] / norm
    return vectors


def normalize_vectors(vectors: Sequence[Any]) -> Vectors:
    """Return vectors as rows of length 1, or 0 for a vector of zeros."""
    try:
        matrix = np.asarray(vectors, dtype=np.float64).reshape(len(vectors), -1 if len(vectors) else 0)
    except (TypeError, ValueError):
        matrix = np.full((1, 1), math.nan)
    expected = "one vector of finite numbers per document"
    ensure(np.isfinite(matrix).all(), "The vectors do not form a matrix", expected=expected)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(norms > 0, norms, 1.0)


def select_diverse(values: Sequence[float], vectors: Vectors, k: int, weight: float) -> list[int]:
    """Return up to ``k`` positions by maximal marginal relevance, in the order in which they are selected.

    Each step selects the largest w r - (1 - w) s, where w is the weight, r the relevance, scaled to 0 for the smallest
    of the ``values`` and 1 for the largest (1 for all if they are equal), and s the largest inner product with a
    selected vector, 0 before the first. Ties keep the order of the positions.
    """
    given = np.asarray(values, dtype=np.float64)
    spread = np.ptp(given) if len(given) else 0.0
    relevance = (given - given.min()) / spread if spread else np.ones(len(given))
    closest = np.full(len(given), -math.inf)
    selected: list[int] = []
    for _ in range(min(k, len(given))):
        marginal = weight * relevance - (1 - weight) * (closest if selected else 0.0)
        marginal[selected] = -math.inf
        selected.append(int(marginal.argmax()))
        closest = np.maximum(closest, vectors @ vectors[selected[-1]])
    return selected
