"""Numbers without brackets or labels -> readings. Knows when digits are a ranking and when they are only prose."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rerank.parsing.mentions import Mention, Token
from rerank.parsing.reading import CHAIN, LISTED, MENTIONED, Reading

ARROWS = "bare numbers joined by '>'"
_DASHES = "-–—"
#: What stands between the numbers of a permutation in a sentence: "2, 1, 3", "2 > 1", "2, 1 and 3", "2, 1, and 3".
_BETWEEN = ((">",), (",",), ("and",), (",", "and"))
_RISING = (("<",),)


def without_ranges(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Mention]:
    """The mentions less those of ranges: "[1-3]" gives no order and names more than two passages.

    A range is two rising numbers with a dash between them; "2-1-3" and "2 - 1" are no ranges.
    """
    dashed = [_dash(tokens, one, two) for one, two in itertools.pairwise(mentions)]
    ranged: set[int] = set()
    for at, joined in enumerate(dashed):
        alone = not (at and dashed[at - 1]) and not (at + 1 < len(dashed) and dashed[at + 1])
        if joined and alone and mentions[at].number < mentions[at + 1].number:
            ranged |= {at, at + 1}
    return [mention for at, mention in enumerate(mentions) if at not in ranged]


def bare_lines(tokens: Sequence[Token]) -> list[Reading]:
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


def bare_runs(tokens: Sequence[Token], mentions: Sequence[Mention]) -> list[Reading]:
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
        return [Reading(numbers, LISTED, ARROWS, start)]
    opens = all(t.text in "([-•\n" for t in tokens[max(0, start - 2) : start]) or tokens[start - 1].text in ":\n"
    closes = end == len(tokens) or tokens[end].text in ".])\n"
    if opens and closes and (len(run) > 1 or wordless):
        return [Reading(numbers, LISTED, "bare numbers", start)]
    return []


def bare_permutations(tokens: Sequence[Token], mentions: Sequence[Mention], count: int) -> list[Reading]:
    """Runs in a sentence that name every passage and nothing else: "The order is 2, 1, 3." says what it looks like.

    Anything less is taken for prose, as in "Passages about fleas: 2 of 3, since 2019".
    """
    complete = set(range(1, count + 1))
    found: list[Reading] = []
    for between, step in ((_BETWEEN, 1), (_RISING, -1)):
        for run in _joined(tokens, mentions, between):
            numbers = tuple(mention.number for mention in run)[::step]
            if len(run) > 1 and set(numbers) == complete and not _decimal(tokens, run):
                found.append(Reading(numbers, MENTIONED, "bare numbers in a sentence", run[0].start))
    return found


def _joined(
    tokens: Sequence[Token], mentions: Sequence[Mention], between: Sequence[tuple[str, ...]]
) -> list[list[Mention]]:
    """Maximal runs of mentions with one of the separators between each two."""
    runs: list[list[Mention]] = []
    for mention in mentions:
        last = runs[-1][-1].end if runs else 0
        if runs and mention.start - last <= 2 and tuple(t.text for t in tokens[last : mention.start]) in between:
            runs[-1].append(mention)
        else:
            runs.append([mention])
    return runs


def _dash(tokens: Sequence[Token], one: Mention, two: Mention) -> bool:
    return two.start == one.end + 1 and tokens[one.end].text in _DASHES


def _decimal(tokens: Sequence[Token], run: Sequence[Mention]) -> bool:
    """Whether the first or the last number of a run is half of a decimal fraction, as in "0.1, 2"."""
    start, end = run[0].start, run[-1].end
    before = start > 1 and tokens[start - 1].text == "." and tokens[start - 2].kind == "number"
    return before or (end + 1 < len(tokens) and tokens[end].text == "." and tokens[end + 1].kind == "number")
