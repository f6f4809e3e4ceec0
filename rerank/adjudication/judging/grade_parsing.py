"""Parser for grades in generated text. It accepts any text, but returns a grade only if the text clearly has one."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Numbers that describe the scale and are not grades: "0 to 3", "0-3", "0, 1, 2 or 3", "0 = unrelated", the 3 in "2/3".
_SCALE = re.compile(
    r"\b\d+[ \t]*(?:-|–|—|to|\.\.+)[ \t]*\d+|\b\d+(?:,[ \t]*\d+)+,?[ \t]*(?:or|and)[ \t]*\d+"
    r"|(?:\bout[ \t]+of|/)[ \t]*\d+|\b\d+[ \t]*=[ \t]*[a-z]"
)
#: A number at the start of the reply, where the prompt asks the model to write the grade.
_FIRST = re.compile(r"[\s*_\"'(\[{]*(?P<number>\d+(?:\.\d+)?)(?![\w%]|[.,]\d)")
#: A number labelled as a grade: "Grade: 2", '"grade": "2"', "**Final score** = 2", "a relevance of 2".
_LABELLED = re.compile(
    r"(?<![a-z])(?:grade[ds]?|scored?|rating|rated|label|relevance|judge?ment)(?![a-z])"
    r"(?:[^\w+-]|_){0,6}(?:(?:is|of|as|at|(?:sh|w)ould be)(?![a-z]))?(?:[^\w+-]|_){0,6}"
    r"(?P<number>[+-]?\d+(?:\.\d+)?)(?![\w%])",
    re.I,
)
#: Numbers of the items of a list.
_ITEM = re.compile(r"^[ \t]*\d+[.)][ \t]+(?=\S)", re.M)
_NUMBER = re.compile(r"(?<![\w.,+-])(?P<number>\d+(?:\.\d+)?)(?![\w%]|[.,]\d)")


def parse_judged_grade(reply: str, grades: Sequence[int]) -> int | None:
    """Return the grade in a reply; None if the reply contains no grade.

    The grade is the last number that is labelled as the final score or, without such a label, the first number that is
    labelled as a grade, score or similar. If this number is not on the scale, the reply contains no grade. If no number
    is labelled, the grade is the number at the start of the reply. If that number is missing or not on the scale, the
    grade is the only number in the reply that is on the scale. Numbers that describe the scale and numbers of list
    items are ignored.

    Args:
        reply: Generated text without reasoning.
        grades: All grades of the scale.

    >>> parse_judged_grade('On a scale from 0 to 3: {"grade": 2}', (0, 1, 2, 3))
    2
    """
    text = _SCALE.sub(" ", reply)
    if len(_ITEM.findall(text)) > 1:
        text = _ITEM.sub("", text)
    if labelled := list(_LABELLED.finditer(text)):
        # UMBRELA's prompt asks for "##final score: 2", which may follow other scores
        final = [match for match in labelled if text[: match.start()].rstrip(" _").lower().endswith("final")]
        return _assessor_grade_on_scale(grades, (final[-1] if final else labelled[0])["number"])
    if (first := _FIRST.match(text)) is not None and (
        grade := _assessor_grade_on_scale(grades, first["number"])
    ) is not None:
        return grade
    candidates = {_assessor_grade_on_scale(grades, match["number"]) for match in _NUMBER.finditer(text)} - {None}
    return candidates.pop() if len(candidates) == 1 else None


def _assessor_grade_on_scale(grades: Sequence[int], number: str) -> int | None:
    """Convert a number to a grade; None if it is not on the scale."""
    value = float(number)
    return int(value) if value in grades else None
