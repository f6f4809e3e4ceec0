"""Reader of training lists from files and data sets. The format of a file is detected from its first object."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

from rerank.collections import Collection
from rerank.errors import DataError, UsageError, error_repr
from rerank.finetune.labels.conversations import read_conversations
from rerank.finetune.labels.flag_embedding import read_flag_embedding_training_lists
from rerank.finetune.labels.hub_lists import HubDataset, is_hub_dataset
from rerank.finetune.labels.label_files import parse_label
from rerank.finetune.labels.list_texts import attach_label_texts
from rerank.finetune.labels.training_list import TrainingList
from rerank.io.json_records import JsonRecord, parse_json, read_json_lines
from rerank.io.text_files import open_text_file

ListFormat = Literal["labels", "flag-embedding", "conversations"]
_KEYS: dict[str, ListFormat] = {
    "initial_list": "labels",
    "pos": "flag-embedding",
    "conversations": "conversations",
    "messages": "conversations",
}


def read_label_lists_of_file(
    path: str | Path,
    collection: Collection | None = None,
    *,
    seed: int = 0,
    use_scores: bool = True,
    skipped: Counter[str] | None = None,
) -> Iterator[TrainingList]:
    """Yield the training lists of a label file, a FlagEmbedding file or a file of conversations.

    Args:
        path: The file, which may be gzipped: JSON lines, or one JSON list; or a data set, such as
            ``hf:owner/name,split=train``.
        collection: Collection that contains the documents of a label file; the other formats contain texts.
        seed: Random seed of the order in which texts of FlagEmbedding files are shown.
        use_scores: Whether to order the texts of FlagEmbedding files by their scores; otherwise positives come first.
        skipped: Counter to which skipped lists are added, by reason; if None, a warning reports them at the end.

    Raises:
        MissingResourceError: The file does not exist.
        DataError: The format is unknown, or a line is invalid; the message names the line.
        UsageError: The file is a label file, and no collection is given.
    """
    counted: Counter[str] = Counter() if skipped is None else skipped
    form, records = open_label_records(path)
    if form != "labels":
        lists = (
            read_conversations(records, skipped=counted)
            if form == "conversations"
            else read_flag_embedding_training_lists(records, seed=seed, use_scores=use_scores, skipped=counted)
        )
        return lists if skipped is not None else _lists_with_skip_warning(lists, counted, path)
    if collection is None:
        raise UsageError(
            f"{path} contains document ids without texts",
            expected="the collection that contains the documents",
            remedy="Pass --collection, or set collection in [data] of the recipe",
        )
    return attach_label_texts(map(parse_label, records), collection)


def _lists_with_skip_warning(
    lists: Iterator[TrainingList], skipped: Counter[str], path: str | Path
) -> Iterator[TrainingList]:
    """Yield the lists, and warn at the end if the reader skipped lists, with the reasons."""
    yield from lists
    if skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        warnings.warn(f"Skipped in {path}: {counts}", stacklevel=2)


def open_label_records(path: str | Path) -> tuple[ListFormat, Iterator[JsonRecord]]:
    """Detect the format of a file or data set, and return the format and an iterator over its JSON objects."""
    records = HubDataset.parse(str(path)).records() if is_hub_dataset(path) else _label_records(Path(path))
    first = next(records, None)
    if first is None:
        raise DataError(f"{path} contains no rows", expected="at least one training list")
    form = next((form for key, form in _KEYS.items() if key in first.fields), None)
    if form is None:
        raise DataError(
            f"{first.where}: the keys are {', '.join(first.fields) or '(none)'}",
            expected="the keys qid, initial_list and final_list; query, pos and neg; or conversations",
        )
    return form, chain([first], records)


def _label_records(path: Path) -> Iterator[JsonRecord]:
    with open_text_file(path) as stream:
        listed = next((line.lstrip()[0] for line in stream if line.strip()), "") == "["
    if not listed:
        yield from read_json_lines(path)
        return
    with open_text_file(path) as stream:
        entries = parse_json(stream.read(), str(path))
    if not entries:
        raise DataError(f"{path} contains an empty list", expected="at least one object")
    yield from _checked_label_records(entries, path)


def _checked_label_records(entries: Iterable[object], path: Path) -> Iterator[JsonRecord]:
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {number} is {error_repr(entry)}", expected="a JSON object")
        yield JsonRecord(f"{path}, entry {number}", entry)
