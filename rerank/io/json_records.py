"""Readers of JSON objects with the field names of various tools, and rules for ids and texts in any file format."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rerank.errors import DataError, error_repr
from rerank.io.text_files import open_text_file, replace_lone_surrogates
from rerank.types import Document, Query

#: In this and the next three constants: alternative names of one field, in order of precedence. MS MARCO v2 passages
#: have their own id in ``pid`` and the id of their page in ``docid``, so ``pid`` comes first.
DOC_IDS = ("id", "_id", "pid", "docid", "docno", "doc_id")
TEXTS = ("text", "segment", "contents", "content", "body", "passage")
QUERY_IDS = ("id", "_id", "qid", "query_id")
QUERY_TEXTS = ("text", "query", "question")

_Item = TypeVar("_Item", Document, Query)
_NOT_IN_IDS = re.compile("[ \\t-\\r\\0\ufeff\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class JsonRecord:
    """A JSON object from a file, with methods that read ids and texts under any of several keys."""

    where: str
    fields: Mapping[str, Any]

    def get(self, keys: Sequence[str]) -> Any:
        """Return the value of the first of these keys that is present and not null; None if there is no such key."""
        return next((self.fields[key] for key in keys if self.fields.get(key) is not None), None)

    def identifier(self, keys: Sequence[str], kind: str) -> str:
        """Return the id stored under the first of these keys that is present and not null."""
        value = self.get(keys)
        if value is None:
            raise self._missing(f"{kind} id", keys)
        return parse_json_id(value, kind, self.where)

    def text(self, keys: Sequence[str]) -> str:
        """Return the text stored under the first of these keys that is present and not null."""
        value = self.get(keys)
        if value is None:
            raise self._missing("text", keys)
        return parse_json_text(value, self.where)

    def document(self) -> Document:
        """Return the object as a document."""
        return Document(
            id=self.identifier(DOC_IDS, "document"),
            text=self.body(),
            title=parse_json_text(self.fields.get("title") or "", self.where),
            image=self.image(),
        )

    def body(self) -> str:
        """Return the text of the document; it may be missing, and is then empty, if there is an image."""
        return self.text(TEXTS) if not self.image() or self.get(TEXTS) is not None else ""

    def image(self) -> str:
        """Return the path stored under ``image``; empty if it is missing or null."""
        return parse_json_text(self.fields.get("image") or "", self.where)

    def query(self) -> Query:
        """Return the object as a query."""
        return Query(id=self.identifier(QUERY_IDS, "query"), text=self.text(QUERY_TEXTS))

    def _missing(self, what: str, keys: Sequence[str]) -> DataError:
        return DataError(
            f"{self.where}: there is no {what} among the keys {', '.join(self.fields) or '(none)'}",
            expected=f"one of {', '.join(keys)}",
        )


def parse_json_id(value: object, kind: str, where: str) -> str:
    """Return an id as a string; whole numbers are converted."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: the {kind} id is {error_repr(value)}", expected="a string or a whole number")
    if not value or _NOT_IN_IDS.search(value):
        raise DataError(
            f"{where}: the {kind} id is {error_repr(value)}",
            expected="one or more characters without ASCII whitespace, as in run files",
        )
    return value


def parse_json_text(value: object, where: str) -> str:
    """Return a text in which lone surrogates, which UTF-8 cannot encode, are replaced by U+FFFD."""
    if not isinstance(value, str):
        raise DataError(f"{where}: the value is {error_repr(value)}", expected="a string")
    return replace_lone_surrogates(value)


def check_unique_ids(items: Iterable[tuple[str, _Item]], kind: str) -> Iterator[_Item]:
    """Yield documents or queries (``kind``), given with their positions in a file, after checking their ids."""
    seen: set[str] = set()
    for where, item in items:
        if item.id in seen:
            raise DataError(f"{where}: duplicate {kind} {item.id!r}", expected="each id once")
        seen.add(item.id)
        yield item


def read_json_lines(path: Path) -> Iterator[JsonRecord]:
    """Yield the objects of a JSON-lines file; blank lines are skipped."""
    is_empty = True
    with open_text_file(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                is_empty, where = False, f"{path}:{number}"
                value = parse_json(line, where)
                if not isinstance(value, dict):
                    raise DataError(
                        f"{where}: the line contains {error_repr(value)}", expected="one JSON object per line"
                    )
                yield JsonRecord(where, value)
    if is_empty:
        raise DataError(f"{path} is empty", expected="JSON lines, with at least one object")


def read_json_lines_file_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a JSON-lines file, after checking that their ids are unique."""
    return check_unique_ids(((record.where, record.document()) for record in read_json_lines(path)), "document")


def read_json_lines_query_file(path: Path) -> list[Query]:
    """Return the queries of a JSON-lines file in file order, after checking that their ids are unique."""
    return list(check_unique_ids(((record.where, record.query()) for record in read_json_lines(path)), "query"))


def parse_json(line: str, where: str) -> Any:
    """Parse JSON, and reject objects with duplicate keys."""
    try:
        return json.loads(line, object_pairs_hook=_reject_duplicate_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: invalid JSON ({error})", remedy="Repair or remove the invalid text") from error


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return fields
