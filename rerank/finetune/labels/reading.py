"""Training lists from any file that holds some; what form it has is told from its first object.

Knows which keys belong to which form, not what the forms mean.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

from rerank.collections import Collection
from rerank.errors import DataError, UsageError, shorten
from rerank.finetune.labels.conversations import read_conversations
from rerank.finetune.labels.files import label_of
from rerank.finetune.labels.flag_embedding import read_flag_embedding
from rerank.finetune.labels.texts import with_texts
from rerank.finetune.labels.training_list import TrainingList
from rerank.io.json_records import Record, parse, read_lines
from rerank.io.text_files import open_text

Form = Literal["labels", "flag-embedding", "conversations"]
_KEYS: dict[str, Form] = {
    "initial_list": "labels",
    "pos": "flag-embedding",
    "conversations": "conversations",
    "messages": "conversations",
}


def read_lists(
    path: str | Path,
    collection: Collection | None = None,
    *,
    seed: int = 0,
    use_scores: bool = True,
    skipped: Counter[str] | None = None,
) -> Iterator[TrainingList]:
    """Stream the training lists of a label file, of FlagEmbedding's form, or of conversations; gzip too.

    Args:
        path: The file: JSON lines, or one JSON list.
        collection: Where a label file's ids are looked up; the other forms bring their texts.
        seed: For the order in which FlagEmbedding's texts are shown.
        use_scores: Whether FlagEmbedding's scores make the label.
        skipped: Counts what was left out, by reason; without it a warning says so at the end.

    Raises:
        MissingResourceError: There is no such file.
        DataError: It is in no such form, or a line is wrong; the message names it.
        UsageError: A label file without a collection.
    """
    counted: Counter[str] = Counter() if skipped is None else skipped
    form, records = open_records(path)
    if form != "labels":
        found = (
            read_conversations(records, skipped=counted)
            if form == "conversations"
            else read_flag_embedding(records, seed=seed, use_scores=use_scores, skipped=counted)
        )
        return found if skipped is not None else _warning(found, counted, path)
    if collection is None:
        raise UsageError(
            f"{path} holds ids and no texts",
            expected="the collection that they belong to",
            remedy="Pass --collection, or name it in [data] of the recipe",
        )
    return with_texts(map(label_of, records), collection)


def _warning(lists: Iterator[TrainingList], skipped: Counter[str], path: str | Path) -> Iterator[TrainingList]:
    """Lists, and at their end a warning if some were left out."""
    yield from lists
    if skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        warnings.warn(f"{path}: left out: {counts}", stacklevel=2)


def open_records(path: str | Path) -> tuple[Form, Iterator[Record]]:
    """The form of a file and its objects, from the first one on.

    Raises:
        MissingResourceError: There is no such file.
        DataError: It is in none of the forms.
    """
    records = _records(Path(path))
    first = next(records)
    form = next((form for key, form in _KEYS.items() if key in first.fields), None)
    if form is None:
        raise DataError(
            f"{first.where}: the keys {', '.join(first.fields) or '(none)'}",
            expected="qid, initial_list and final_list; query, pos and neg; or conversations",
        )
    return form, chain([first], records)


def _records(path: Path) -> Iterator[Record]:
    with open_text(path) as stream:
        listed = next((line.lstrip()[0] for line in stream if line.strip()), "") == "["
    if not listed:
        yield from read_lines(path)
        return
    with open_text(path) as stream:
        entries = parse(stream.read(), str(path))
    if not entries:
        raise DataError(f"{path} holds an empty list", expected="at least one object")
    yield from _checked(entries, path)


def _checked(entries: Iterable[object], path: Path) -> Iterator[Record]:
    for place, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise DataError(f"{path}, entry {place}: {shorten(entry)}", expected="an object")
        yield Record(f"{path}, entry {place}", entry)
