"""Parse model replies into rankings of passages. Any text can be parsed; the result reports what was repaired.

Identifiers are the numbers ``1 .. count``. If the prompt uses letters, they are first replaced by numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rerank.errors import UsageError
from rerank.parsing.clean import extract_answer_without_thoughts, normalize_reply_signs
from rerank.parsing.interpretation import MENTIONED, Interpretation
from rerank.parsing.interpreting import interpret_reply_identifiers
from rerank.parsing.mentions import MAX_DIGITS
from rerank.parsing.refusal import is_refusal_to_answer

__all__ = ["ParseStatus", "ParsedReply", "parse_permutation"]

#: ``ok``: the whole answer is a permutation in the requested form, ``[2] > [1] > [3]``, surrounded only by whitespace,
#: thoughts and chat protocol tokens. ``repaired``: the permutation is complete after dropping duplicate identifiers,
#: unknown identifiers or text around the ranking, or was written in another form. ``partial``: some identifiers are
#: missing. ``empty``: the reply contains no identifier. ``refused``: the reply contains no identifier and declines to
#: answer.
ParseStatus = Literal["ok", "repaired", "partial", "empty", "refused"]

_IDENTIFIER = rf"\[\s?[0-9]{{1,{MAX_DIGITS}}}\s?\]"
_NUMBER = re.compile("[0-9]+")
_REQUESTED_FORM = re.compile(rf"{_IDENTIFIER}(?:\s*>\s*{_IDENTIFIER})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedReply:
    """The ranking in a reply, and how it was parsed.

    Attributes:
        order: Positions (from 0) of the passages that the reply ranks, best first, without duplicates.
        missing: Positions of the passages that the reply does not rank, in input order.
        duplicates: Identifiers (from 1) that occur more than once.
        unknown: Numbers that the reply uses as identifiers, but that are not identifiers of the prompt.
        status: One of the values of `ParseStatus`.
        detail: Description of the repairs; empty if nothing was repaired.
    """

    order: tuple[int, ...]
    missing: tuple[int, ...]
    duplicates: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    status: ParseStatus
    detail: str = ""

    @property
    def permutation(self) -> tuple[int, ...]:
        """All positions: those of the ranked passages, best first, then the missing positions in input order."""
        return self.order + self.missing

    def to_dict(self) -> dict[str, list[int] | str]:
        """Return the JSON object that ``rerank parse`` prints. It contains identifiers (from 1) instead of positions.

        >>> parse_permutation("[2] > [1]", 3).to_dict()
        {'order': [2, 1], 'missing': [3], 'repeated': [], 'foreign': [], 'status': 'partial'}
        """
        return {
            "order": [position + 1 for position in self.order],
            "missing": [position + 1 for position in self.missing],
            "repeated": list(self.duplicates),
            "foreign": list(self.unknown),
            "status": self.status,
        }


def parse_permutation(text: str, count: int, labels: Sequence[str] | None = None) -> ParsedReply:
    """Parse the ranking in a reply.

    Args:
        text: The reply; any text is allowed.
        count: Number of passages in the prompt.
        labels: Identifiers of the passages, if they are not 1, 2, ...

    >>> parse_permutation("Here is the ranking of the 3 passages: [2] > [1] > [3]", 3).order
    (1, 0, 2)
    """
    if count < 0:
        raise UsageError(f"The number of passages is {count}", expected="0 or more")
    answer = extract_answer_without_thoughts(text)
    if labels is not None and not all(label.isdigit() for label in labels):
        answer = _number_reply_identifiers(answer, labels)
    named = [int(number) for number in _NUMBER.findall(answer)] if _REQUESTED_FORM.fullmatch(answer) else []
    if named and len(set(named)) == len(named) and 1 <= min(named) <= max(named) <= count:
        order = tuple(number - 1 for number in named)
        missing = tuple(sorted(set(range(count)).difference(order)))
        return ParsedReply(order=order, missing=missing, status="partial" if missing else "ok")
    return _interpret_permutation(answer, count)


def _interpret_permutation(answer: str, count: int) -> ParsedReply:
    """Parse an answer that is not in the requested form, or that contains duplicate or unknown identifiers."""
    interpretation, truncated = interpret_reply_identifiers(normalize_reply_signs(answer), count)
    if (
        interpretation is not None
        and interpretation.strength == MENTIONED
        and "[" not in answer
        and is_refusal_to_answer(answer)
    ):
        interpretation = None  # "I cannot rank passages 1 to 3" names a passage but ranks none
    numbers = interpretation.numbers if interpretation else ()
    order = tuple(dict.fromkeys(number - 1 for number in numbers if 1 <= number <= count))
    missing = tuple(sorted(set(range(count)).difference(order)))
    duplicates = _duplicate_reply_identifiers([number for number in numbers if 1 <= number <= count])
    unknown = tuple(dict.fromkeys(number for number in numbers if not 1 <= number <= count))
    return ParsedReply(
        order=order,
        missing=missing,
        duplicates=duplicates,
        unknown=unknown,
        status=_permutation_parse_status(answer, order, missing, as_requested=not (count or answer)),
        detail="; ".join(_describe_permutation_repairs(interpretation, duplicates, unknown, truncated=truncated)),
    )


def _permutation_parse_status(
    answer: str, order: Sequence[int], missing: Sequence[int], *, as_requested: bool
) -> ParseStatus:
    if missing and not order:
        return "refused" if is_refusal_to_answer(answer) else "empty"
    if missing:
        return "partial"
    return "ok" if as_requested else "repaired"


def _duplicate_reply_identifiers(numbers: Sequence[int]) -> tuple[int, ...]:
    seen: set[int] = set()
    duplicates: dict[int, None] = {}
    for number in numbers:
        if number in seen:
            duplicates[number] = None
        seen.add(number)
    return tuple(duplicates)


def _describe_permutation_repairs(
    interpretation: Interpretation | None,
    duplicates: Sequence[int],
    unknown: Sequence[int],
    *,
    truncated: bool,
) -> list[str]:
    """Describe what was repaired, except missing identifiers, which are in `ParsedReply.missing`."""
    notes = []
    if interpretation and interpretation.form != "brackets":
        notes.append(f"read from {interpretation.form}")
    elif interpretation and not (duplicates or unknown or truncated):
        notes.append("ignored the text around the ranking")
    if duplicates:
        notes.append(f"dropped duplicates of {', '.join(map(str, duplicates))}")
    if unknown:
        notes.append(f"dropped unknown identifiers {', '.join(map(str, unknown))}")
    if truncated:
        notes.append("dropped an identifier that the end of the reply truncated")
    return notes


def _number_reply_identifiers(text: str, labels: Sequence[str]) -> str:
    """Replace each label by its number in square brackets, whether it is in brackets, in ``B > A``, or alone on a line.

    The labels are letters, so numbers in the text are not identifiers and are masked as ``#``. Labels in round brackets
    are replaced only if no label is in square brackets, because round brackets also occur in passages that the reply
    quotes. Labels without brackets are replaced only if no label is in brackets.

    >>> _number_reply_identifiers("The order is [B] > [A], 2 of 2", ("A", "B"))
    'The order is [2] > [1], # of #'
    """
    numbers = {label: str(number) for number, label in enumerate(labels, start=1)}
    names = "|".join(sorted(map(re.escape, labels), key=len, reverse=True))
    masked = re.sub(r"\d+", "#", text)
    for opening, closing in (r"\[", r"\]"), (r"[\[(]", r"[\])]"):
        replaced = re.sub(rf"{opening}\s*({names})\s*{closing}", lambda match: f"[{numbers[match[1]]}]", masked)
        if replaced != masked:
            return replaced
    # "B > A", "Passage B", or nothing but "B"; a capital A that starts a sentence is an article.
    mention = rf"(?:(?<=> )|(?<=>)|(?<=assage )|^)({names})(?=\s*(?:>|,|\.|:|$))"
    return re.sub(mention, lambda match: f"[{numbers[match[1]]}]", masked, flags=re.MULTILINE)
