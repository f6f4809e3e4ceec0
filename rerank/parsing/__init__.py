"""Parse model replies into rankings of passages. Any text can be parsed; the result reports what was repaired.

Identifiers are the numbers ``1 .. count``. If the prompt uses letters, they are first replaced by numbers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rerank.errors import ensure
from rerank.parsing.clean import is_refusal, normalize_signs, strip_thoughts
from rerank.parsing.interpretations import MENTIONED, interpret
from rerank.parsing.mentions import MAX_DIGITS

__all__ = ["ParseStatus", "ParsedReply", "parse_identifier_scores", "parse_permutation", "parse_selection"]

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
    """The ranking in a reply, and how it was parsed."""

    order: tuple[int, ...]  # positions (from 0) of the passages that the reply ranks, best first, without duplicates
    missing: tuple[int, ...]  # positions of the passages that the reply does not rank, in input order
    duplicates: tuple[int, ...] = ()  # identifiers (from 1) that occur more than once
    #: Numbers that the reply uses as identifiers, but that are not identifiers of the prompt.
    unknown: tuple[int, ...] = ()
    status: ParseStatus
    detail: str = ""  # description of the repairs; empty if nothing was repaired

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
        labels: Identifiers of the passages, if they are not 1, 2, ...

    >>> parse_permutation("Here is the ranking of the 3 passages: [2] > [1] > [3]", 3).order
    (1, 0, 2)
    """
    ensure(count >= 0, f"The number of passages is {count}", expected="0 or more")
    answer = strip_thoughts(text)
    if labels is not None and not all(map(str.isdigit, labels)):
        answer = _number_labels(answer, labels)
    named = list(map(int, _NUMBER.findall(answer))) if _REQUESTED_FORM.fullmatch(answer) else []
    if named and len(set(named)) == len(named) and 1 <= min(named) <= max(named) <= count:
        order = tuple(number - 1 for number in named)
        missing = tuple(sorted(set(range(count)).difference(order)))
        return ParsedReply(order=order, missing=missing, status="partial" if missing else "ok")
    # the answer is not in the requested form, or contains duplicate or unknown identifiers
    interpretation, truncated = interpret(normalize_signs(answer), count)
    is_mention = interpretation is not None and interpretation.strength == MENTIONED and "[" not in answer
    if is_mention and is_refusal(answer):
        interpretation = None  # "I cannot rank passages 1 to 3" names a passage but ranks none
    numbers = interpretation.numbers if interpretation else ()
    known = [number for number in numbers if 1 <= number <= count]
    order = tuple(dict.fromkeys(number - 1 for number in known))
    missing = tuple(sorted(set(range(count)).difference(order)))
    seen: set[int] = set()
    duplicates: dict[int, None] = {}  # in the order of their second mentions
    for number in known:
        if number in seen:
            duplicates[number] = None
        seen.add(number)
    unknown = tuple(dict.fromkeys(number for number in numbers if not 1 <= number <= count))
    status: ParseStatus = "repaired" if count or answer else "ok"
    if missing:
        status = "partial" if order else "refused" if is_refusal(answer) else "empty"
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
    return ParsedReply(
        order=order,
        missing=missing,
        duplicates=tuple(duplicates),
        unknown=unknown,
        status=status,
        detail="; ".join(notes),
    )


#: The words before a selection, at the start of a line; models write them in bold, as a heading or in a sentence.
_SELECTION = re.compile(
    r"^[ \t>#*_-]*(?:(?:the|my|final|minimal|smallest) ){0,3}selection(?: is)?[ \t*_]*[:：]", re.I | re.M
)
_IDENTIFIERS = re.compile(
    r"[ \t>*_-]*\[\d+\](?:(?:[ \t>,;&*_-]|and)*\[\d+\])*(?:[ \t.,;*_]*$|(?P<why>[ \t*_]*[:(–—-]))?"
)
_NO_SELECTION = re.compile(r"\W*(?:none|nothing|no (?:passages?|documents?))\W*|\s*\[\s*\][\s.]*", re.I)


def parse_selection(text: str, count: int) -> ParsedReply:
    r"""Parse the set of passages that a reply, which may be any text, selects after the last ``Selection:``.

    Of what follows these words, the identifiers at the beginning count, and lines that begin with identifiers which end
    the line or are explained; later sentences may name the rejected passages. Without these words, the whole reply is
    parsed like a ranking. Selected passages are in ``order``, all others in ``missing``. The status is not ``partial``;
    ``none`` selects no passage, and its status is ``ok``.

    >>> parse_selection("A date: [1] [2]. A place: [3].\nSelection: [3] > [1]", 4).order
    (2, 0)
    """
    answer = selection = strip_thoughts(text)
    for mark in _SELECTION.finditer(answer):
        selection = answer[mark.end() :].strip("*_` \t\n")
    if _NO_SELECTION.fullmatch(selection):
        return ParsedReply(order=(), missing=tuple(range(count)), status="ok")
    chosen = _leading_identifiers(selection) if selection != answer else selection
    parsed = parse_permutation(chosen, count)
    if parsed.status != "partial":
        return parsed
    detail = parsed.detail or "ignored the text after the selection" * (chosen != selection)
    return replace(parsed, status="repaired" if detail else "ok", detail=detail)


def _leading_identifiers(selection: str) -> str:
    """Return the identifiers at the beginning of a selection, or all of it if it does not begin with identifiers."""
    found: list[str] = []
    for line in filter(str.strip, selection.splitlines()):
        match = _IDENTIFIERS.match(line)
        ends = match is not None and (match.end() == len(line) or match["why"] is not None)
        if match is None or (found and not ends):
            break
        found.append(match[0])
        if not ends:
            break
    return "\n".join(found) or selection


def _number_labels(text: str, labels: Sequence[str]) -> str:
    """Replace each label by its number in square brackets, whether it is in brackets, in ``B > A``, or alone on a line.

    The labels are letters, so numbers in the text are not identifiers and are masked as ``#``. Labels in round brackets
    are replaced only if no label is in square brackets, because round brackets also occur in passages that the reply
    quotes. Labels without brackets are replaced only if no label is in brackets.

    >>> _number_labels("The order is [B] > [A], 2 of 2", ("A", "B"))
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


#: An identifier as the key of a JSON object, and its score. A score at the very end of the reply does not match, since
#: truncation may have removed digits.
_SCORED = re.compile(
    rf"""["']?\[?\s*(\d{{1,{MAX_DIGITS}}})\s*\]*["']?\s*:\s*["']?(-?\d{{1,9}}(?:\.\d{{1,9}})?)(?=["'\s,}}])"""
)


def parse_identifier_scores(text: str, count: int) -> dict[int, float]:
    """Return the scores in the last JSON object that contains some, as in GroupRank (arXiv 2511.11653).

    The object may be truncated. A reply without braces counts as one object.

    Args:
        text: The reply; any text is allowed. Thoughts, and explanations in tags such as ``<reason>``, are ignored.

    Returns:
        A mapping from the position (from 0) of each scored passage to its score; empty if there are no scores. Unknown
        identifiers are dropped. If an identifier has several scores, the last one is used.

    >>> parse_identifier_scores('<reason>[2] is better</reason><answer>{"[1]": 3, "[2]": 8}</answer>', 2)
    {0: 3.0, 1: 8.0}
    """
    before, *objects = normalize_signs(strip_thoughts(text)).split("{")
    for inside in reversed(objects or [before]):
        pairs = ((int(number), float(score)) for number, score in _SCORED.findall(inside))
        if scores := {number - 1: score for number, score in pairs if 1 <= number <= count}:
            return scores
    return {}
