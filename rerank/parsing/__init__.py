"""A model's reply -> the order it gives. Total: every text has a result, and what was repaired is told.

Knows neither models nor prompts. Identifiers are the numbers ``1 .. count``; `mentions` is the only part that knows so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rerank.errors import UsageError
from rerank.parsing.clean import answer, plain
from rerank.parsing.labels import numbered
from rerank.parsing.reading import MENTIONED, Reading
from rerank.parsing.readings import read
from rerank.parsing.refusal import declines

__all__ = ["ParseStatus", "Parsed", "parse"]

#: ``ok``: the whole answer is a permutation in the asked form, ``[2] > [1] > [3]``, with nothing around it but white
#: space, thoughts and protocol marks. ``repaired``: complete after dropping repeats, foreign identifiers or text
#: around the ranking, or reading another form. ``partial``: some identifiers are missing. ``empty``: none is there.
#: ``refused``: none is there and the model declines.
ParseStatus = Literal["ok", "repaired", "partial", "empty", "refused"]

_ASKED = re.compile(r"\[\s?[0-9]+\s?\](?:\s*>\s*\[\s?[0-9]+\s?\])*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What a reply says about a list.

    Attributes:
        order: Positions (0-based), best first, as the reply said, without repeats.
        missing: The positions that it does not name, in their given order.
        repeated: Identifiers (1-based) that were said more than once.
        foreign: Numbers named as identifiers that are none, as said.
        status: How the reply is counted.
        detail: What was repaired, in words; empty if nothing.
    """

    order: tuple[int, ...]
    missing: tuple[int, ...]
    repeated: tuple[int, ...] = ()
    foreign: tuple[int, ...] = ()
    status: ParseStatus
    detail: str = ""

    @property
    def permutation(self) -> tuple[int, ...]:
        """All positions, best first: what was said, then the rest in their given order."""
        return self.order + self.missing

    def to_dict(self) -> dict[str, list[int] | str]:
        """What the command prints: numbers are 1-based.

        >>> parse("[2] > [1]", 3).to_dict()
        {'order': [2, 1], 'missing': [3], 'repeated': [], 'foreign': [], 'status': 'partial'}
        """
        return {
            "order": [position + 1 for position in self.order],
            "missing": [position + 1 for position in self.missing],
            "repeated": list(self.repeated),
            "foreign": list(self.foreign),
            "status": self.status,
        }


def parse(text: str, count: int, labels: Sequence[str] | None = None) -> Parsed:
    """Read the order out of a reply.

    Args:
        text: The reply, whatever it is.
        count: How many passages were asked about.
        labels: What they were called, if not 1, 2, ...

    Raises:
        UsageError: ``count`` is negative.

    >>> parse("Here is the ranking of the 3 passages: [2] > [1] > [3]", 3).order
    (1, 0, 2)
    """
    if count < 0:
        raise UsageError(f"{count} passages", expected="0 or more")
    said = answer(text)
    if labels is not None and not all(label.isdigit() for label in labels):
        said = numbered(said, labels)
    reading, cut = read(plain(said), count)
    if reading is not None and reading.strength == MENTIONED and "[" not in said and declines(said):
        reading = None  # "I cannot rank passages 1 to 3" names a passage, but ranks none
    numbers = reading.numbers if reading else ()
    order = tuple(dict.fromkeys(number - 1 for number in numbers if 1 <= number <= count))
    named = set(order)
    missing = tuple(position for position in range(count) if position not in named)
    repeated = _repeats([number for number in numbers if 1 <= number <= count])
    foreign = tuple(dict.fromkeys(number for number in numbers if not 1 <= number <= count))
    asked = not repeated and not foreign and _ASKED.fullmatch(said) is not None
    return Parsed(
        order=order,
        missing=missing,
        repeated=repeated,
        foreign=foreign,
        status=_status(said, order, missing, asked=asked or not (count or said)),
        detail="; ".join(_notes(reading, repeated, foreign, cut=cut, asked=asked)),
    )


def _status(said: str, order: Sequence[int], missing: Sequence[int], *, asked: bool) -> ParseStatus:
    if missing and not order:
        return "refused" if declines(said) else "empty"
    if missing:
        return "partial"
    return "ok" if asked else "repaired"


def _repeats(numbers: Sequence[int]) -> tuple[int, ...]:
    seen: set[int] = set()
    again: dict[int, None] = {}
    for number in numbers:
        if number in seen:
            again[number] = None
        seen.add(number)
    return tuple(again)


def _notes(
    reading: Reading | None, repeated: Sequence[int], foreign: Sequence[int], *, cut: bool, asked: bool
) -> list[str]:
    """What was repaired; missing identifiers show in `Parsed.missing`."""
    notes = []
    if reading and reading.form != "brackets" and not asked:
        notes.append(f"read from {reading.form}")
    elif reading and not (asked or repeated or foreign or cut):
        notes.append("passed over the text around the ranking")
    if repeated:
        notes.append(f"dropped repeats of {', '.join(map(str, repeated))}")
    if foreign:
        notes.append(f"dropped foreign identifiers {', '.join(map(str, foreign))}")
    if cut:
        notes.append("dropped an identifier that the end of the reply cut off")
    return notes
