"""A document -> the passage a model is shown. Knows what could be mistaken for an identifier; knows no template.

"Title: ... Content: ..." and round brackets for square ones are what Liu et al. (ACL 2025, arXiv 2412.14574) and
RankGPT's heirs feed their models.
"""

from __future__ import annotations

import re

from rerank.types import Document

#: A number, a list or a range of numbers in brackets, ASCII or full-width: [12], [1, 2], [3-5], 【7】.
_BRACKETED = re.compile(r"[\[［【〔]([\s,;，、–-]*\d[\d\s,;，、–-]*)[\]］】〕]")


def escape_brackets(text: str) -> str:
    """Write numbers in square brackets with round ones, so that they cannot be taken for identifiers.

    Doing it twice changes nothing more.

    >>> escape_brackets("as shown in [12] and [3, 4], see a[i]")
    'as shown in (12) and (3, 4), see a[i]'
    """
    return _BRACKETED.sub(r"(\1)", text)


def one_line(text: str) -> str:
    r"""White space of any kind and length becomes one space, so that a passage stays on its line.

    >>> one_line("  two \n lines\u2028")
    'two lines'
    """
    return " ".join(text.split())


def passage_text(doc: Document, *, escape: bool = True) -> str:
    """What a model is shown of a document, before any cut.

    Args:
        doc: The document.
        escape: Whether bracketed numbers are rewritten.

    >>> passage_text(Document(id="1", title="Fleas", text="They live [2] months."))
    'Title: Fleas Content: They live (2) months.'
    """
    title, body = one_line(doc.title), one_line(doc.text)
    text = f"Title: {title} Content: {body}" if title else body
    return escape_brackets(text) if escape else text
