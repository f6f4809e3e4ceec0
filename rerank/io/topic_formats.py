"""Readers of topics and documents in old text formats: SMART (Cranfield and CISI), TREC's SGML, and topic files.

XML parsers reject many of TREC's files: most lack a root element, contain bare ampersands, or leave elements unclosed.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError, UnknownNameError, ensure
from rerank.io.json_records import parse_json_id
from rerank.io.text_files import open_text_file

_RECORD = re.compile(r"\.I\s+(\d{1,18})\s*")
#: The start of a field: T (title), A (authors), B (source), W (text), X (cross references) or another letter.
_SMART_FIELD = re.compile(r"\.([TABWXKNC])\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmartRecord:
    """A record of a file in the SMART format."""

    where: str
    number: str  #: The number after ``.I``, without leading zeros.
    #: Mapping from the letter of a field to its text. Only the first line with a letter starts a field; later lines
    #: with the same letter are text.
    fields: Mapping[str, str]


def read_smart_format_file(path: Path) -> Iterator[SmartRecord]:
    """Yield the records of a file in the SMART format."""
    in_record = False
    where, number, parts, letter = "", "", dict[str, list[str]](), ""
    with open_text_file(path) as stream:
        for count, line in enumerate(stream, 1):
            if opened := _RECORD.fullmatch(line):
                if in_record:
                    yield _make_record(where, number, parts)
                in_record, where, number, parts, letter = True, f"{path}:{count}", str(int(opened[1])), {}, ""
            elif in_record and (field := _SMART_FIELD.fullmatch(line)) and field[1] not in parts:
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
    yield _make_record(where, number, parts)


def _make_record(where: str, number: str, parts: Mapping[str, list[str]]) -> SmartRecord:
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


_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.S)
_COMMENT = re.compile(r"<!--.*?-->", re.S)
# An attribute needs a "=", so that "x<y and z>w" in a text is not a tag.
_ATTRIBUTE = r"""\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+)"""
_TAG = re.compile(rf"</?[A-Za-z][\w:.-]*(?:{_ATTRIBUTE})*\s*/?>")


@dataclass(frozen=True, slots=True, kw_only=True)
class SgmlBlock:
    """An SGML or XML element of a file."""

    where: str
    attributes: str
    body: str

    def attribute(self, names: Sequence[str]) -> str:
        """Return the value of the first of these attributes (ignoring case) that is present; empty if none is."""
        for name in names:
            pattern = rf"""(?i:\b{name})\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'<>]+))"""
            if match := re.search(pattern, self.attributes):
                return html.unescape(next(group for group in match.groups() if group is not None)).strip()
        return ""


def read_sgml_file_blocks(path: Path, names: Sequence[str]) -> Iterator[SgmlBlock]:
    """Yield the elements with these names; everything between them, such as a prolog or a root element, is skipped."""
    edge = re.compile(rf"<(/?)(?:{'|'.join(names)})(\s[^<>]*)?>", re.I)
    shown = " or ".join(f"<{name.upper()}>" for name in names)
    start, attributes, parts, is_empty = 0, "", list[str](), True
    with open_text_file(path) as stream:
        for number, line in enumerate(stream, 1):
            position = 0
            for match in edge.finditer(line):
                if bool(match[1]) != bool(start):
                    raise _unpaired_tag_error(match[0], f"{path}:{number}", start)
                if start:
                    parts.append(line[position : match.start()])
                    yield SgmlBlock(where=f"{path}:{start}", attributes=attributes, body="".join(parts))
                    start, is_empty = 0, False
                else:
                    start, attributes, parts = number, match[2] or "", []
                position = match.end()
            if start:
                parts.append(line[position:])
    if start:
        raise DataError(f"{path}:{start}: the element that starts here is not closed", expected="a closing tag")
    ensure(not is_empty, f"{path} contains no {shown}", expected=f"at least one element {shown}", error=DataError)


def _unpaired_tag_error(tag: str, where: str, start: int) -> DataError:
    if start:
        return DataError(
            f"{where}: {tag} is inside the element that starts in line {start}", expected="a closing tag first"
        )
    return DataError(f"{where}: {tag} has no opening tag", expected="an opening tag before it")


def find_element_in_sgml_text(body: str, names: Sequence[str]) -> str | None:
    """Return the content of the first element with one of these names, tried in order; None if no name occurs."""
    for name in names:
        if match := re.search(rf"<({name})(?:\s[^<>]*)?>(.*?)</\1\s*>", body, re.I | re.S):
            return match[2]
    return None


def find_elements_in_sgml_text(body: str, names: Sequence[str]) -> list[str]:
    """Return the contents of the outermost elements with these names, in text order."""
    pattern = rf"<({'|'.join(names)})(?:\s[^<>]*)?>(.*?)</\1\s*>"
    return [match[2] for match in re.finditer(pattern, body, re.I | re.S)]


def remove_elements_from_sgml_text(body: str, names: Sequence[str]) -> str:
    """Return the text without the elements with these names."""
    return re.sub(rf"<({'|'.join(names)})(?:\s[^<>]*)?>.*?</\1\s*>", " ", body, flags=re.I | re.S)


def convert_sgml_to_plain_text(markup: str) -> str:
    """Convert markup to text: remove comments and tags, decode entities, and normalize whitespace."""
    escaped = _CDATA.sub(lambda match: html.escape(match[1]), markup)
    return tidy_text_file_lines(html.unescape(_TAG.sub(" ", _COMMENT.sub(" ", escaped))))


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
    """A topic read from a file."""

    where: str
    id: str
    fields: Mapping[str, str]  #: Mapping from lower-case tag to text, which has no line breaks.

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
    ensure(first, f"{path} is empty", expected="at least one topic", error=DataError)
    if first.startswith("<"):
        return [_parse_block(block) for block in read_sgml_file_blocks(path, ("top", "topic"))]
    return list(_read_tsv(path))


def check_trec_format_fields(topics: Sequence[TrecTopic], names: Sequence[str]) -> None:
    """Check that every field occurs in at least one topic."""
    for name in names:
        if not any(topic.field(name) for topic in topics):
            tags = {tag for topic in topics for tag, text in topic.fields.items() if text}
            known = {next((field for field, alias in _ALIASES.items() if tag in alias), tag) for tag in tags}
            raise UnknownNameError("topic field", name, known)


def _read_tsv(path: Path) -> Iterator[TrecTopic]:
    """Yield the topics of a file with an id, a tab and a text per line; ids are checked as those of JSON are."""
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


def _parse_block(block: SgmlBlock) -> TrecTopic:
    fields = {
        tag: join_text_file_lines(convert_sgml_to_plain_text(_LABEL.sub("", text, count=1)))
        for tag, text in _split_fields(block.body).items()
    }
    number = block.attribute(_IDS) or next((fields[tag] for tag in _IDS if fields.get(tag)), "")
    if not number:
        raise DataError(f"{block.where}: the topic has no number", expected="<num>, <number> or an attribute number=")
    return TrecTopic(
        where=block.where,
        id=parse_json_id(number, "topic", block.where),
        fields={tag: text for tag, text in fields.items() if tag not in _IDS},
    )


def _split_fields(body: str) -> dict[str, str]:
    """Split a topic into raw texts by lower-case tag; a field without a closing tag ends at the next tag.

    An unknown tag starts a field only at the start of a line; elsewhere, it is markup. A topic without fields is a
    title.
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
