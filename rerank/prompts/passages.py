"""Convert documents to passages for a prompt.

The form "Title: ... Content: ..." follows Liu et al. (ACL 2025, arXiv 2412.14574) and other descendants of RankGPT.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rerank.errors import DataError
from rerank.io.text_files import replace_lone_surrogates
from rerank.prompts.base import PICTURE, Prompt
from rerank.types import Document

#: Mark of a document's picture in a rendered prompt, which `replace_picture_marks` replaces.
_MARK = re.compile(f"{PICTURE}([0-9]+){PICTURE}")


def collapse_whitespace(text: str) -> str:
    r"""Replace runs of whitespace by one space, so that a passage is a single line, and lone surrogates by U+FFFD.

    >>> collapse_whitespace("  two \n lines\u2028")
    'two lines'
    """
    return replace_lone_surrogates(" ".join(text.split()))


def passage_text(doc: Document) -> str:
    """Return the passage of a document, before it is escaped and truncated.

    >>> passage_text(Document(id="1", title="Fleas", text="They live two months."))
    'Title: Fleas Content: They live two months.'
    """
    title, body = collapse_whitespace(doc.title), collapse_whitespace(doc.text)
    if doc.image and not title and not body:
        raise DataError(
            f"Document {doc.id!r} is a picture without text, but this prompt shows texts",
            expected="documents with text, or a prompt with 'shows: pictures'",
            remedy="Use --method pointwise-images or fullrank-images, with a vision-language model",
        )
    return f"Title: {title} Content: {body}" if title else body


def picture_marks(docs: Sequence[Document]) -> list[str]:
    """Return the marks that stand for the documents' pictures while a prompt is rendered."""
    for doc in docs:
        if not doc.image:
            raise DataError(
                f"Document {doc.id!r} has no picture, but this prompt shows pictures",
                expected="a collection of pictures",
                remedy="Use a method for texts, such as --method fullrank",
            )
    return [f"{PICTURE}{index}{PICTURE}" for index in range(len(docs))]


def replace_picture_marks(prompt: Prompt, docs: Sequence[Document]) -> Prompt:
    """Replace the marks in a rendered prompt by the documents' pictures."""
    indices = [[int(index) for index in _MARK.findall(message.content)] for message in prompt]
    shown = {index for of_turn in indices for index in of_turn}
    if shown != set(range(len(docs))):
        raise DataError(
            f"The prompt shows {len(shown)} of {len(docs)} pictures",
            expected="all pictures",
            remedy="Put {candidate} into the 'body' of the prompt",
        )
    return tuple(
        replace(message, content=_MARK.sub(PICTURE, message.content), images=tuple(docs[i].image for i in of_turn))
        for message, of_turn in zip(prompt, indices, strict=True)
    )
