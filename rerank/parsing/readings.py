"""Mentions -> the ranking that a reply most likely gives. Knows what rankings look like, not what is done with them.

A reply can be read in several ways: runs of identifiers, one identifier at the head of each line, the order of mention.
The rule that chooses (`choose`): a reading must hold at least half as many passages as the fullest one. Among these a
run joined by ``>`` beats lists, lists beat the mere order of mention; then more passages beat fewer; then the last
beats the earlier ones, so that a reply which corrects itself is taken at its last word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerank.parsing.mentions import Mention, Token, joins, mentions_of, tokens_of

CHAIN, LISTED, MENTIONED = 3, 2, 1
_ARROWS = "bare numbers joined by '>'"
_ID_KEYS = (
    "id",
    "identifier",
    "passage",
    "passage_id",
    "document",
    "document_id",
    "doc",
    "docid",
    "doc_id",
    "index",
    "number",
)
_RANK_KEYS = ("rank", "position", "place")
_SCORE_KEYS = ("score", "relevance", "relevance_score")
_NUMBER = re.compile(r"\d{1,100}")


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a reply.

    Attributes:
        numbers: Identifiers as said, best first, repeats and foreign ones among them.
        strength: `CHAIN`, `LISTED` or `MENTIONED`.
        form: How it was written, in words.
        at: Where it stands in the reply; larger is later.
    """

    numbers: tuple[int, ...]
    strength: int
    form: str
    at: int

    def distinct(self, count: int) -> int:
        """How many different passages of ``1 .. count`` it names."""
        return len({number for number in self.numbers if 1 <= number <= count})


def read(text: str, count: int) -> tuple[Reading | None, bool]:
    """The best reading of plain text, if it names anything, and whether its last identifier was cut off.

    Numbers by themselves count where ``>`` joins them; otherwise only where no passage is named in brackets or by a
    label and they fill their lines, so the digits of prose ("the 3 passages") rank nothing.
    """
    tokens = tokens_of(text)
    mentions, cut = mentions_of(tokens)
    anchored = [mention for mention in mentions if mention.form != "bare"]
    bare = _bare_runs(tokens, [mention for mention in mentions if mention.form == "bare"])
    readings = [*_from_objects(text), *(run for run in bare if run.form == _ARROWS)]
    if anchored:
        readings += [*_runs(tokens, anchored), *_heads(tokens, anchored), _mentioned(anchored)]
    if not any(reading.distinct(count) for reading in readings):
        readings += [*_bare_lines(tokens), *bare]
    return (choose(readings, count) if readings else None), cut


def choose(readings: Sequence[Reading], count: int) -> Reading:
    """Apply the rule that the module states."""
    fullest = max(reading.distinct(count) for reading in readings)
    full = [reading for reading in readings if 2 * reading.distinct(count) >= fullest]
    return max(full, key=lambda reading: (reading.strength, reading.distinct(count), reading.at))


def _mentioned(mentions: Sequence[Mention]) -> Reading:
    return Reading(tuple(m.number for m in mentions), MENTIONED, "the order of mention", -1)


def _runs(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Reading]:
    """Maximal runs of mentions with nothing but separators between them.

    A line break without ``>`` ends a run that is written with ``>``: what follows is another ranking.
    """
    found = []
    run, chained = [mentions[0]], False
    for mention in mentions[1:]:
        gap = range(run[-1].end, mention.start)
        arrow = any(tokens[i].text == ">" for i in gap)
        broken = chained and not arrow and any(tokens[i].kind == "line" for i in gap)
        if broken or not joins(tokens, gap.start, gap.stop):
            found.append(_run(run, chained))
            run, chained = [], False
        chained = bool(run) and (chained or arrow)
        run.append(mention)
    return [*found, _run(run, chained)]


def _run(run: Sequence[Mention], chained: bool) -> Reading:
    numbers = tuple(mention.number for mention in run)
    listed = len(set(numbers)) > 2 or (len(run) > 1 and all(mention.form == "list" for mention in run))
    forms = {mention.form for mention in run}
    named = "a list in brackets" if "list" in forms else "passage names" if "label" in forms else "brackets"
    strength = CHAIN if chained else LISTED if listed else MENTIONED
    return Reading(numbers, strength, named if chained else f"{named} without '>'", run[0].start)


