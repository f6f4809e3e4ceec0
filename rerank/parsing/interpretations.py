"""Choose the ranking that a reply most likely expresses.

A reply can have several interpretations, such as runs of identifiers, one identifier at the start of each line, or the
order of mention. `choose_interpretation` chooses by this rule: An interpretation must contain at least half as many
passages as the most complete one. Among these, runs joined by ``>`` are preferred to lists, and lists to the order of
mention; then interpretations with more passages; then later ones, because a model may correct itself. A run joined by
``<`` is interpreted as a run joined by ``>`` in reverse.
"""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerank.parsing.mentions import Mention, Token, find_mentions, is_label, joins, tokenize

#: Strengths of an interpretation: joined by ``>``, a list, mentions in running text. A larger strength is preferred.
CHAIN, LISTED, MENTIONED = 3, 2, 1
ARROWS = "bare numbers joined by '>'"
#: Separators between the numbers of a permutation in a sentence: "2, 1, 3", "2 > 1", "2, 1 and 3", "2, 1, and 3".
_BEST_FIRST_SEPARATORS = ((">",), (",",), ("and",), (",", "and"))
_BEST_LAST_SEPARATORS = (("<",),)
_ID_KEYS = (
    *("id", "identifier", "passage", "passage_id", "document", "document_id", "doc", "docid", "doc_id"),
    *("index", "number"),
)
_NUMBER = re.compile(r"\d{1,100}")
_BRACKETED = re.compile(r"\[\s?\d{1,100}\s?\]")


@dataclass(frozen=True, slots=True)
class Interpretation:
    """One way to interpret a reply as a ranking."""

    numbers: tuple[int, ...]  # identifiers as written, best first, including duplicate and unknown identifiers
    strength: int  # how clearly the reply states an order: `CHAIN`, `LISTED` or `MENTIONED`
    form: str  # description of the form in which the ranking is written, for `ParsedReply.detail`
    position: int  # position in the reply, used to prefer later interpretations

    def distinct(self, count: int) -> int:
        """Return how many different passages of ``1 .. count`` the interpretation contains."""
        return len({number for number in self.numbers if 1 <= number <= count})


def interpret(text: str, count: int) -> tuple[Interpretation | None, bool]:
    """Return the best interpretation of a text, and whether the text ends in a truncated identifier.

    The interpretation is None if the text contains nothing that can be an identifier.

    Bare numbers that are joined by ``>`` are always interpreted. Other bare numbers are interpreted only if no passage
    is mentioned in another way, and only if they fill their lines or form a complete permutation, because running text
    contains numbers, too ("the 3 passages").
    """
    tokens = tokenize(text)
    mentions, truncated = find_mentions(tokens)
    # Mentions in brackets or with a label are certain; bare numbers may be part of the text.
    anchored = [mention for mention in mentions if mention.form != "bare"]
    numbers = _without_ranges(tokens, [mention for mention in mentions if mention.form == "bare"])
    bare = _bare_sequences(tokens, numbers)
    candidates = [*_json_objects(text), *(run for run in bare if run.form == ARROWS)]
    if anchored:
        candidates += [
            *_sequences(tokens, anchored),
            *_line_heads(tokens, anchored),
            *_ascending_runs(tokens, anchored),
        ]
        order_of_mention = tuple(mention.number for mention in anchored)
        candidates.append(Interpretation(order_of_mention, MENTIONED, "the order of mention", -1))
    if not any(candidate.distinct(count) for candidate in candidates):
        candidates += [*_bare_lines(tokens), *bare, *_bare_permutations(tokens, numbers, count)]
    return (choose_interpretation(candidates, count) if candidates else None), truncated


def choose_interpretation(candidates: Sequence[Interpretation], count: int) -> Interpretation:
    """Return the strongest of the interpretations that are complete enough; then the longest, then the latest."""
    # Incomplete interpretations are excluded first, so that a short run in a remark does not beat a complete list.
    fullest = max(candidate.distinct(count) for candidate in candidates)
    full = [candidate for candidate in candidates if 2 * candidate.distinct(count) >= fullest]
    return max(full, key=lambda candidate: (candidate.strength, candidate.distinct(count), candidate.position))


def _sequences(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Interpretation]:
    """Interpret maximal runs of mentions with only separators between them as rankings.

    A line break without ``>`` ends a run that is joined by ``>``, since another ranking follows.
    """
    interpretations = []
    run, chained = [mentions[0]], False
    for mention in mentions[1:]:
        gap = range(run[-1].end, mention.start)
        arrow = any(tokens[i].text == ">" for i in gap)
        broken = chained and not arrow and any(tokens[i].kind == "line" for i in gap)
        if broken or not joins(tokens, gap.start, gap.stop):
            interpretations.append(_sequence(run, chained))
            run = []
        chained = bool(run) and (chained or arrow)
        run.append(mention)
    return [*interpretations, _sequence(run, chained)]


