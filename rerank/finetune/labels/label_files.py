"""Reading and writing of label files: JSON lines with one list per line, in the format of fullrank.

A line has the form ``{"qid": "1", "initial_list": ["d1", "d2"], "final_list": ["d2", "d1"]}``, with the optional keys
``query`` (the text), ``scores`` (one per document, in the order of initial_list) and ``teacher``. Other keys are
ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from rerank.errors import DataError, error_repr
from rerank.finetune.labels.label_list import LabelList
from rerank.io.json_records import JsonRecord, parse_json_id, parse_json_text, read_json_lines
from rerank.io.text_files import replace_text_file


def read_labels(path: str | Path) -> Iterator[LabelList]:
    """Yield the lists of a label file, which may be gzipped. A query may have several lists.

    Raises:
        MissingResourceError: The file does not exist.
        DataError: The file is empty, or a line is not a valid list; the message names the line.
    """
    return (parse_label(record) for record in read_json_lines(Path(path)))


def parse_label(record: JsonRecord) -> LabelList:
    """Parse a labelled list from its JSON object."""
    scores, teacher = record.fields.get("scores"), record.fields.get("teacher")
    return LabelList(
        qid=record.identifier(("qid", "query_id"), "query"),
        initial=_label_document_ids(record, "initial_list"),
        final=_label_document_ids(record, "final_list"),
        query=parse_json_text(record.fields.get("query") or "", record.where),
        scores=parse_training_label_numbers(scores, "scores", record.where),
        teacher=parse_json_text(teacher or "", record.where),
        where=record.where,
    )


def write_labels(lists: Iterable[LabelList], target: str | Path | TextIO) -> int:
    """Write labelled lists to a label file, one per line.

    Args:
        lists: The lists.
        target: A stream, or the path of a file that is replaced atomically (gzipped if its name ends in ``.gz``).

    Returns:
        The number of lists written.

    Raises:
        MissingResourceError: The folder of the file does not exist.
        StorageError: The file cannot be written.
    """
    count = 0
    opened = replace_text_file(target) if isinstance(target, str | Path) else nullcontext(target)
    with opened as stream:
        for label in lists:
            stream.write(json.dumps(label.to_row(), ensure_ascii=False) + "\n")
            count += 1
    return count


def parse_training_label_numbers(value: object, key: str, where: str) -> tuple[float, ...]:
    """Parse the scores of a label, which are a list of numbers or None; return an empty tuple for None."""
    if value is None:
        return ()
    if not isinstance(value, list) or any(isinstance(x, bool) or not isinstance(x, int | float) for x in value):
        raise DataError(f"{where}: {key} is {error_repr(value)}", expected="a list of numbers")
    try:
        return tuple(map(float, value))
    except OverflowError as error:
        raise DataError(f"{where}: {key} contains a number that is too large", expected="finite numbers") from error


def _label_document_ids(record: JsonRecord, key: str) -> tuple[str, ...]:
    value = record.fields.get(key)
    if not isinstance(value, list):
        raise DataError(
            f"{record.where}: {key} is {error_repr(value)}"
            if key in record.fields
            else f"{record.where}: the key {key} is missing; the keys are: {', '.join(record.fields) or '(none)'}",
            expected='a list of document ids, as in {"qid": ..., "initial_list": [...], "final_list": [...]}',
            remedy="Convert other formats with `rerank label convert`",
        )
    return tuple(parse_json_id(one, "document", record.where) for one in value)