def _heads(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Reading]:
    """The first mention of each line, where only enumerators, bullets and labels stand before it."""
    heads: list[Mention] = []
    line_start, seen = 0, 0
    for mention in mentions:
        breaks = [i + 1 for i in range(seen, mention.start) if tokens[i].kind == "line"]
        first = bool(breaks) or not seen
        line_start = breaks[-1] if breaks else line_start
        if first and joins(tokens, line_start, mention.start, heads=True):
            heads.append(mention)
        seen = mention.end
    if len(heads) < 2:
        return []
    return [Reading(tuple(m.number for m in heads), LISTED, "one passage a line", heads[0].start)]


def _bare_lines(tokens: Sequence[Token]) -> list[Reading]:
    """Lines that hold an enumerator and a number: "1. 3"."""
    numbers = []
    line: list[Token] = []
    for token in [*tokens, Token("line", "\n", -1)]:
        if token.kind != "line":
            line.append(token)
            continue
        body = [t for t in line if t.text not in "-•·#[]()"] if line and line[0].text in "-•·#" else line
        enumerated = len(body) == 3 and body[0].kind == body[2].kind == "number" and body[1].text in ".):"
        if enumerated and body[2].start > body[1].start + 1:  # "1. 3", not "1.3"
            numbers.append(int(body[2].text))
        line = []
    return [Reading(tuple(numbers), CHAIN, "numbered bare numbers", 0)] if len(numbers) > 1 else []


def _bare_runs(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Reading]:
    """Runs of numbers: joined by ``>`` anywhere; otherwise only where they fill their lines or follow a colon."""
    wordless = all(token.kind != "word" for token in tokens)
    found = []
    run: list[Mention] = []
    for mention in [*mentions, None]:
        if mention and run and all(tokens[i].text in ">=,;|/&-–—•()\n" for i in range(run[-1].end, mention.start)):
            run.append(mention)
            continue
        if run:
            found += _bare_run(tokens, run, wordless)
        run = [mention] if mention else []
    return found


def _bare_run(tokens: Sequence[Token], run: Sequence[Mention], wordless: bool) -> list[Reading]:
    start, end = run[0].start, run[-1].end
    numbers = tuple(mention.number for mention in run)
    if len(run) > 1 and any(tokens[i].text == ">" for i in range(start, end)):
        return [Reading(numbers, LISTED, _ARROWS, start)]
    opens = all(t.text in "([-•\n" for t in tokens[max(0, start - 2) : start]) or tokens[start - 1].text in ":\n"
    closes = end == len(tokens) or tokens[end].text in ".])\n"
    if opens and closes and (len(run) > 1 or wordless):
        return [Reading(numbers, LISTED, "bare numbers", start)]
    return []


def _from_objects(text: str) -> list[Reading]:
    """A JSON list of objects, or one object a line, put in order by its ranks or scores if all have them."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return []
    bracket = text.find("[")
    outer = text[min(start, bracket if bracket >= 0 else start) : max(end, text.rfind("]")) + 1]
    payload = _loads(outer)
    if payload is None:
        payload = [_loads(line.strip().rstrip(",")) for line in text.split("\n") if line.strip().startswith("{")]
    if isinstance(payload, dict):
        payload = next((value for value in payload.values() if isinstance(value, list)), None)
    rows = payload if isinstance(payload, list) and all(isinstance(row, dict) for row in payload) else []
    if rows and all(_number(row, _RANK_KEYS) is not None for row in rows):
        rows = sorted(rows, key=lambda row: _number(row, _RANK_KEYS) or 0.0)
    elif rows and all(_number(row, _SCORE_KEYS) is not None for row in rows):
        rows = sorted(rows, key=lambda row: _number(row, _SCORE_KEYS) or 0.0, reverse=True)
    numbers = [number for row in rows if (number := _identifier(row)) is not None]
    return [Reading(tuple(numbers), CHAIN, "JSON objects", 0)] if numbers else []


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or nested deeper than Python goes: read as text then
        return None


def _number(row: dict[str, Any], keys: Sequence[str]) -> float | None:
    value = next((row[key] for key in row if key.lower() in keys), None)
    return value if isinstance(value, int | float) else None


def _identifier(row: dict[str, Any]) -> int | None:
    value = next((row[key] for key in row if key.lower() in _ID_KEYS), None)
    if isinstance(value, int):
        return int(value)
    match = _NUMBER.search(value) if isinstance(value, str) else None
    return int(match[0]) if match else None