def _sequence(run: Sequence[Mention], chained: bool) -> Interpretation:
    numbers = tuple(mention.number for mention in run)
    listed = len(set(numbers)) > 2 or (len(run) > 1 and all(mention.form == "list" for mention in run))
    forms = {mention.form for mention in run}
    named = "a list in brackets" if "list" in forms else "passage names" if "label" in forms else "brackets"
    strength = CHAIN if chained else LISTED if listed else MENTIONED
    return Interpretation(numbers, strength, named if chained else f"{named} without '>'", run[0].start)


def _ascending_runs(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Interpretation]:
    """Interpret runs that are joined only by ``<`` as rankings in reverse: in "[3] < [1] < [2]", the best is [2].

    If ``>`` is adjacent ("[1] > [2] < [3]"), the signs contradict each other, and neither end is the best.
    """
    signs = ["", *(_sign_between(tokens, left.end, right.start) for left, right in itertools.pairwise(mentions)), ""]
    interpretations: list[Interpretation] = []
    start = 0
    for index in range(1, len(signs)):  # signs[index] is between mentions[index - 1] and mentions[index]
        if signs[index] == "<":
            continue
        if index - start > 1 and ">" not in (signs[start], signs[index]):
            numbers = tuple(mention.number for mention in reversed(mentions[start:index]))
            interpretations.append(Interpretation(numbers, CHAIN, "a chain in ascending order", mentions[start].start))
        start = index
    return interpretations


def _sign_between(tokens: Sequence[Token], start: int, end: int) -> str:
    """Return the ``<`` or ``>`` between two mentions if only brackets and labels are next to it, else ``""``."""
    signs = [tokens[index].text for index in range(start, end) if tokens[index].text in ("<", ">")]
    others = (tokens[index] for index in range(start, end) if tokens[index].text not in ("<", ">"))
    only_brackets = all(token.text in "[]()#\n" or is_label(token) for token in others)
    return signs[0] if only_brackets and len(signs) == 1 else ""


def _line_heads(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Interpretation]:
    """Interpret the first mentions of lines as a ranking if only enumerators, bullets and labels precede them."""
    heads: list[Mention] = []
    line_start, seen = 0, 0
    for mention in mentions:
        breaks = [i + 1 for i in range(seen, mention.start) if tokens[i].kind == "line"]
        line_start = breaks[-1] if breaks else line_start
        if (breaks or not seen) and joins(tokens, line_start, mention.start, heads=True):
            heads.append(mention)
        seen = mention.end
    if len(heads) < 2:
        return []
    return [Interpretation(tuple(m.number for m in heads), LISTED, "one passage per line", heads[0].start)]


def _json_objects(text: str) -> list[Interpretation]:
    """Interpret a JSON list of objects, one object per line, or an object that maps identifiers in brackets to scores.

    The objects are sorted by rank, or else by score, if all of them have one.
    """
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return []
    bracket = text.find("[")
    payload = _parse_json(text[min(start, bracket if bracket >= 0 else start) : max(end, text.rfind("]")) + 1])
    if payload is None:
        payload = [_parse_json(line.strip().rstrip(",")) for line in text.split("\n") if line.strip().startswith("{")]
    if isinstance(payload, dict):
        scored: Any = [{"id": key, "score": value} for key, value in payload.items() if _BRACKETED.fullmatch(key)]
        payload = scored or next((value for value in payload.values() if isinstance(value, list)), None)
    rows = payload if isinstance(payload, list) and all(isinstance(row, dict) for row in payload) else []
    for keys, descending in ((("rank", "position", "place"), False), (("score", "relevance", "relevance_score"), True)):
        values = [_value_of(row, keys) for row in rows]
        if all(isinstance(value, int | float) for value in values):
            rows = [rows[index] for index in sorted(range(len(rows)), key=values.__getitem__, reverse=descending)]
            break
    numbers = []
    for row in rows:
        value = _value_of(row, _ID_KEYS)
        match = _NUMBER.search(value) if isinstance(value, str) else None
        if isinstance(value, int) or match:
            numbers.append(int(match[0] if match else value))
    return [Interpretation(tuple(numbers), CHAIN, "JSON objects", 0)] if numbers else []


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or nested too deeply: it is interpreted as text
        return None


def _value_of(row: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in row if key.lower() in keys), None)


# Numbers without brackets or labels, which may be a ranking or part of running text


