"""A parser of the SMART format of Cranfield and CISI, in which records start with ``.I`` and fields with ``.W`` etc."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError
from rerank.io.text_files import open_text_file

_RECORD = re.compile(r"\.I\s+(\d{1,18})\s*")
#: The start of a field: T (title), A (authors), B (source), W (text), X (cross references) or another letter.
_FIELD = re.compile(r"\.([TABWXKNC])\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmartRecord:
    """A record of a file in the SMART format.

    Attributes:
        where: File and line, for messages.
        number: The number after ``.I``, without leading zeros.
        fields: Mapping from the letter of a field to its text. Only the first line with a letter starts a field; later
            lines with the same letter are text.
    """

    where: str
    number: str
    fields: Mapping[str, str]


def read_smart_format_file(path: Path) -> Iterator[SmartRecord]:
    """Yield the records of a file in the SMART format."""
    in_record = False
    where, number, parts, letter = "", "", dict[str, list[str]](), ""
    with open_text_file(path) as stream:
        for count, line in enumerate(stream, 1):
            if opened := _RECORD.fullmatch(line):
                if in_record:
                    yield _parse_smart_format_record(where, number, parts)
                in_record, where, number, parts, letter = True, f"{path}:{count}", str(int(opened[1])), {}, ""
            elif in_record and (field := _FIELD.fullmatch(line)) and field[1] not in parts:
                letter = field[1]
                parts[letter] = []
            elif letter:
                parts[letter].append(line)
            elif line.strip():
                raise DataError(
                    f"{path}:{count}: {line.strip()[:60]!r} is not part of a field",
                    expected="a line .I NUMBER, then a field such as .W",
                )
    if not in_record:
        raise DataError(f"{path} contains no records", expected="records that start with a line .I NUMBER")
    yield _parse_smart_format_record(where, number, parts)


def _parse_smart_format_record(where: str, number: str, parts: Mapping[str, list[str]]) -> SmartRecord:
    return SmartRecord(
        where=where, number=number, fields={k: tidy_text_file_lines("".join(lines)) for k, lines in parts.items()}
    )


def tidy_text_file_lines(text: str) -> str:
    """Return the text without blank lines and with single spaces; other line breaks are kept."""
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def join_text_file_lines(text: str) -> str:
    """Return the text as one line, with single spaces."""
    return " ".join(text.split())
