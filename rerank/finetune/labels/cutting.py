"""Queries that are cut out of documents: a title, a first sentence, and what the document is without it.

What makes a query is cut from **every** document, not from the query's own alone: else the one that lacks it would be
known by its form. Knows documents, neither collections nor models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from rerank.prompts.passages import one_line
from rerank.types import Document

_WORD = re.compile(r"\w+")
#: The end of a sentence, and what may close behind it.
_END = re.compile(r"[.!?]+[\"')\]”’]*(?=\s|$)|[。！？]+[」』”’）]*")

#: A document -> the query that it gives (empty if none), and the document without it.
Cut = Callable[[Document], tuple[str, Document]]


def cut_title(doc: Document) -> tuple[str, Document]:
    """The title as a query, and the document without it; a body that begins with the title loses that too.

    >>> query, left = cut_title(Document(id="1", title="On Fleas", text="On fleas. They live for months."))
    >>> query, left.title, left.text
    ('On Fleas', '', 'They live for months.')
    """
    return one_line(doc.title), replace(doc, title="", text=_behind(doc.text, doc.title))


def cut_first_sentence(doc: Document) -> tuple[str, Document]:
    """The body's first sentence as a query, and the document without it; the title stays.

    >>> query, left = cut_first_sentence(Document(id="1", text="What are fleas? They live for months."))
    >>> query, left.text
    ('What are fleas?', 'They live for months.')
    """
    end = _END.search(doc.text)
    if end is None:
        return one_line(doc.text), replace(doc, text="")
    return one_line(doc.text[: end.end()]), replace(doc, text=doc.text[end.end() :].strip())


def cut_nothing(doc: Document) -> tuple[str, Document]:
    """No query, and the document as it is: for queries that are written by a model."""
    return "", doc


CUTS: Mapping[str, Cut] = {"title": cut_title, "first-sentence": cut_first_sentence, "llm": cut_nothing}


def _behind(body: str, title: str) -> str:
    """A body without the title that it begins with, whatever its case and punctuation."""
    wanted = [word.casefold() for word in _WORD.findall(title)]
    words = list(_WORD.finditer(body))[: len(wanted)] if wanted else []
    if not words or [word[0].casefold() for word in words] != wanted:
        return body.strip()
    return body[words[-1].end() :].lstrip(" \t\r\n.,:;!?-–—)\"'").rstrip()
