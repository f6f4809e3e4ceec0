"""Reading of topics in the classic TREC format (``<top>``), XML (``<topic>``), and MS MARCO's tab-separated lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError, UnknownNameError
from rerank.io.json_records import parse_json_id
from rerank.io.sgml import SgmlBlock, convert_sgml_to_plain_text, read_sgml_file_blocks
from rerank.io.smart_format import join_text_file_lines
from rerank.io.text_files import open_text_file

_IDS = ("number", "num", "id", "qid")
#: The three fields of a topic and their tags.
_ALIASES = {
    "title": ("title", "query"),
    "description": ("desc", "description", "question"),
    "narrative": ("narr", "narrative"),
}
_KNOWN = {*_IDS, *(tag for tags in _ALIASES.values() for tag in tags)}
#: Labels that the classic format repeats after a tag, as in ``<desc> Description:``.
_LABEL = re.compile(r"\s*(?:number|topic|description|narrative)\s*:", re.I)
_FIELD = re.compile(r"<(/?)([A-Za-z][\w.-]*)(?:\s[^<>]*)?>")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrecTopic:
    """A topic read from a file.

    Attributes:
        where: File and line, for messages.
        id: Number of the topic.
        fields: Mapping from lower-case tag to text, which has no line breaks.
    """

    where: str
    id: str
    fields: Mapping[str, str]

    def field(self, name: str) -> str:
        """Return the text of the field with this name or tag; empty if the field is missing."""
        return next((self.fields[tag] for tag in _ALIASES.get(name, (name,)) if self.fields.get(tag)), "")

    def text(self, names: Sequence[str]) -> str:
        """Return the concatenated texts of these fields, skipping missing ones."""
        parts = [part for name in names if (part := self.field(name))]
        if not parts:
            raise DataError(
                f"{self.where}: topic {self.id} has no {' or '.join(names)}",
                expected=f"a field of this topic: {', '.join(tag for tag, text in self.fields.items() if text)}",
            )
        return " ".join(parts)


def read_trec_format_topics(path: Path) -> list[TrecTopic]:
    """Read a file of topics; the format is detected from the first character."""
    with open_text_file(path) as stream:
        first = next((line.strip() for line in stream if line.strip()), "")
    if not first:
        raise DataError(f"{path} is empty", expected="at least one topic")
    if first.startswith("<"):
        return [_parse_trec_format_block(block) for block in read_sgml_file_blocks(path, ("top", "topic"))]
    return list(_read_trec_tsv_file(path))


def check_trec_format_fields(topics: Sequence[TrecTopic], names: Sequence[str]) -> None:
    """Check that every field occurs in at least one topic."""
    for name in names:
        if not any(topic.field(name) for topic in topics):
            tags = {tag for topic in topics for tag, text in topic.fields.items() if text}
            known = {next((field for field, alias in _ALIASES.items() if tag in alias), tag) for tag in tags}
            raise UnknownNameError("topic field", name, known)


def _read_trec_tsv_file(path: Path) -> Iterator[TrecTopic]:
    with open_text_file(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            query_id, tab, text = line.strip("\n").partition("\t")
            if not tab:
                raise DataError(f"{where}: {line.strip()[:60]!r} has no tab", expected="a query id, a tab and the text")
            yield TrecTopic(
                where=where,
                id=parse_json_id(query_id.strip(), "topic", where),
                fields={"title": join_text_file_lines(text)},
            )


def _parse_trec_format_block(block: SgmlBlock) -> TrecTopic:
    fields = {
        tag: join_text_file_lines(convert_sgml_to_plain_text(_LABEL.sub("", text, count=1)))
        for tag, text in _split_sgml_topic_fields(block.body).items()
    }
    number = block.attribute(_IDS) or next((fields[tag] for tag in _IDS if fields.get(tag)), "")
    if not number:
        raise DataError(f"{block.where}: the topic has no number", expected="<num>, <number> or an attribute number=")
    return TrecTopic(
        where=block.where,
        id=parse_json_id(number, "topic", block.where),
        fields={tag: text for tag, text in fields.items() if tag not in _IDS},
    )


def _split_sgml_topic_fields(body: str) -> dict[str, str]:
    """Split a topic into a mapping from lower-case tag to raw text; a field without a closing tag ends at the next tag.

    An unknown tag starts a field only at the start of a line; elsewhere, it is markup inside a text. If a topic has no
    fields, its whole text is the title.
    """
    fields: dict[str, str] = {}
    current, start = "", 0

    def close(end: int) -> None:
        if current and (text := body[start:end]).strip():
            fields[current] = f"{fields[current]} {text}" if current in fields else text

    for match in _FIELD.finditer(body):
        tag = match[2].lower()
        at_start = not body[: match.start()].rpartition("\n")[2].strip()
        if match[1] and tag == current:
            close(match.start())
            current = ""
        elif not match[1] and (tag in _KNOWN or at_start):
            close(match.start())
            current, start = tag, match.end()
    close(len(body))
    return fields or {"title": body}
