"""A model's reply -> the grade it gives. Total: any text has a reading, and no grade is made up.

Knows text, neither models nor files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: What names the scale and gives no grade: "0 to 3", "0-3", "0, 1, 2 or 3", "0 = unrelated", the 3 of "2/3".
_SCALE = re.compile(
    r"\b\d+[ \t]*(?:-|–|—|to|\.\.+)[ \t]*\d+|\b\d+(?:,[ \t]*\d+)+,?[ \t]*(?:or|and)[ \t]*\d+"
    r"|(?:\bout[ \t]+of|/)[ \t]*\d+|\b\d+[ \t]*=[ \t]*[a-z]"
)
#: A reply that begins with a number, as it was asked to.
_FIRST = re.compile(r"[\s*_\"'(\[{]*(?P<number>\d+(?:\.\d+)?)(?![\w%]|[.,]\d)")
#: A number that is called a grade: "Grade: 2", '"grade": "2"', "**Final score** = 2", "a relevance of 2".
_CALLED = re.compile(
    r"(?<![a-z])(?:grade[ds]?|scored?|rating|rated|label|relevance|judge?ment)(?![a-z])"
    r"(?:[^\w+-]|_){0,6}(?:(?:is|of|as|at|(?:sh|w)ould be)(?![a-z]))?(?:[^\w+-]|_){0,6}"
    r"(?P<number>[+-]?\d+(?:\.\d+)?)(?![\w%])",
    re.I,
)
_NUMBER = re.compile(r"(?<![\w.,+-])(?P<number>\d+(?:\.\d+)?)(?![\w%]|[.,]\d)")


def grade_in(reply: str, grades: Sequence[int]) -> int | None:
    """The grade that a reply gives; None if it gives none.

    A number that is called a grade, score or the like is believed, the first where there are several; if it is not on
    the scale, the reply has no grade. Without one, it is the number that the reply begins with; else the number on the
    scale, if all that there are agree. Numbers that only name the scale or explain it do not count.

    Args:
        reply: What the model wrote, without its thoughts.
        grades: The scale.

    >>> grade_in('On a scale from 0 to 3: {"grade": 2}', (0, 1, 2, 3))
    2
    """
    text = _SCALE.sub(" ", reply)
    if (called := _CALLED.search(text)) is not None:
        return _on(grades, called["number"])
    if (first := _FIRST.match(text)) is not None and (grade := _on(grades, first["number"])) is not None:
        return grade
    found = {_on(grades, number["number"]) for number in _NUMBER.finditer(text)} - {None}
    return found.pop() if len(found) == 1 else None


def _on(grades: Sequence[int], number: str) -> int | None:
    value = float(number)
    return int(value) if value in grades else None
