"""Interpret numbers without brackets or labels, which may be a ranking or part of running text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rerank.parsing.interpretation import CHAIN, LISTED, MENTIONED, Interpretation
from rerank.parsing.mentions import Mention, Token

ARROWS = "bare numbers joined by '>'"
_DASHES = "-–—"
#: Separators between the numbers of a permutation in a sentence: "2, 1, 3", "2 > 1", "2, 1 and 3", "2, 1, and 3".
_BEST_FIRST_SEPARATORS = ((">",), (",",), ("and",), (",", "and"))
_BEST_LAST_SEPARATORS = (("<",),)


def identifier_mentions_without_ranges(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Mention]:
    """Return the mentions except those that form a range such as "1-3", since a range does not state an order.

    A range is two increasing numbers with a dash between them; "2-1-3" and "2 - 1" are not ranges.
    """
    dashed = [_has_dash_between_mentions(tokens, left, right) for left, right in itertools.pairwise(mentions)]
    in_range: set[int] = set()
    for index, is_dashed in enumerate(dashed):
        isolated = not (index and dashed[index - 1]) and not (index + 1 < len(dashed) and dashed[index + 1])
        if is_dashed and isolated and mentions[index].number < mentions[index + 1].number:
            in_range |= {index, index + 1}
    return [mention for index, mention in enumerate(mentions) if index not in in_range]


def interpret_bare_lines(tokens: Sequence[Token]) -> list[Interpretation]:
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


def interpret_bare_identifier_sequences(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Interpretation]:
    """Interpret runs of numbers as rankings if they are joined by ``>``, fill their lines or follow a colon."""
    wordless = all(token.kind != "word" for token in tokens)
    interpretations = []
    run: list[Mention] = []
    for mention in [*mentions, None]:
        if mention and run and all(tokens[i].text in ">=,;|/&-–—•()\n" for i in range(run[-1].end, mention.start)):
            run.append(mention)
            continue
        if run:
            interpretations += _interpret_bare_identifier_sequence(tokens, run, wordless)
        run = [mention] if mention else []
    return interpretations


def _interpret_bare_identifier_sequence(
    tokens: Sequence[Token], run: Sequence[Mention], wordless: bool
) -> list[Interpretation]:
    start, end = run[0].start, run[-1].end
    numbers = tuple(mention.number for mention in run)
    if len(run) > 1 and any(tokens[i].text == ">" for i in range(start, end)):
        return [Interpretation(numbers, LISTED, ARROWS, start)]
    opens = all(t.text in "([-•\n" for t in tokens[max(0, start - 2) : start]) or tokens[start - 1].text in ":\n"
    closes = end == len(tokens) or tokens[end].text in ".])\n"
    if opens and closes and (len(run) > 1 or wordless):
        return [Interpretation(numbers, LISTED, "bare numbers", start)]
    return []


def interpret_bare_permutations(
    tokens: Sequence[Token], mentions: Sequence[Mention], count: int
) -> list[Interpretation]:
    """Interpret runs of numbers in a sentence as rankings if they contain all identifiers and no other numbers.

    An example is "The order is 2, 1, 3." Incomplete runs are ignored, because the numbers may belong to the text, as in
    "Passages about fleas: 2 of 3, since 2019".
    """
    complete = set(range(1, count + 1))
    interpretations: list[Interpretation] = []
    for separators, step in ((_BEST_FIRST_SEPARATORS, 1), (_BEST_LAST_SEPARATORS, -1)):
        for run in _runs_of_joined_mentions(tokens, mentions, separators):
            numbers = tuple(mention.number for mention in run)[::step]
            if len(run) > 1 and set(numbers) == complete and not _is_part_of_decimal(tokens, run):
                interpretations.append(Interpretation(numbers, MENTIONED, "bare numbers in a sentence", run[0].start))
    return interpretations


def _runs_of_joined_mentions(
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


def _has_dash_between_mentions(tokens: Sequence[Token], left: Mention, right: Mention) -> bool:
    return right.start == left.end + 1 and tokens[left.end].text in _DASHES


def _is_part_of_decimal(tokens: Sequence[Token], run: Sequence[Mention]) -> bool:
    """Return whether the first or the last number of a run is part of a decimal fraction, as in "0.1, 2"."""
    start, end = run[0].start, run[-1].end
    before = start > 1 and tokens[start - 1].text == "." and tokens[start - 2].kind == "number"
    return before or (end + 1 < len(tokens) and tokens[end].text == "." and tokens[end + 1].kind == "number")
