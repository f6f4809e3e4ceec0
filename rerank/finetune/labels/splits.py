"""Splits of labelled lists into train, dev and test by query, and detection of queries that leak between them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError, UsageError
from rerank.finetune.labels.label_files import write_labels
from rerank.finetune.labels.label_list import LabelList
from rerank.finetune.labels.leaks import THRESHOLD, Leak, find_query_leaks, normalise_query_for_leaks
from rerank.finetune.labels.list_texts import make_label_folder, write_label_folder_marker
from rerank.finetune.labels.training_list import TrainingList


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitShares:
    """Fractions of the queries in the development and test sets of a split; all other queries are the training set.

    Attributes:
        dev: Fraction of the queries in the development set.
        test: Fraction of the queries in the test set.
        seed: Random seed.
    """

    dev: float = 0.1
    test: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that the fractions are not negative, and that their sum is above 0 and below 1."""
        if min(self.dev, self.test) < 0 or self.dev + self.test >= 1 or self.dev + self.test <= 0:
            raise UsageError(
                f"--dev is {self.dev}, and --test is {self.test}",
                expected="nonnegative fractions whose sum is above 0 and below 1",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSplit:
    """Training, development and test lists of a split, each in file order.

    Attributes:
        train: Training lists.
        dev: Development lists.
        test: Test lists.
    """

    train: tuple[LabelList, ...]
    dev: tuple[LabelList, ...]
    test: tuple[LabelList, ...]


def split_labels(labels: Sequence[LabelList], shares: SplitShares, *, texts: Mapping[str, str]) -> LabelSplit:
    """Split lists by query: all lists of a query, and of queries with the same words, are in the same part.

    The result does not depend on the order of the file: queries are sorted by a hash of the seed and their words (or
    their id, if the text is unknown); the first ones go to test, the next ones to dev, and the rest to train.

    Args:
        labels: The lists.
        shares: Sizes of the parts; a part with a positive fraction contains at least one query.
        texts: Mapping from query ids to texts, for queries whose text is known.
    """
    groups = {label.qid: _training_split_group_of_query(label.qid, texts) for label in labels}
    part_of = _split_query_groups(set(groups.values()), shares)
    parts = {
        name: tuple(label for label in labels if part_of[groups[label.qid]] == name)
        for name in ("train", "dev", "test")
    }
    return LabelSplit(**parts)


def hold_out_training_lists(
    lists: Sequence[TrainingList], share: float, *, seed: int
) -> tuple[list[TrainingList], list[TrainingList]]:
    """Return the lists to train on, and the lists of a fraction ``share`` of the queries (at least one query).

    Lists whose queries have the same words stay together, as in `split_labels`.
    """
    groups = [normalise_query_for_leaks(entry.query.text) for entry in lists]
    part_of = _split_query_groups(set(groups), SplitShares(dev=share, seed=seed))
    train, dev = (
        [entry for entry, group in zip(lists, groups, strict=True) if part_of[group] == part]
        for part in ("train", "dev")
    )
    return train, dev


def _split_query_groups(groups: Collection[str], shares: SplitShares) -> dict[str, str]:
    """Return a mapping from each group of queries, which stay together, to the name of its part.

    The mapping depends only on the seed and the names of all groups.
    """
    ordered = sorted(groups, key=lambda group: hashlib.sha256(f"{shares.seed}/{group}".encode()).digest())
    test, dev = (max(1, round(share * len(ordered))) if share else 0 for share in (shares.test, shares.dev))
    if test + dev >= len(ordered):
        raise DataError(
            f"{len(ordered)} queries are too few for {test} in test, {dev} in dev and at least one in train",
            remedy="Label more queries, or choose smaller parts",
        )
    return {
        group: "test" if index < test else "dev" if index < test + dev else "train"
        for index, group in enumerate(ordered)
    }


def find_split_leaks(
    parts: LabelSplit,
    texts: Mapping[str, str],
    *,
    against: Mapping[str, Mapping[str, str]],
    threshold: float = THRESHOLD,
) -> list[Leak]:
    """Find training queries that are near-duplicates of dev queries, test queries, or further test sets.

    Args:
        parts: The split.
        texts: Mapping from query ids to texts; queries without a text are not compared.
        against: Further test queries: for each name of a test set, a mapping from query ids to texts.
        threshold: Minimum similarity of near-duplicate queries, as in `find_query_leaks`.
    """

    def known(labels: Sequence[LabelList]) -> dict[str, str]:
        return {label.qid: texts[label.qid] for label in labels if label.qid in texts}

    held = {"dev": known(parts.dev), "test": known(parts.test), **against}
    train = known(parts.train)
    return [
        leak for where, test in held.items() for leak in find_query_leaks(train, test, threshold=threshold, where=where)
    ]


def remove_leaking_lists(labels: Sequence[LabelList], leaks: Sequence[Leak]) -> tuple[LabelList, ...]:
    """Return the lists without those whose query is the training query of a leak."""
    leaking = {leak.train for leak in leaks}
    return tuple(label for label in labels if label.qid not in leaking)


def write_label_split(parts: LabelSplit, folder: Path) -> dict[str, int]:
    """Write train.jsonl, dev.jsonl and test.jsonl; an empty part has no file.

    Returns:
        The number of lists in each part, by name of the part.
    """
    make_label_folder(folder)
    labels_of = {"train": parts.train, "dev": parts.dev, "test": parts.test}
    for name, part in labels_of.items():
        path = folder / f"{name}.jsonl"
        if part:
            write_labels(part, path)
        else:
            path.unlink(missing_ok=True)
    sizes = {name: len(part) for name, part in labels_of.items()}
    write_label_folder_marker(folder, {"split": sizes})
    return sizes


def _training_split_group_of_query(qid: str, texts: Mapping[str, str]) -> str:
    return f"text {normalise_query_for_leaks(texts[qid])}" if qid in texts else f"id {qid}"
