"""Label files: JSON lines, one list a line, as fullrank writes them. Knows ids, no texts.

``{"qid": "1", "initial_list": ["d1", "d2"], "final_list": ["d2", "d1"]}``, and perhaps ``query`` (the text), ``scores``
(one a document, in the order of initial_list) and ``teacher``. Other keys are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from rerank.errors import DataError, shorten
from rerank.finetune.labels.lists import LabelList
from rerank.io.json_records import Record, identifier, read_lines, text
from rerank.io.text_files import replace_text


def read_labels(path: str | Path) -> Iterator[LabelList]:
    """Stream the lists of a label file; gzip too. One query may have several lists.

    Raises:
        MissingResourceError: There is no such file.
        DataError: It is empty, or a line is no list; the message names the line.
    """
    return (label_of(record) for record in read_lines(Path(path)))


def label_of(record: Record) -> LabelList:
    """A list from its JSON object.

    Raises:
        DataError: It is none; the message names the place.
    """
    scores, teacher = record.fields.get("scores"), record.fields.get("teacher")
    return LabelList(
        qid=record.identifier(("qid", "query_id"), "query"),
        initial=_ids(record, "initial_list"),
        final=_ids(record, "final_list"),
        query=text(record.fields.get("query") or "", record.where),
        scores=numbers(scores, "scores", record.where),
        teacher=text(teacher or "", record.where),
        where=record.where,
    )


def write_labels(lists: Iterable[LabelList], target: str | Path | TextIO) -> int:
    """Write lists, one a line.

    Args:
        lists: What to write.
        target: A stream, or a file, which is replaced when all is written (gzipped if its name ends in ``.gz``).

    Returns:
        How many lists there were.

    Raises:
        MissingResourceError: The file's folder is not there.
        StorageError: The file cannot be written.
    """
    count = 0
    opened = replace_text(target) if isinstance(target, str | Path) else nullcontext(target)
    with opened as stream:
        for one in lists:
            stream.write(json.dumps(one.to_row(), ensure_ascii=False) + "\n")
            count += 1
    return count


def numbers(value: object, key: str, where: str) -> tuple[float, ...]:
    """A list of numbers; empty where there is none.

    Raises:
        DataError: It is something else.
    """
    if value is None:
        return ()
    if not isinstance(value, list) or any(isinstance(x, bool) or not isinstance(x, int | float) for x in value):
        raise DataError(f"{where}: {key} is {shorten(value)}", expected="a list of numbers")
    return tuple(map(float, value))


def _ids(record: Record, key: str) -> tuple[str, ...]:
    value = record.fields.get(key)
    if not isinstance(value, list):
        raise DataError(
            f"{record.where}: {key} is {shorten(value)}"
            if key in record.fields
            else f"{record.where}: no {key} among the keys {', '.join(record.fields) or '(none)'}",
            expected='a list of document ids, as in {"qid": ..., "initial_list": [...], "final_list": [...]}',
            remedy="Turn other forms into label files with `rerank label convert`",
        )
    return tuple(identifier(one, "document", record.where) for one in value)
