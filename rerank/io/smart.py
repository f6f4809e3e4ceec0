"""The SMART format of Cranfield and CISI: records that ``.I`` opens, fields that ``.W`` and other letters open.

Knows lines, records and fields, not what a collection makes of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError
from rerank.io.text_files import open_text

_RECORD = re.compile(r"\.I\s+(\d+)\s*")
#: Title, authors, source, text, cross references and the rest of the letters that the format uses.
_FIELD = re.compile(r"\.([TABWXKNC])\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmartRecord:
    """One record.

    Attributes:
        where: File and line, for messages.
        number: The number after ``.I``, leading zeros dropped.
        fields: Letter -> text. A letter opens a field once; such a line is text from then on.
    """

    where: str
    number: str
    fields: Mapping[str, str]


def read_records(path: Path) -> Iterator[SmartRecord]:
    """Stream the records of a file.

    Raises:
        MissingResourceError: No such file.
        DataError: It has no record, or something stands before the first one or before a record's first field.
    """
    found = False
    where, number, parts, letter = "", "", dict[str, list[str]](), ""
    with open_text(path) as stream:
        for count, line in enumerate(stream, 1):
            if opened := _RECORD.fullmatch(line):
                if found:
                    yield _record(where, number, parts)
                found, where, number, parts, letter = True, f"{path}:{count}", str(int(opened[1])), {}, ""
            elif found and (field := _FIELD.fullmatch(line)) and field[1] not in parts:
                letter = field[1]
                parts[letter] = []
            elif letter:
                parts[letter].append(line)
            elif line.strip():
                raise DataError(
                    f"{path}:{count}: {line.strip()[:60]!r} belongs to no field",
                    expected="a line .I NUMBER, then a field such as .W",
                )
    if not found:
        raise DataError(f"{path} has no records", expected="records that start with a line .I NUMBER")
    yield _record(where, number, parts)


def _record(where: str, number: str, parts: Mapping[str, list[str]]) -> SmartRecord:
    return SmartRecord(where=where, number=number, fields={k: tidy("".join(lines)) for k, lines in parts.items()})


def tidy(text: str) -> str:
    """The text without blank lines and with single spaces; its line breaks stay."""
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def one_line(text: str) -> str:
    """The text on one line with single spaces."""
    return " ".join(text.split())
