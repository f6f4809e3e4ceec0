"""Blocks of SGML and XML as TREC hands them out: several in a file, often not well formed, read one at a time.

Knows tags, entities and line numbers; knows nothing of documents and topics. No XML parser takes these files, since
most have no root element, bare ampersands or fields that are never closed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError
from rerank.io.smart import tidy
from rerank.io.text_files import open_text

_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.S)
_COMMENT = re.compile(r"<!--.*?-->", re.S)
# An attribute needs its "=", so that "x<y and z>w" in a text is no tag.
_ATTRIBUTE = r"""\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+)"""
_TAG = re.compile(rf"</?[A-Za-z][\w:.-]*(?:{_ATTRIBUTE})*\s*/?>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One element of a file.

    Attributes:
        where: File and line of its opening tag, for messages.
        attributes: What stands in the opening tag after its name.
        body: Everything between its tags, as it stands.
    """

    where: str
    attributes: str
    body: str

    def attribute(self, names: Sequence[str]) -> str:
        """The value of the first of these attributes that is there, else empty; case plays no part."""
        for name in names:
            pattern = rf"""(?i:\b{name})\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'<>]+))"""
            if found := re.search(pattern, self.attributes):
                return html.unescape(next(group for group in found.groups() if group is not None)).strip()
        return ""


def read_blocks(path: Path, names: Sequence[str]) -> Iterator[Block]:
    """Stream the elements with these names; what stands between them (a prolog, a root element) is passed over.

    Raises:
        MissingResourceError: No such file.
        DataError: It has none of them, or one is opened inside another, not closed, or closed without being open.
    """
    edge = re.compile(rf"<(/?)(?:{'|'.join(names)})(\s[^<>]*)?>", re.I)
    shown = " or ".join(f"<{name.upper()}>" for name in names)
    start, attributes, parts, found = 0, "", list[str](), False
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            position = 0
            for match in edge.finditer(line):
                if bool(match[1]) != bool(start):
                    raise _unpaired(match[0], f"{path}:{number}", start)
                if start:
                    parts.append(line[position : match.start()])
                    yield Block(where=f"{path}:{start}", attributes=attributes, body="".join(parts))
                    start, found = 0, True
                else:
                    start, attributes, parts = number, match[2] or "", []
                position = match.end()
            if start:
                parts.append(line[position:])
    if start:
        raise DataError(f"{path}:{start}: what opens here is not closed before the file ends", expected="a closing tag")
    if not found:
        raise DataError(f"{path} has no {shown}", expected=f"text marked up with {shown}")


def _unpaired(tag: str, where: str, start: int) -> DataError:
    if start:
        return DataError(f"{where}: {tag} inside what opened in line {start}", expected="its closing tag first")
    return DataError(f"{where}: {tag} closes nothing", expected="an opening tag before it")


def element(body: str, names: Sequence[str]) -> str | None:
    """What stands in the first element called by one of these names, in the order of the names; None without any."""
    for name in names:
        if found := re.search(rf"<({name})(?:\s[^<>]*)?>(.*?)</\1\s*>", body, re.I | re.S):
            return found[2]
    return None


def elements(body: str, names: Sequence[str]) -> list[str]:
    """What stands in each of the elements with these names, in the order of the text; inner ones come with outer."""
    pattern = rf"<({'|'.join(names)})(?:\s[^<>]*)?>(.*?)</\1\s*>"
    return [found[2] for found in re.finditer(pattern, body, re.I | re.S)]


def without(body: str, names: Sequence[str]) -> str:
    """The text without these elements."""
    return re.sub(rf"<({'|'.join(names)})(?:\s[^<>]*)?>.*?</\1\s*>", " ", body, flags=re.I | re.S)


def plain(markup: str) -> str:
    """The words alone: comments and tags gone, entities turned into characters, white space tidied."""
    kept = _CDATA.sub(lambda found: html.escape(found[1]), markup)
    return tidy(html.unescape(_TAG.sub(" ", _COMMENT.sub(" ", kept))))
