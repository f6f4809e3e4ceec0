"""Identifiers that are letters -> the numbers that the parser reads. Knows labels; knows nothing of orders."""

from __future__ import annotations

import re
from collections.abc import Sequence


def numbered(text: str, labels: Sequence[str]) -> str:
    """Write every label that stands in brackets, or in a chain, or alone, as its number in square brackets.

    Numbers that the text holds itself name nothing where labels are letters, so they become words.

    >>> numbered("The order is [B] > [A], 2 of 2", ("A", "B"))
    'The order is [2] > [1], # of #'
    """
    places = {label: str(at) for at, label in enumerate(labels, start=1)}
    names = "|".join(sorted(map(re.escape, labels), key=len, reverse=True))
    bare = re.sub(r"\d+", "#", text)
    marked = re.sub(rf"[\[(]\s*({names})\s*[\])]", lambda match: f"[{places[match[1]]}]", bare)
    if marked != bare:
        return marked
    # "B > A", "Passage B", or nothing but "B"; a capital A that begins a sentence is an article
    mention = rf"(?:(?<=> )|(?<=>)|(?<=assage )|^)({names})(?=\s*(?:>|,|\.|:|$))"
    return re.sub(mention, lambda match: f"[{places[match[1]]}]", bare, flags=re.MULTILINE)
