"""Splits of labelled lists into train, dev and test by query, and detection of test queries that leak into training.

A leak is a training query whose Jaccard coefficient with a test query, over sets of character trigrams, is high.
Trigrams are taken within words that are padded with spaces, so word order and repetitions have no effect. The
similarity is computed exactly, with a product of sparse matrices instead of hashing.
"""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError, UsageError, ensure
from rerank.finetune.labels.files import write_labels
from rerank.finetune.labels.lists import LabelList, TrainingList, make_folder, mark_folder

#: Minimum Jaccard coefficient of near-duplicate queries: about one word in seven may differ. docs/labels.md shows which
#: real queries are found.
THRESHOLD = 0.7
_WORDS = re.compile(r"\w+")
#: Number of test queries that are compared with all training queries at a time.
_STEP = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A pair of a training query and a test query that are duplicates or near-duplicates."""

    train: str  #: Id of the training query.
    test: str  #: Id of the test query.
    train_text: str
    test_text: str
    similarity: float  #: Jaccard coefficient of the trigrams; 1 if both have the same words.
    exact: bool  #: True if the texts differ only in case, punctuation and whitespace.
    where: str = ""  #: Name of the test set; empty if there is only one.


def normalise_query(text: str) -> str:
    """Return the words of a query in lower case, joined by spaces, or the stripped text if it has no words.

    >>> normalise_query("  How do I SORT,  a list?")
    'how do i sort a list'
    """
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def query_trigrams(text: str) -> frozenset[str]:
    """Return the character trigrams of the words of a text.

    >>> sorted(query_trigrams("to do"))
    [' do', ' to', 'do ', 'to ']
    """
    padded = (f" {word} " for word in normalise_query(text).split())
    return frozenset(word[start : start + 3] for word in padded for start in range(len(word) - 2))


def find_query_leaks(
    train: Mapping[str, str], tests: Mapping[str, Mapping[str, str]], *, threshold: float = THRESHOLD
) -> list[Leak]:
    """Return the near-duplicates between ``train`` and each named test set, per set the most similar pairs first.

    All queries are mappings from id to text. ``threshold`` is the minimum Jaccard coefficient, above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"--threshold is {threshold}", expected="a number above 0 and at most 1, such as 0.7")
    leaks: list[Leak] = []
    for where, test in tests.items():
        ours, theirs, found = list(train.items()), list(test.items()), []
        for a, b, similarity in _similar_pairs(list(train.values()), list(test.values()), threshold):
            (train_id, train_text), (test_id, test_text) = ours[a], theirs[b]
            exact = normalise_query(train_text) == normalise_query(test_text)
            found.append(
                Leak(
                    train=train_id,
                    test=test_id,
                    train_text=train_text,
                    test_text=test_text,
                    similarity=1.0 if exact else similarity,
                    exact=exact,
                    where=where,
                )
            )
        leaks += sorted(found, key=lambda leak: (-leak.exact, -leak.similarity, leak.train, leak.test))
    return leaks


