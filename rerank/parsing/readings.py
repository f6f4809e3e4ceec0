"""Mentions -> the ranking that a reply most likely gives. Knows what rankings look like, not what is done with them.

A reply can be read in several ways: runs of identifiers, one identifier at the head of each line, the order of mention.
The rule that chooses (`choose`): a reading must hold at least half as many passages as the fullest one. Among these a
run joined by ``>`` beats lists, lists beat the mere order of mention; then more passages beat fewer; then the last
beats the earlier ones, so that a reply which corrects itself is taken at its last word. A run joined by ``<`` says the
same as one by ``>``, from its end.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from rerank.parsing.bare import ARROWS, bare_lines, bare_permutations, bare_runs, without_ranges
from rerank.parsing.mentions import Mention, Token, is_label, joins, mentions_of, tokens_of
from rerank.parsing.reading import CHAIN, LISTED, MENTIONED, Reading

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


def read(text: str, count: int) -> tuple[Reading | None, bool]:
    """The best reading of plain text, if it names anything, and whether its last identifier was cut off.

    Numbers by themselves count where ``>`` joins them; otherwise only where no passage is named in brackets or by a
    label, and they fill their lines or are a whole permutation: the digits of prose ("the 3 passages") rank nothing.
    """
    tokens = tokens_of(text)
    mentions, cut = mentions_of(tokens)
    anchored = [mention for mention in mentions if mention.form != "bare"]
    numbers = without_ranges(tokens, [mention for mention in mentions if mention.form == "bare"])
    bare = bare_runs(tokens, numbers)
    readings = [*_from_objects(text), *(run for run in bare if run.form == ARROWS)]
    if anchored:
        readings += [*_runs(tokens, anchored), *_heads(tokens, anchored), *_ascending(tokens, anchored)]
        readings.append(_mentioned(anchored))
    if not any(reading.distinct(count) for reading in readings):
        readings += [*bare_lines(tokens), *bare, *bare_permutations(tokens, numbers, count)]
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


def _ascending(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Reading]:
    """Runs joined by ``<`` alone, turned round: "[3] < [1] < [2]" says that [2] is best.

    Where ``>`` goes on ("[1] > [2] < [3]") the signs contradict each other, and neither end is the best.
    """
    signs = ["", *(_sign(tokens, one.end, two.start) for one, two in itertools.pairwise(mentions)), ""]
    found: list[Reading] = []
    start = 0
    for at in range(1, len(signs)):  # signs[at] stands before mentions[at]
        if signs[at] == "<":
            continue
        if at - start > 1 and ">" not in (signs[start], signs[at]):
            numbers = tuple(mention.number for mention in reversed(mentions[start:at]))
            found.append(Reading(numbers, CHAIN, "an ascending chain, turned round", mentions[start].start))
        start = at
    return found


def _sign(tokens: Sequence[Token], start: int, end: int) -> str:
    """The ``<`` or ``>`` between two mentions if they are only compared: brackets and labels may stand with it."""
    signs = [tokens[index].text for index in range(start, end) if tokens[index].text in ("<", ">")]
    others = (tokens[index] for index in range(start, end) if tokens[index].text not in ("<", ">"))
    compared = all(token.text in "[]()#\n" or is_label(token) for token in others)
    return signs[0] if compared and len(signs) == 1 else ""


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