def _without_ranges(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Mention]:
    """Return the mentions except those that form a range such as "1-3", since a range does not state an order.

    A range is two increasing numbers with a dash between them; "2-1-3" and "2 - 1" are not ranges.
    """
    dashed = [
        right.start == left.end + 1 and tokens[left.end].text in "-–—" for left, right in itertools.pairwise(mentions)
    ]
    in_range: set[int] = set()
    for index, is_dashed in enumerate(dashed):
        isolated = not (index and dashed[index - 1]) and not (index + 1 < len(dashed) and dashed[index + 1])
        if is_dashed and isolated and mentions[index].number < mentions[index + 1].number:
            in_range |= {index, index + 1}
    return [mention for index, mention in enumerate(mentions) if index not in in_range]


def _bare_lines(tokens: Sequence[Token]) -> list[Interpretation]:
    """Interpret lines of an enumerator and an identifier, such as "1. 3", as a ranking.

    A single such line is interpreted only if its enumerator is 1.
    """
    numbers, first = [], ""
    line: list[Token] = []
    for token in [*tokens, Token("line", "\n", -1)]:
        if token.kind != "line":
            line.append(token)
            continue
        body = [t for t in line if t.text not in "-•·#[]()"] if line and line[0].text in "-•·#" else line
        enumerated = len(body) == 3 and body[0].kind == body[2].kind == "number" and body[1].text in ".):"
        if enumerated and body[2].start > body[1].start + 1:  # "1. 3", not "1.3"
            numbers.append(int(body[2].text))
            first = first or body[0].text
        line = []
    is_list = len(numbers) > 1 or first == "1"
    return [Interpretation(tuple(numbers), CHAIN, "numbered bare numbers", 0)] if is_list else []


def _bare_sequences(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Interpretation]:
    """Interpret runs of numbers as rankings if they are joined by ``>``, fill their lines or follow a colon."""
    wordless = all(token.kind != "word" for token in tokens)
    interpretations = []
    run: list[Mention] = []
    for mention in [*mentions, None]:
        if mention and run and all(tokens[i].text in ">=,;|/&-–—•()\n" for i in range(run[-1].end, mention.start)):
            run.append(mention)
            continue
        if run:
            interpretations += _bare_sequence(tokens, run, wordless)
        run = [mention] if mention else []
    return interpretations


def _bare_sequence(tokens: Sequence[Token], run: Sequence[Mention], wordless: bool) -> list[Interpretation]:
    start, end = run[0].start, run[-1].end
    numbers = tuple(mention.number for mention in run)
    if len(run) > 1 and any(tokens[i].text == ">" for i in range(start, end)):
        return [Interpretation(numbers, LISTED, ARROWS, start)]
    opens = all(t.text in "([-•\n" for t in tokens[max(0, start - 2) : start]) or tokens[start - 1].text in ":\n"
    if opens and (end == len(tokens) or tokens[end].text in ".])\n") and (len(run) > 1 or wordless):
        return [Interpretation(numbers, LISTED, "bare numbers", start)]
    return []


def _bare_permutations(tokens: Sequence[Token], mentions: Sequence[Mention], count: int) -> list[Interpretation]:
    """Interpret runs of numbers in a sentence as rankings if they contain all identifiers and no other numbers.

    An example is "The order is 2, 1, 3." Incomplete runs are ignored, because the numbers may belong to the text, as in
    "Passages about fleas: 2 of 3, since 2019".
    """
    complete = set(range(1, count + 1))
    interpretations: list[Interpretation] = []
    for separators, step in ((_BEST_FIRST_SEPARATORS, 1), (_BEST_LAST_SEPARATORS, -1)):
        for run in _joined_runs(tokens, mentions, separators):
            numbers = tuple(mention.number for mention in run)[::step]
            if len(run) > 1 and set(numbers) == complete and not _is_part_of_decimal(tokens, run):
                interpretations.append(Interpretation(numbers, MENTIONED, "bare numbers in a sentence", run[0].start))
    return interpretations


def _joined_runs(
    tokens: Sequence[Token], mentions: Sequence[Mention], separators: Sequence[tuple[str, ...]]
) -> list[list[Mention]]:
    """Split mentions into maximal runs in which every two neighbours are joined by one of the separators."""
    runs: list[list[Mention]] = []
    for mention in mentions:
        last = runs[-1][-1].end if runs else 0
        if runs and mention.start - last <= 2 and tuple(t.text for t in tokens[last : mention.start]) in separators:
            runs[-1].append(mention)
        else:
            runs.append([mention])
    return runs


def _is_part_of_decimal(tokens: Sequence[Token], run: Sequence[Mention]) -> bool:
    """Return whether the first or the last number of a run is part of a decimal fraction, as in "0.1, 2"."""
    start, end = run[0].start, run[-1].end
    before = start > 1 and tokens[start - 1].text == "." and tokens[start - 2].kind == "number"
    return before or (end + 1 < len(tokens) and tokens[end].text == "." and tokens[end + 1].kind == "number")
