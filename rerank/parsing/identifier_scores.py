"""Parse replies that assign a score to each passage, such as ``{"[1]": 5, "[2]": 3}`` (GroupRank, arXiv 2511.11653)."""

from __future__ import annotations

import re

from rerank.parsing.clean import extract_answer_without_thoughts, normalize_reply_signs
from rerank.parsing.mentions import MAX_DIGITS

#: An identifier as the key of a JSON object, and its score. A score at the very end of the reply does not match, since
#: truncation may have removed digits.
_SCORED = re.compile(
    rf"""["']?\[?\s*(\d{{1,{MAX_DIGITS}}})\s*\]*["']?\s*:\s*["']?(-?\d{{1,9}}(?:\.\d{{1,9}})?)(?=["'\s,}}])"""
)


def parse_identifier_scores(text: str, count: int) -> dict[int, float]:
    """Return the scores in the last JSON object that contains scores. The object may be truncated.

    A reply without braces counts as one object.

    Args:
        text: The reply; any text is allowed. Thoughts, and explanations in tags such as ``<reason>``, are ignored.
        count: Number of passages in the prompt.

    Returns:
        A mapping from the position (from 0) of each scored passage to its score; empty if there are no scores. Unknown
        identifiers are dropped. If an identifier has several scores, the last one is used.

    >>> parse_identifier_scores('<reason>[2] is better</reason><answer>{"[1]": 3, "[2]": 8}</answer>', 2)
    {0: 3.0, 1: 8.0}
    """
    before, *objects = normalize_reply_signs(extract_answer_without_thoughts(text)).split("{")
    for inside in reversed(objects or [before]):
        pairs = ((int(number), float(score)) for number, score in _SCORED.findall(inside))
        if scores := {number - 1: score for number, score in pairs if 1 <= number <= count}:
            return scores
    return {}
