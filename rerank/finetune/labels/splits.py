"""Lists to train on and lists to look at meanwhile, split by query, and a check that no query is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError, UsageError
from rerank.finetune.labels.files import write_labels
from rerank.finetune.labels.leaks import THRESHOLD, Leak, leaks, normalised
from rerank.finetune.labels.lists import LabelList
from rerank.finetune.labels.texts import make_folder, write_mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How lists are shared out.

    Attributes:
        dev: Share of the queries that training is watched with.
        test: Share of the queries that are kept for the end.
        seed: For the draw.

    Raises:
        UsageError: Shares that leave nothing to train on.
    """

    dev: float = 0.1
    test: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that something is left."""
        if min(self.dev, self.test) < 0 or self.dev + self.test >= 1 or self.dev + self.test <= 0:
            raise UsageError(
                f"--dev {self.dev} with --test {self.test}",
                expected="shares from 0 up that are together above 0 and below 1",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The parts, in the order of the file.

    Attributes:
        train: Lists to train on.
        dev: Lists to watch training with.
        test: Lists for the end.
    """

    train: tuple[LabelList, ...]
    dev: tuple[LabelList, ...]
    test: tuple[LabelList, ...]


def split(labels: Sequence[LabelList], shares: Shares, *, texts: Mapping[str, str]) -> Split:
    """Share lists out by query: all lists of a query are in one part, those of queries with the same words too.

    Which part a query gets depends on the seed and its words (or its id, where these are not known) alone, not on the
    order of the file: the queries are put in the order of a hash, and the first go to test, the next to dev.

    Args:
        labels: The lists.
        shares: How much goes where. A part that is asked for gets at least one query.
        texts: Query id -> text, as far as they are known.

    Raises:
        DataError: There are too few queries for the parts.
    """
    groups = {label.qid: _group(label.qid, texts) for label in labels}
    ordered = sorted(set(groups.values()), key=lambda group: hashlib.sha256(f"{shares.seed}/{group}".encode()).digest())
    test, dev = (max(1, round(share * len(ordered))) if share else 0 for share in (shares.test, shares.dev))
    if test + dev >= len(ordered):
        raise DataError(
            f"{len(ordered)} queries for {test} in test, {dev} in dev and some to train on",
            remedy="Label more queries, or ask for smaller parts",
        )
    part = {group: "test" if at < test else "dev" if at < test + dev else "train" for at, group in enumerate(ordered)}
    found = {name: tuple(one for one in labels if part[groups[one.qid]] == name) for name in ("train", "dev", "test")}
    return Split(**found)


def leaks_of(
    made: Split,
    texts: Mapping[str, str],
    *,
    against: Mapping[str, Mapping[str, str]],
    threshold: float = THRESHOLD,
) -> list[Leak]:
    """What of the queries to train on stands in dev, in test, or among further queries, word for word or nearly so.

    Args:
        made: The split.
        texts: Query id -> text.
        against: Further queries that nothing should be trained on: what they are called -> id -> text.
        threshold: See `rerank.finetune.labels.leaks`.
    """

    def known(labels: Sequence[LabelList]) -> dict[str, str]:
        return {label.qid: texts[label.qid] for label in labels if label.qid in texts}

    held = {"dev": known(made.dev), "test": known(made.test), **against}
    train = known(made.train)
    return [leak for where, test in held.items() for leak in leaks(train, test, threshold=threshold, where=where)]


def without(labels: Sequence[LabelList], found: Sequence[Leak]) -> tuple[LabelList, ...]:
    """The lists whose queries leak nothing."""
    leaking = {leak.train for leak in found}
    return tuple(label for label in labels if label.qid not in leaking)


def write_split(made: Split, folder: Path) -> dict[str, int]:
    """Write the parts as train.jsonl, dev.jsonl and test.jsonl; a part without lists has no file.

    Returns:
        Part -> how many lists.

    Raises:
        UsageError: The folder holds something else.
        StorageError: It cannot be written.
    """
    make_folder(folder)
    parts = {"train": made.train, "dev": made.dev, "test": made.test}
    for name, part in parts.items():
        path = folder / f"{name}.jsonl"
        if part:
            write_labels(part, path)
        else:
            path.unlink(missing_ok=True)
    sizes = {name: len(part) for name, part in parts.items()}
    write_mark(folder, {"split": sizes})
    return sizes


def _group(qid: str, texts: Mapping[str, str]) -> str:
    return f"text {normalised(texts[qid])}" if qid in texts else f"id {qid}"
