"""Choose among ranked texts what goes into a prompt: near-duplicates, and maximal marginal relevance.

Everything here works on texts, vectors and positions; `rerank.reranker.hits.Hits` applies it to hits.

Sources: shingles and their resemblance (Jaccard): Broder 1997, "On the resemblance and containment of documents"; maximal
marginal relevance: Carbonell and Goldstein, SIGIR 1998; the weights of terms are those of BM25 in Lucene's variant.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank.errors import UsageError, ensure
from rerank.indexing.text_analysis import split_into_terms
from rerank.judges.attention.evidence import split_words

#: Number of words per shingle.
SHINGLE = 3
#: Parameters of BM25, the same as the defaults of the first stage.
_K1, _B = 0.9, 0.4
#: Function from the position of a text to its similarity to each text, shape (texts,).
Similarity = Callable[[int], NDArray[np.float64]]


def make_shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Return the sets of `SHINGLE` consecutive words of a text; a shorter text is one shingle, an empty text has none.

    Case and punctuation are ignored. In scripts without spaces, every character is a word.

    >>> sorted(make_shingles("It rains, it snows."))
    [('it', 'rains', 'it'), ('rains', 'it', 'snows')]
    """
    plain = re.sub(r"[^\w\s]+", " ", text.casefold())
    words = [plain[start:end] for start, end in split_words(plain)]
    starts = range(max(1, len(words) - SHINGLE + 1)) if words else ()
    return frozenset(tuple(words[start : start + SHINGLE]) for start in starts)


def find_near_duplicates(texts: Sequence[str], threshold: float) -> dict[int, tuple[int, float]]:
    """Return, for each near-duplicate, the position of the earlier text that is kept, and the Jaccard index with it.

    Texts are compared in order with all earlier texts that are kept. A text is a near-duplicate if the exact Jaccard
    index of the shingles, |A and B| / |A or B|, is at least ``threshold`` for one of them; the largest counts.
    """
    ensure(0 < threshold <= 1, f"threshold is {threshold!r}", expected="a Jaccard index above 0 and up to 1")
    found: dict[int, tuple[int, float]] = {}
    shingles = [make_shingles(text) for text in texts]
    kept_with: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, own in enumerate(shingles):
        shared = Counter(other for shingle in own for other in kept_with.get(shingle, ()))
        jaccard = {other: n / (len(own) + len(shingles[other]) - n) for other, n in shared.items()}
        closest = max(jaccard, key=lambda other: (jaccard[other], -other), default=None)
        if closest is not None and jaccard[closest] >= threshold:
            found[position] = closest, jaccard[closest]
            continue
        for shingle in own:
            kept_with[shingle].append(position)
    return found


def bm25_similarity(texts: Sequence[str]) -> Similarity:
    """Return the cosine of two texts' vectors of BM25 term weights, which is from 0 to 1.

    The weight of term t in text d is log(1 + (N - n_t + 0.5) / (n_t + 0.5)) f / (f + k1 (1 - b + b |d| / mean length)),
    with f occurrences of t in d, n_t of the N given texts that contain t, k1 = 0.9 and b = 0.4. Terms are lower-case
    words of at least two characters (character pairs in scripts without spaces), without stop words or stemming.
    """
    counts = [Counter(split_into_terms(text)) for text in texts]
    containing = Counter(term for count in counts for term in count)
    mean = sum(count.total() for count in counts) / max(1, len(counts)) or 1.0
    postings: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    vectors: list[dict[str, float]] = []
    for position, count in enumerate(counts):
        saturation = _K1 * (1 - _B + _B * count.total() / mean)
        weights = {
            term: math.log(1 + (len(texts) - containing[term] + 0.5) / (containing[term] + 0.5)) * f / (f + saturation)
            for term, f in count.items()
        }
        norm = math.hypot(*weights.values()) or 1.0
        vectors.append({term: weight / norm for term, weight in weights.items()})
        for term, weight in vectors[-1].items():
            postings[term][0].append(position)
            postings[term][1].append(weight)
    columns = {term: (np.asarray(rows), np.asarray(weights)) for term, (rows, weights) in postings.items()}

    def similarity(position: int) -> NDArray[np.float64]:
        result = np.zeros(len(texts))
        for term, weight in vectors[position].items():
            rows, weights = columns[term]
            result[rows] += weight * weights
        return result

    return similarity


def cosine_similarity(vectors: Sequence[Any]) -> Similarity:
    """Return the cosine of two vectors; 0 for a vector of zeros. It is a `UsageError` if they are not finite numbers."""
    try:
        matrix = np.asarray(vectors, dtype=np.float64)
        is_valid = matrix.ndim == 2 and bool(np.isfinite(matrix).all())
    except (TypeError, ValueError):
        is_valid = False
    if not is_valid:
        raise UsageError(
            "The vectors are not a matrix", expected="one vector of finite numbers per document, all of one length"
        )
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix = matrix / np.where(norms > 0, norms, 1.0)
    return lambda position: np.asarray(matrix @ matrix[position], dtype=np.float64)


def select_diverse(values: Sequence[float], similarity: Similarity, k: int, weight: float) -> list[int]:
    """Return the positions of ``k`` texts by maximal marginal relevance, in the order in which they are selected.

    Each step selects the text with the largest w r - (1 - w) s, where w is the weight, r the relevance, scaled so that
    the least relevant text of the list has 0 and the most relevant 1 (1 for all if they are equal), and s the largest
    similarity to a selected text, 0 before the first. Of equal texts, the first is selected.
    """
    given = np.asarray(values, dtype=np.float64)
    spread = np.ptp(given) if len(given) else 0.0
    relevance = (given - given.min()) / spread if spread else np.ones(len(given))
    closest = np.zeros(len(given))
    selected: list[int] = []
    for _ in range(min(k, len(given))):
        marginal = weight * relevance - (1 - weight) * closest
        marginal[selected] = -math.inf
        best = int(marginal.argmax())
        closest = similarity(best) if not selected else np.maximum(closest, similarity(best))
        selected.append(best)
    return selected
