"""A document -> the passage a model is shown. Knows what could be mistaken for an identifier; knows no template.

"Title: ... Content: ..." and round brackets for square ones are what Liu et al. (ACL 2025, arXiv 2412.14574) and
RankGPT's heirs feed their models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rerank.errors import DataError
from rerank.prompts.base import PICTURE, Prompt
from rerank.types import Document

#: The picture of a window's document in a prompt that is being rendered, until `with_pictures` puts it there.
_MARK = re.compile(f"{PICTURE}([0-9]+){PICTURE}")

#: Whatever the parser takes for a square bracket, and for a number: also full-width, raised and ringed ones.
_OPENING, _CLOSING, _ROUND = "[［【〔〖⟦", "]］】〕〗⟧", "()（）"
_BRACKET = re.compile(f"([{re.escape(_OPENING + _CLOSING + _ROUND)}])")
_NUMBER = re.compile(r"[\d⁰¹²³⁴-⁹₀-₉\u2460-\u249b\u24eb-\u24ff\u2776-\u2793\u3251-\u325f\u32b1-\u32bf]")


def escape_brackets(text: str) -> str:
    """Write square brackets with a number in them as round ones, so that nothing in them looks like an identifier.

    Words beside the number make no difference, as "[Passage 3]" is an identifier too. Brackets that miss their other
    half are rewritten where a reader would add it: before the end of the text, before another opening bracket, and
    behind a number that the text begins with. Doing it twice changes nothing more, and lengths stay.

    >>> escape_brackets("as shown in [12] and [Passage 3], see a[i]")
    'as shown in (12) and (Passage 3), see a[i]'
    """
    parts = _BRACKET.split(text)  # text, bracket, text, bracket, ..., text
    last = len(parts) - 1
    for at in range(0, last + 1, 2):
        before, behind = parts[at - 1] if at else "", parts[at + 1] if at < last else ""
        if not _NUMBER.search(parts[at]) or (behind != "" and behind in _ROUND):
            continue
        opened = before != "" and before in _OPENING
        if opened:
            parts[at - 1] = "("
        if behind != "" and behind in _CLOSING and (opened or not before):
            parts[at + 1] = ")"
    return "".join(parts)


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

    Raises:
        DataError: It is a picture without a word.
    """
    title, body = one_line(doc.title), one_line(doc.text)
    if doc.image and not title and not body:
        raise DataError(
            f"Document {doc.id!r} is a picture without text, and this prompt shows texts",
            expected="documents with text, or a prompt with 'shows: pictures'",
            remedy="Use --method pointwise-images or fullrank-images, with a model that sees pictures",
        )
    text = f"Title: {title} Content: {body}" if title else body
    return escape_brackets(text) if escape else text


def picture_marks(docs: Sequence[Document]) -> list[str]:
    """What stands for the documents' pictures where a prompt is rendered.

    Raises:
        DataError: A document has none.
    """
    for doc in docs:
        if not doc.image:
            raise DataError(
                f"Document {doc.id!r} has no picture, and this prompt shows pictures",
                expected="a collection of pictures",
                remedy="Use a method for texts, such as --method fullrank",
            )
    return [f"{PICTURE}{at}{PICTURE}" for at in range(len(docs))]


def with_pictures(prompt: Prompt, docs: Sequence[Document]) -> Prompt:
    """A rendered prompt with the documents' pictures in place of their marks.

    Raises:
        DataError: It does not show all of them.
    """
    shown = [[int(at) for at in _MARK.findall(message.content)] for message in prompt]
    if {at for found in shown for at in found} != set(range(len(docs))):
        raise DataError(
            f"The prompt shows {len({at for found in shown for at in found})} of {len(docs)} pictures",
            expected="all of them",
            remedy="Put {candidate} into the 'body' of the prompt",
        )
    return tuple(
        replace(message, content=_MARK.sub(PICTURE, message.content), images=tuple(docs[at].image for at in found))
        for message, found in zip(prompt, shown, strict=True)
    )
