"""Replacement of letter identifiers by the numbers that the parser reads."""

from __future__ import annotations

import re
from collections.abc import Sequence


def replace_labels(text: str, labels: Sequence[str]) -> str:
    """Replace each label in brackets, in a chain or on its own by its number in square brackets.

    Numbers in the text are not identifiers if labels are letters, so they are masked.

    >>> replace_labels("The order is [B] > [A], 2 of 2", ("A", "B"))
    'The order is [2] > [1], # of #'
    """
    numbers = {label: str(number) for number, label in enumerate(labels, start=1)}
    names = "|".join(sorted(map(re.escape, labels), key=len, reverse=True))
    masked = re.sub(r"\d+", "#", text)
    replaced = re.sub(rf"[\[(]\s*({names})\s*[\])]", lambda match: f"[{numbers[match[1]]}]", masked)
    if replaced != masked:
        return replaced
    # "B > A", "Passage B", or nothing but "B"; a capital A that starts a sentence is an article.
    mention = rf"(?:(?<=> )|(?<=>)|(?<=assage )|^)({names})(?=\s*(?:>|,|\.|:|$))"
    return re.sub(mention, lambda match: f"[{numbers[match[1]]}]", masked, flags=re.MULTILINE)
