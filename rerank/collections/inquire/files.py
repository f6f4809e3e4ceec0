"""Functions shared by the INQUIRE collections, for query fields, CSV files and image documents."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rerank.errors import DataError
from rerank.io.json_records import JsonRecord
from rerank.io.text_files import open_text_file
from rerank.types import Document

#: Names of the fields of INQUIRE's queries.
FIELDS = ("supercategory", "category", "iconic_group")


def read_inquire_csv(path: Path, columns: Sequence[str]) -> Iterator[JsonRecord]:
    """Yield the rows of a CSV file, each as a record that maps column names to texts.

    Args:
        path: The file; its first line contains the column names.
        columns: Required columns.
    """
    with open_text_file(path) as stream:
        rows = csv.reader(stream, strict=True)
        try:
            head = next(rows, [])
            if lacking := [name for name in columns if name not in head]:
                raise DataError(
                    f"{path} has the columns {', '.join(map(repr, head)) or '(none)'}",
                    expected=f"at least {', '.join(columns)} (missing: {', '.join(lacking)})",
                )
            for row in rows:
                if not row:
                    continue
                where = f"{path}:{rows.line_num}"
                if len(row) != len(head):
                    raise DataError(
                        f"{where}: the row has {len(row)} columns", expected=f"{len(head)}, as in the first line"
                    )
                yield JsonRecord(where, dict(zip(head, row, strict=True)))
        except csv.Error as error:
            raise DataError(f"{path}:{rows.line_num}: invalid CSV ({error})", remedy="Repair the file") from error


def inquire_image_document(image: str, path: str, root: Path | None) -> Document:
    """Return an image as a document with its id and the path of its file, to which ``root``, if given, is prepended."""
    return Document(id=image, image=str(root / path) if root else path)


def invert_query_fields(queries: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Convert a mapping query id -> field -> value to field -> query id -> value, without empty values."""
    return {field: {query: values[field] for query, values in queries.items() if values.get(field)} for field in FIELDS}
