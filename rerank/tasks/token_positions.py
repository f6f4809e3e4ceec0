"""Format and parse the token positions in the reply to an `AttentionTask` with ``per_token``.

The reply's text is a JSON list with one list per passage: the positions of its tokens, in characters from the start of
the passage's span in the prompt. The reply's scores belong to the same tokens, passage by passage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from rerank.errors import DataError, error_repr


def format_task_token_positions(positions: Sequence[Sequence[int]]) -> str:
    """Format the positions of the tokens of each passage.

    >>> format_task_token_positions([[0, 4], []])
    '[[0,4],[]]'
    """
    return json.dumps([list(row) for row in positions], separators=(",", ":"))


def read_task_token_scores(text: str, scores: Sequence[float], passages: int) -> list[list[tuple[int, float]]]:
    """Parse the reply to a request for token scores.

    Args:
        text: Text of the reply.
        scores: Scores of the reply.
        passages: Number of passages in the request.

    Returns:
        One list per passage, with the (position, score) pair of each token.

    >>> read_task_token_scores("[[0,4],[]]", (0.25, 0.5), 2)
    [[(0, 0.25), (4, 0.5)], []]
    """
    try:
        rows = [[int(position) for position in row] for row in json.loads(text)]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"The token positions in a reply are {error_repr(text)}",
            expected="a JSON list of lists of whole numbers",
        ) from error
    counted = sum(map(len, rows))
    if len(rows) != passages or counted != len(scores):
        raise DataError(
            f"A reply has {len(scores)} scores for {counted} tokens of {len(rows)} passages",
            expected=f"one score per token of {passages} passages",
        )
    remaining = iter(scores)
    return [[(position, next(remaining)) for position in row] for row in rows]