def _similar_pairs(ours: Sequence[str], theirs: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """Return (position in ``ours``, position in ``theirs``, similarity) for query pairs that reach the threshold."""
    import numpy as np
    from scipy.sparse import csr_array

    if not ours or not theirs:
        return []
    columns: dict[str, int] = {}  # trigram -> column

    def indicators(rows: Sequence[Sequence[int]]) -> csr_array:
        # Shape (texts, trigrams), with a 1 for every trigram of a text.
        starts = np.cumsum([0, *(len(row) for row in rows)])
        indices = np.array([column for row in rows for column in row], dtype=np.int64)
        shape = (len(rows), max(1, len(columns)))
        return csr_array((np.ones(len(indices), dtype=np.int32), indices, starts), shape=shape)

    a = [[columns.setdefault(gram, len(columns)) for gram in sorted(query_trigrams(text))] for text in ours]
    b = [[columns.setdefault(gram, len(columns)) for gram in sorted(query_trigrams(text))] for text in theirs]
    left, right = indicators(a), indicators(b)
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


#: The lists of a split under ``train``, ``dev`` and ``test``, each part in file order.
LabelSplit = Mapping[str, tuple[LabelList, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitShares:
    """Fractions of the queries in the development and test sets of a split; all other queries are the training set."""

    dev: float = 0.1
    test: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        ensure(
            min(self.dev, self.test) >= 0 and 0 < self.dev + self.test < 1,
            f"--dev is {self.dev}, and --test is {self.test}",
            expected="nonnegative fractions whose sum is above 0 and below 1",
        )


def split_labels(labels: Sequence[LabelList], shares: SplitShares, *, texts: Mapping[str, str]) -> LabelSplit:
    """Split lists by query: all lists of a query, and of queries with the same words, are in the same part.

    The result does not depend on the order of the file: queries are sorted by a hash of the seed and their words (or
    their id); the first go to test, the next to dev. A part with a positive fraction contains at least one query.
    """
    qids, parts = {label.qid for label in labels}, ("train", "dev", "test")
    groups = {qid: f"text {normalise_query(texts[qid])}" if qid in texts else f"id {qid}" for qid in qids}
    part_of = _assign_parts(set(groups.values()), shares)
    return {part: tuple(label for label in labels if part_of[groups[label.qid]] == part) for part in parts}


def hold_out_lists(
    lists: Sequence[TrainingList], share: float, *, seed: int
) -> tuple[list[TrainingList], list[TrainingList]]:
    """Return the lists to train on, and those of a fraction of the queries, split as by `split_labels`."""
    groups = [normalise_query(entry.query.text) for entry in lists]
    part_of = _assign_parts(set(groups), SplitShares(dev=share, seed=seed))
    train, dev = (
        [entry for entry, group in zip(lists, groups, strict=True) if part_of[group] == part]
        for part in ("train", "dev")
    )
    return train, dev


def _assign_parts(groups: Collection[str], shares: SplitShares) -> dict[str, str]:
    """Return the part of each group of queries, which depends only on the seed and the names of all groups."""
    ordered = sorted(groups, key=lambda group: hashlib.sha256(f"{shares.seed}/{group}".encode()).digest())
    test, dev = (max(1, round(share * len(ordered))) if share else 0 for share in (shares.test, shares.dev))
    ensure(
        test + dev < len(ordered),
        f"{len(ordered)} queries are too few for {test} in test, {dev} in dev and at least one in train",
        remedy="Label more queries, or choose smaller parts",
        error=DataError,
    )
    parts = ["test"] * test + ["dev"] * dev + ["train"] * (len(ordered) - test - dev)
    return dict(zip(ordered, parts, strict=True))


def find_split_leaks(
    parts: LabelSplit,
    texts: Mapping[str, str],
    *,
    against: Mapping[str, Mapping[str, str]],
    threshold: float = THRESHOLD,
) -> list[Leak]:
    """Find training queries that are near-duplicates of dev, test or ``against`` queries, among those with texts."""
    known = {name: {one.qid: texts[one.qid] for one in part if one.qid in texts} for name, part in parts.items()}
    return find_query_leaks(known.pop("train"), {**known, **against}, threshold=threshold)


def remove_leaking_lists(labels: Sequence[LabelList], leaks: Sequence[Leak]) -> tuple[LabelList, ...]:
    """Return the lists without those whose query is the training query of a leak."""
    leaking = {leak.train for leak in leaks}
    return tuple(label for label in labels if label.qid not in leaking)


def write_split(parts: LabelSplit, folder: Path) -> dict[str, int]:
    """Write train.jsonl, dev.jsonl and test.jsonl (an empty part has no file), and return the sizes of the parts."""
    make_folder(folder)
    for name, part in parts.items():
        path = folder / f"{name}.jsonl"
        if part:
            write_labels(part, path)
        else:
            path.unlink(missing_ok=True)
    sizes = {name: len(part) for name, part in parts.items()}
    mark_folder(folder, {"split": sizes})
    return sizes
