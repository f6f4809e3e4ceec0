"""Choose the ranking that a reply most likely expresses.

A reply can have several interpretations, such as runs of identifiers, one identifier at the start of each line, or the
order of mention. `choose_interpretation` chooses by this rule: An interpretation must contain at least half as many
passages as the most complete one. Among these, runs joined by ``>`` are preferred to lists, and lists to the order of
mention; then interpretations with more passages; then later ones, because a model may correct itself. A run joined by
``<`` is interpreted as a run joined by ``>`` in reverse.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from rerank.parsing.bare_numbers import (
    ARROWS,
    identifier_mentions_without_ranges,
    interpret_bare_identifier_sequences,
    interpret_bare_lines,
    interpret_bare_permutations,
)
from rerank.parsing.interpretation import CHAIN, LISTED, MENTIONED, Interpretation
from rerank.parsing.mentions import (
    Mention,
    Token,
    find_mentions,
    introduces_reply_identifier,
    parse_reply_tokens,
    reply_tokens_join_identifiers,
)

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
_BRACKETED = re.compile(r"\[\s?\d{1,100}\s?\]")


def interpret_reply_identifiers(text: str, count: int) -> tuple[Interpretation | None, bool]:
    """Return the best interpretation of a text, and whether the text ends in a truncated identifier.

    The interpretation is None if the text contains nothing that can be an identifier.

    Bare numbers that are joined by ``>`` are always interpreted. Other bare numbers are interpreted only if no passage
    is mentioned in another way, and only if they fill their lines or form a complete permutation, because running text
    contains numbers, too ("the 3 passages").
    """
    tokens = parse_reply_tokens(text)
    mentions, truncated = find_mentions(tokens)
    # Mentions in brackets or with a label are certain; bare numbers may be part of the text.
    anchored = [mention for mention in mentions if mention.form != "bare"]
    numbers = identifier_mentions_without_ranges(tokens, [mention for mention in mentions if mention.form == "bare"])
    bare = interpret_bare_identifier_sequences(tokens, numbers)
    candidates = [*_interpret_json_objects(text), *(run for run in bare if run.form == ARROWS)]
    if anchored:
        candidates += [
            *_interpret_identifier_mention_sequences(tokens, anchored),
            *_interpret_line_heads(tokens, anchored),
            *_interpret_ascending_runs(tokens, anchored),
        ]
        candidates.append(_interpret_order_of_mention(anchored))
    if not any(candidate.distinct(count) for candidate in candidates):
        candidates += [*interpret_bare_lines(tokens), *bare, *interpret_bare_permutations(tokens, numbers, count)]
    return (choose_interpretation(candidates, count) if candidates else None), truncated


def choose_interpretation(candidates: Sequence[Interpretation], count: int) -> Interpretation:
    """Return the strongest of the interpretations that are complete enough; then the longest, then the latest."""
    # Incomplete interpretations are excluded first, so that a short run in a remark does not beat a complete list.
    fullest = max(candidate.distinct(count) for candidate in candidates)
    full = [candidate for candidate in candidates if 2 * candidate.distinct(count) >= fullest]
    return max(full, key=lambda candidate: (candidate.strength, candidate.distinct(count), candidate.position))


def _interpret_order_of_mention(mentions: Sequence[Mention]) -> Interpretation:
    return Interpretation(tuple(m.number for m in mentions), MENTIONED, "the order of mention", -1)


def _interpret_identifier_mention_sequences(
    tokens: Sequence[Token], mentions: Sequence[Mention]
) -> list[Interpretation]:
    """Interpret maximal runs of mentions with only separators between them as rankings.

    A line break without ``>`` ends a run that is joined by ``>``, since another ranking follows.
    """
    interpretations = []
    run, chained = [mentions[0]], False
    for mention in mentions[1:]:
        gap = range(run[-1].end, mention.start)
        arrow = any(tokens[i].text == ">" for i in gap)
        broken = chained and not arrow and any(tokens[i].kind == "line" for i in gap)
        if broken or not reply_tokens_join_identifiers(tokens, gap.start, gap.stop):
            interpretations.append(_interpret_run_of_mentions(run, chained))
            run = []
        chained = bool(run) and (chained or arrow)
        run.append(mention)
    return [*interpretations, _interpret_run_of_mentions(run, chained)]


def _interpret_run_of_mentions(run: Sequence[Mention], chained: bool) -> Interpretation:
    numbers = tuple(mention.number for mention in run)
    listed = len(set(numbers)) > 2 or (len(run) > 1 and all(mention.form == "list" for mention in run))
    forms = {mention.form for mention in run}
    named = "a list in brackets" if "list" in forms else "passage names" if "label" in forms else "brackets"
    strength = CHAIN if chained else LISTED if listed else MENTIONED
    return Interpretation(numbers, strength, named if chained else f"{named} without '>'", run[0].start)


def _interpret_ascending_runs(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Interpretation]:
    """Interpret runs that are joined only by ``<`` as rankings in reverse: in "[3] < [1] < [2]", the best is [2].

    If ``>`` is adjacent ("[1] > [2] < [3]"), the signs contradict each other, and neither end is the best.
    """
    signs = [
        "",
        *(_sign_between_mentions(tokens, left.end, right.start) for left, right in itertools.pairwise(mentions)),
        "",
    ]
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


def _sign_between_mentions(tokens: Sequence[Token], start: int, end: int) -> str:
    """Return the ``<`` or ``>`` between two mentions if only brackets and labels are next to it, else ``""``."""
    signs = [tokens[index].text for index in range(start, end) if tokens[index].text in ("<", ">")]
    others = (tokens[index] for index in range(start, end) if tokens[index].text not in ("<", ">"))
    only_brackets = all(token.text in "[]()#\n" or introduces_reply_identifier(token) for token in others)
    return signs[0] if only_brackets and len(signs) == 1 else ""


def _interpret_line_heads(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Interpretation]:
    """Interpret the first mentions of lines as a ranking if only enumerators, bullets and labels precede them."""
    heads: list[Mention] = []
    line_start, seen = 0, 0
    for mention in mentions:
        breaks = [i + 1 for i in range(seen, mention.start) if tokens[i].kind == "line"]
        first = bool(breaks) or not seen
        line_start = breaks[-1] if breaks else line_start
        if first and reply_tokens_join_identifiers(tokens, line_start, mention.start, heads=True):
            heads.append(mention)
        seen = mention.end
    if len(heads) < 2:
        return []
    return [Interpretation(tuple(m.number for m in heads), LISTED, "one passage per line", heads[0].start)]


def _interpret_json_objects(text: str) -> list[Interpretation]:
    """Interpret a JSON list of objects, one object per line, or an object that maps identifiers in brackets to scores.

    The objects are sorted by rank, or else by score, if all of them have one.
    """
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return []
    bracket = text.find("[")
    outer = text[min(start, bracket if bracket >= 0 else start) : max(end, text.rfind("]")) + 1]
    payload = _parse_reply_json(outer)
    if payload is None:
        payload = [
            _parse_reply_json(line.strip().rstrip(",")) for line in text.split("\n") if line.strip().startswith("{")
        ]
    if isinstance(payload, dict):
        scored: Any = [{"id": key, "score": value} for key, value in payload.items() if _BRACKETED.fullmatch(key)]
        payload = scored or next((value for value in payload.values() if isinstance(value, list)), None)
    rows = payload if isinstance(payload, list) and all(isinstance(row, dict) for row in payload) else []
    if rows and all(_number_in_reply_object(row, _RANK_KEYS) is not None for row in rows):
        rows = sorted(rows, key=lambda row: _number_in_reply_object(row, _RANK_KEYS) or 0.0)
    elif rows and all(_number_in_reply_object(row, _SCORE_KEYS) is not None for row in rows):
        rows = sorted(rows, key=lambda row: _number_in_reply_object(row, _SCORE_KEYS) or 0.0, reverse=True)
    numbers = [number for row in rows if (number := _identifier_in_reply_object(row)) is not None]
    return [Interpretation(tuple(numbers), CHAIN, "JSON objects", 0)] if numbers else []


def _parse_reply_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or nested too deeply: it is interpreted as text
        return None


def _number_in_reply_object(row: dict[str, Any], keys: Sequence[str]) -> float | None:
    value = next((row[key] for key in row if key.lower() in keys), None)
    return value if isinstance(value, int | float) else None


def _identifier_in_reply_object(row: dict[str, Any]) -> int | None:
    value = next((row[key] for key in row if key.lower() in _ID_KEYS), None)
    if isinstance(value, int):
        return int(value)
    match = _NUMBER.search(value) if isinstance(value, str) else None
    return int(match[0]) if match else None
