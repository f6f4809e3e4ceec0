"""What INQUIRE's files have in common: what is said of queries besides their words, CSV by columns, images by path."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rerank.errors import DataError
from rerank.io.json_records import Record
from rerank.io.text_files import open_text
from rerank.types import Document

#: What INQUIRE sorts its queries by.
FIELDS = ("supercategory", "category", "iconic_group")


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """Stream the rows of a CSV file, each as column -> text.

    Args:
        path: The file; its first line names the columns.
        columns: Those that must be there; others may.

    Raises:
        MissingResourceError: No such file.
        DataError: A column is not there, or a row has more or fewer than the first line.
    """
    with open_text(path) as stream:
        rows = csv.reader(stream, strict=True)
        try:
            head = next(rows, [])
            if lacking := [name for name in columns if name not in head]:
                raise DataError(
                    f"{path} has the columns {', '.join(map(repr, head)) or '(none)'}",
                    expected=f"{', '.join(columns)} among them; {', '.join(lacking)} not there",
                )
            for row in rows:
                if not row:
                    continue
                where = f"{path}:{rows.line_num}"
                if len(row) != len(head):
                    raise DataError(f"{where}: {len(row)} columns", expected=f"{len(head)}, as in the first line")
                yield Record(where, dict(zip(head, row, strict=True)))
        except csv.Error as error:
            raise DataError(f"{path}:{rows.line_num}: this is no CSV ({error})", remedy="Repair it") from error


def picture(image: str, path: str, root: Path | None) -> Document:
    """An image as a document: its id and the path of its file, seen from ``root`` where there is one."""
    return Document(id=image, image=str(root / path) if root else path)


def by_field(queries: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Query id -> field -> value turned into field -> query id -> value; empty values are left out."""
    return {field: {query: values[field] for query, values in queries.items() if values.get(field)} for field in FIELDS}
