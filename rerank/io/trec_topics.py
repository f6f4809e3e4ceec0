"""TREC topics: the classic form with ``<top>``, XML with ``<topic>``, and tab-separated lines as MS MARCO has them.

Knows the fields of a topic by their names in all of these forms; which of them make a query is the caller's choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError, UnknownNameError
from rerank.io.json_records import identifier
from rerank.io.sgml import Block, plain, read_blocks
from rerank.io.smart import one_line
from rerank.io.text_files import open_text

_IDS = ("number", "num", "id", "qid")
#: The three fields of a topic and the tags that carry them.
_ALIASES = {
    "title": ("title", "query"),
    "description": ("desc", "description", "question"),
    "narrative": ("narr", "narrative"),
}
_KNOWN = {*_IDS, *(tag for tags in _ALIASES.values() for tag in tags)}
#: Words that the classic form repeats after a tag, as in ``<desc> Description:``.
_LABEL = re.compile(r"\s*(?:number|topic|description|narrative)\s*:", re.I)
_FIELD = re.compile(r"<(/?)([A-Za-z][\w.-]*)(?:\s[^<>]*)?>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic.

    Attributes:
        where: File and line, for messages.
        id: Its number, as text.
        fields: Tag (small letters) -> text on one line.
    """

    where: str
    id: str
    fields: Mapping[str, str]

    def field(self, name: str) -> str:
        """The text of a field by its name, or by one of its tags; empty if there is none."""
        return next((self.fields[tag] for tag in _ALIASES.get(name, (name,)) if self.fields.get(tag)), "")

    def text(self, names: Sequence[str]) -> str:
        """The texts of these fields, one after the other; those that this topic lacks are left out.

        Raises:
            DataError: It lacks all of them.
        """
        parts = [part for name in names if (part := self.field(name))]
        if not parts:
            raise DataError(
                f"{self.where}: topic {self.id} has no {' or '.join(names)}",
                expected=f"one of the fields it has: {', '.join(tag for tag, text in self.fields.items() if text)}",
            )
        return " ".join(parts)


def read_topics(path: Path) -> list[Topic]:
    """Read a file of topics; which form it has is told from its first character.

    Raises:
        MissingResourceError: No such file.
        DataError: It is empty, or a topic has no number.
    """
    with open_text(path) as stream:
        first = next((line.strip() for line in stream if line.strip()), "")
    if not first:
        raise DataError(f"{path} is empty", expected="topics")
    if first.startswith("<"):
        return [_topic(block) for block in read_blocks(path, ("top", "topic"))]
    return list(_tabbed(path))


def check_fields(topics: Sequence[Topic], names: Sequence[str]) -> None:
    """Refuse a field that no topic has.

    Raises:
        UnknownNameError: There is one.
    """
    for name in names:
        if not any(topic.field(name) for topic in topics):
            tags = {tag for topic in topics for tag, text in topic.fields.items() if text}
            known = {next((field for field, alias in _ALIASES.items() if tag in alias), tag) for tag in tags}
            raise UnknownNameError("topic field", name, known)


def _tabbed(path: Path) -> Iterator[Topic]:
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            query_id, tab, text = line.strip("\n").partition("\t")
            if not tab:
                raise DataError(f"{where}: {line.strip()[:60]!r} has no tab", expected="a query id, a tab and the text")
            yield Topic(where=where, id=identifier(query_id.strip(), "topic", where), fields={"title": one_line(text)})


def _topic(block: Block) -> Topic:
    fields = {tag: one_line(plain(_LABEL.sub("", text, count=1))) for tag, text in _fields(block.body).items()}
    number = block.attribute(_IDS) or next((fields[tag] for tag in _IDS if fields.get(tag)), "")
    if not number:
        raise DataError(f"{block.where}: a topic without a number", expected="<num>, <number> or an attribute number=")
    return Topic(
        where=block.where,
        id=identifier(number, "topic", block.where),
        fields={tag: text for tag, text in fields.items() if tag not in _IDS},
    )


def _fields(body: str) -> dict[str, str]:
    """Split a topic at its tags. Fields may lack their closing tag, so that the next one ends them.

    A tag that is none of the usual ones counts only at the start of a line; elsewhere it is markup inside a text.
    A topic without any field is all title.
    """
    found: dict[str, str] = {}
    current, start = "", 0

    def close(end: int) -> None:
        if current and (text := body[start:end]).strip():
            found[current] = f"{found[current]} {text}" if current in found else text

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
    return found or {"title": body}
