"""Functions that stream SGML and XML elements from TREC's files, and extract their text.

XML parsers reject many of these files: most lack a root element, contain bare ampersands, or leave elements unclosed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError
from rerank.io.smart_format import tidy_text_file_lines
from rerank.io.text_files import open_text_file

_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.S)
_COMMENT = re.compile(r"<!--.*?-->", re.S)
# An attribute needs a "=", so that "x<y and z>w" in a text is not a tag.
_ATTRIBUTE = r"""\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+)"""
_TAG = re.compile(rf"</?[A-Za-z][\w:.-]*(?:{_ATTRIBUTE})*\s*/?>")


@dataclass(frozen=True, slots=True, kw_only=True)
class SgmlBlock:
    """An SGML or XML element of a file.

    Attributes:
        where: File and line of the opening tag, for messages.
        attributes: The text of the opening tag after the element's name.
        body: The raw content between the tags.
    """

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
                    raise _unpaired_sgml_file_tag_error(match[0], f"{path}:{number}", start)
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
    if is_empty:
        raise DataError(f"{path} contains no {shown}", expected=f"at least one element {shown}")


def _unpaired_sgml_file_tag_error(tag: str, where: str, start: int) -> DataError:
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
