"""Tasks that a backend can perform on a prompt, one frozen dataclass per kind of task.

Every request has a task, and every backend states which tasks it supports (`tasks_supported_by_backend`). The call
log, token budget, cache and replay treat all tasks in the same way, so a new kind of task requires no change to them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rerank.errors import DataError, UsageError, ensure, error_repr
from rerank.prompts.base import Prompt


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """Generation of a text, which the reply contains."""

    format_name: ClassVar[str] = "Write"


@dataclass(frozen=True, slots=True)
class FusionTask:
    """Generation of one text from several input texts, one per turn, which an encoder processes separately.

    Source: fusion in the decoder, Izacard and Grave, EACL 2021, arXiv 2007.01282.
    """

    format_name: ClassVar[str] = "Fuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class PermutationTask:
    """Constrained generation of a permutation without repeated identifiers; the reply contains it as text.

    Some backends also return ``scores``, one per identifier in the order of the text: the log-probability of the
    identifier among the unused ones, log P(identifier | prompt, identifiers before it).
    """

    format_name: ClassVar[str] = "Permute"

    items: tuple[str, ...]  # identifiers of the candidates, including brackets, such as ``("[1]", "[2]")``
    separator: str = " > "  # the text between two identifiers
    count: int  # number of identifiers to generate

    def __post_init__(self) -> None:
        if not 1 <= self.count <= len(self.items) or len(set(self.items)) < len(self.items):
            raise UsageError(
                f"A permutation task asks for {self.count} of the identifiers {list(self.items)}",
                expected="distinct identifiers, and a count from 1 to their number",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationTask:
    """Log-probabilities of possible continuations; the reply contains one per continuation in ``scores``."""

    format_name: ClassVar[str] = "Weigh"

    #: Texts that may follow the prompt. The log-probabilities of the tokens of a text are summed.
    continuations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodTask(ContinuationTask):
    """Log-probabilities of long continuations, such as queries.

    Servers do not support this task, since they return log-probabilities of single tokens only.
    """

    format_name: ClassVar[str] = "Recite"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitTask(ContinuationTask):
    """Logits (before the softmax) of single tokens after the prompt, for rerankers trained to reply with one word."""

    format_name: ClassVar[str] = "Logit"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTask(ContinuationTask):
    """The score that a reranker's head computes at the end of the prompt; the only continuation is empty."""

    format_name: ClassVar[str] = "Head"

    continuations: tuple[str, ...] = ("",)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTask:
    """Attention that each passage receives from the end of the prompt; the reply contains one score per passage.

    Source: ICR, Chen, Gutiérrez and Su, ICLR 2025, arXiv 2410.02642.
    """

    format_name: ClassVar[str] = "Attend"

    spans: tuple[tuple[int, int], ...]  # start and end (exclusive) of each passage in the last user turn, in characters
    #: Index of the first character of the final instruction in that turn. The attention from there to the end of the
    #: prompt is used.
    tail: int
    null: Prompt = ()  # the same chat with a content-free query, for calibration; empty for no calibration
    heads: tuple[tuple[int, int], ...] = ()  # (layer, head) pairs to use, counted from 0; empty for all heads
    #: Factor by which the attention of each head in ``heads`` is multiplied; empty for factors of 1.
    weights: tuple[float, ...] = ()
    #: Exponent p of the factor n^p by which the score of a passage with n tokens is multiplied: scores are sums over
    #: tokens for 0, and means for -1.
    length_power: float = 0.0
    layers: tuple[int, int] | None = None  # first and last layer to use; None for all layers
    #: Whether to return the scores of every head, ordered by layer, head and passage. The reply's text then contains
    #: the numbers of layers and heads, such as ``30x9``, and the token filter is not applied.
    per_head: bool = False
    #: Whether to return one score per token of the passages, ordered by passage and token. The reply's text then
    #: contains the position of every token (`format_token_positions`), and neither the token filter nor
    #: ``length_power`` is applied.
    per_token: bool = False

    def __post_init__(self) -> None:
        both = self.per_head and self.per_token
        ensure(not both, "Attention per head and per token was requested", expected="one of them per request")


def format_token_positions(positions: Sequence[Sequence[int]]) -> str:
    """Format the text of a reply to an `AttentionTask` with ``per_token``: a JSON list with one list per passage.

    It has the positions of the passage's tokens, in characters from the start of the passage's span in the prompt. The
    reply's scores belong to the same tokens, passage by passage.

    >>> format_token_positions([[0, 4], []])
    '[[0,4],[]]'
    """
    return json.dumps([list(row) for row in positions], separators=(",", ":"))


def read_token_scores(text: str, scores: Sequence[float], passages: int) -> list[list[tuple[int, float]]]:
    """Return, per passage, the (position, score) pair of each token, from the text and the scores of a reply.

    >>> read_token_scores("[[0,4],[]]", (0.25, 0.5), 2)
    [[(0, 0.25), (4, 0.5)], []]
    """
    try:
        rows = [[int(position) for position in row] for row in json.loads(text)]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"The token positions in a reply are {error_repr(text)}", expected="a JSON list of lists of whole numbers"
        ) from error
    counted = sum(map(len, rows))
    if len(rows) != passages or counted != len(scores):
        raise DataError(
            f"A reply has {len(scores)} scores for {counted} tokens of {len(rows)} passages",
            expected=f"one score per token of {passages} passages",
        )
    remaining = iter(scores)
    return [[(position, next(remaining)) for position in row] for row in rows]


#: Type of a question to a decision API. The answer to a question is a probability per option.
QuestionType = Literal["predicate", "choice", "score"]
#: Maximum number of options of a question.
MAX_OPTIONS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionTask:
    """A question about the prompt with fixed options; the reply contains one log-probability per option in ``scores``.

    Decision APIs accept an input and questions about it instead of a prompt. The task therefore states the positions of
    the passages in the prompt.
    """

    format_name: ClassVar[str] = "Decide"

    #: ``predicate`` for a statement that is true or false, ``choice`` for one of several values, or ``score`` for one
    #: of several levels.
    question: QuestionType
    #: The options: two words that stand for true and false, the values, or the levels from the highest to the lowest.
    options: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]  # start and end (exclusive) of each passage in the last user turn, in characters
    tail: int  # index of the first character of the final instruction in that turn

    def __post_init__(self) -> None:
        most = 2 if self.question == "predicate" else MAX_OPTIONS
        if not 2 <= len(self.options) <= most or len(set(self.options)) < len(self.options):
            raise UsageError(
                f"A {self.question} question has {len(self.options)} options", expected=f"2 to {most} distinct options"
            )


@dataclass(frozen=True, slots=True)
class CrossEncoderTask:
    """Relevance of each query-passage pair; the reply contains one score per passage in ``scores``.

    The first message of the prompt is the query, and each further message is a passage.
    """

    format_name: ClassVar[str] = "Relate"


Task = (
    GenerationTask
    | FusionTask
    | PermutationTask
    | ContinuationTask
    | LikelihoodTask
    | LogitTask
    | HeadTask
    | AttentionTask
    | DecisionTask
    | CrossEncoderTask
)
