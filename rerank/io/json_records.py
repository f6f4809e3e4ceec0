"""JSON objects from files, one a line or in one list, and what ids and texts must look like in any format.

Knows the names that different tools give to the same field. A fault is a `DataError` that names file and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rerank.errors import DataError, shorten
from rerank.io.text_files import open_text
from rerank.types import Document, Query

#: Names of the same field, in the order in which they are looked for. MS MARCO v2 passages have their own id in
#: ``pid`` and that of their page in ``docid``, so ``pid`` comes first.
DOC_IDS = ("id", "_id", "pid", "docid", "docno", "doc_id")
TEXTS = ("text", "segment", "contents", "content", "body", "passage")
QUERY_IDS = ("id", "_id", "qid", "query_id")
QUERY_TEXTS = ("text", "query", "question")

_Item = TypeVar("_Item", Document, Query)
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_NOT_IN_IDS = re.compile("[\\s\0\ufeff\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object and where it stood.

    Attributes:
        where: File and line (or number in the list), for messages.
        fields: The object.
    """

    where: str
    fields: Mapping[str, Any]

    def get(self, keys: Sequence[str]) -> Any:
        """The value under the first of these keys that is there and not null; None if there is none."""
        return next((self.fields[key] for key in keys if self.fields.get(key) is not None), None)

    def identifier(self, keys: Sequence[str], kind: str) -> str:
        """The id under one of these keys.

        Raises:
            DataError: There is none, or it cannot serve as one.
        """
        value = self.get(keys)
        if value is None:
            raise self._lacks(f"{kind} id", keys)
        return identifier(value, kind, self.where)

    def text(self, keys: Sequence[str]) -> str:
        """The text under one of these keys.

        Raises:
            DataError: There is none, or it is no text.
        """
        value = self.get(keys)
        if value is None:
            raise self._lacks("text", keys)
        return text(value, self.where)

    def document(self) -> Document:
        """The object as a document."""
        image = self.image()
        return Document(
            id=self.identifier(DOC_IDS, "document"),
            text=self.text(TEXTS) if not image or self.get(TEXTS) is not None else "",
            title=text(self.fields.get("title") or "", self.where),
            image=image,
        )

    def image(self) -> str:
        """The path under ``image``; empty if there is none."""
        return text(self.fields.get("image") or "", self.where)

    def query(self) -> Query:
        """The object as a query."""
        return Query(id=self.identifier(QUERY_IDS, "query"), text=self.text(QUERY_TEXTS))

    def _lacks(self, what: str, keys: Sequence[str]) -> DataError:
        return DataError(
            f"{self.where}: no {what} among the keys {', '.join(self.fields) or '(none)'}",
            expected=f"one of {', '.join(keys)}",
        )


def identifier(value: object, kind: str, where: str) -> str:
    """An id as text; whole numbers are written out.

    Raises:
        DataError: It is of another type, empty, or holds characters that no run file can.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: {kind} id {shorten(value)}", expected="text or a whole number")
    if not value or _NOT_IN_IDS.search(value):
        raise DataError(
            f"{where}: {kind} id {shorten(value)}",
            expected="one or more characters without white space, as run files need",
        )
    return value


def text(value: object, where: str) -> str:
    """A text; half a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD.

    Raises:
        DataError: It is no text.
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: {shorten(value)}", expected="a text")
    return value if value.isascii() else _HALF_PAIR.sub("\ufffd", value)


def once(found: Iterable[tuple[str, _Item]], kind: str) -> Iterator[_Item]:
    """Pass documents or queries on, and stop at an id that was there before. Holds the ids, not the texts.

    Args:
        found: Each with where it stood.
        kind: What they are, for the message.

    Raises:
        DataError: An id stands twice.
    """
    seen: set[str] = set()
    for where, item in found:
        if item.id in seen:
            raise DataError(f"{where}: {kind} {item.id!r} stands twice", expected="each id once")
        seen.add(item.id)
        yield item


def read_lines(path: Path) -> Iterator[Record]:
    """Stream the objects of a JSON-lines file; blank lines are skipped.

    Raises:
        MissingResourceError: No such file.
        DataError: It holds none, or a line is none.
    """
    found = False
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                found = True
                yield Record(f"{path}:{number}", _object(line, f"{path}:{number}"))
    if not found:
        raise DataError(f"{path} is empty", expected="at least one JSON object, one a line")


def read_documents(path: Path) -> Iterator[Document]:
    """Stream the documents of a JSON-lines file."""
    return once(((record.where, record.document()) for record in read_lines(path)), "document")


def read_queries(path: Path) -> list[Query]:
    """The queries of a JSON-lines file, in its order."""
    return list(once(((record.where, record.query()) for record in read_lines(path)), "query"))


def parse(line: str, where: str) -> Any:
    """Parse JSON, refusing a key that stands twice in one object.

    Raises:
        DataError: It is none.
    """
    try:
        return json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: this is no JSON ({error})", remedy="Repair or drop it") from error


def _object(line: str, where: str) -> Mapping[str, Any]:
    value = parse(line, where)
    if not isinstance(value, dict):
        raise DataError(f"{where}: {shorten(value)}", expected="a JSON object, one a line")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return made
