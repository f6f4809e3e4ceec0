"""Rendering and tokenization of the target text of a generative reranker: the identifiers, best first.

Tokens are assigned to ranks by character offsets. This works for every tokenizer, whether it splits numbers into
digits, keeps them whole, or merges a bracket with the next character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.lm.tokenizers import HfTokens
from rerank.types import Order

#: Separator between two identifiers, as in the training data of the published models.
SEPARATOR = " > "


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTokens:
    """The tokens of a target text, with the rank of the document that each token belongs to.

    Attributes:
        ids: Token ids, including the end-of-text token.
        ranks: Rank of the identifier that each token belongs to, from 1; 0 for separators and the end-of-text token.
        first: Index of the first token of the first identifier, after its bracket.
    """

    ids: tuple[int, ...]
    ranks: tuple[int, ...]
    first: int


def render_target_order(order: Order, names: Sequence[str], prefix: str = "") -> tuple[str, list[tuple[int, int]]]:
    """Return the target text of an order, and the character span of each identifier with its brackets.

    >>> render_target_order((1, 0), ("1", "2"))
    ('[2] > [1]', [(0, 3), (6, 9)])
    >>> render_target_order((1, 0), ("1", "2"), prefix="Order: [")
    ('2] > [1]', [(0, 2), (5, 8)])

    Args:
        order: Positions of the documents, best first.
        names: Identifier of each document, without brackets.
        prefix: Start of the completion that is already part of the prompt. If it ends in ``[``, the target text starts
            without this bracket.
    """
    items = [f"[{names[position]}]" for position in order]
    skipped = 1 if prefix.endswith("[") else 0  # the opening bracket is already in the prompt
    spans = []
    start = -skipped
    for item in items:
        spans.append((max(start, 0), start + len(item)))
        start += len(item) + len(SEPARATOR)
    return SEPARATOR.join(items)[skipped:], spans


def tokenize_target_text(tokens: HfTokens, rendered: str, text: str, spans: Sequence[tuple[int, int]]) -> TargetTokens:
    """Tokenize a target text that follows a prompt.

    Prompt and target are tokenized together. If a token spans the border between them, the target is tokenized alone,
    because at inference the prompt tokens are fixed before the first completion token.

    A token belongs to the identifier that contains the token's first non-whitespace character. A token outside of all
    identifiers is a separator.

    Args:
        tokens: A fast tokenizer.
        rendered: The prompt, including the chat template.
        text: The target text.
        spans: Character spans of the identifiers in ``text``, best first.
    """
    prompt = tokens.ids(rendered)
    ids, starts = tokens.starts(rendered + text)
    begin = len(rendered)
    if ids[: len(prompt)] == prompt and starts[len(prompt) : len(prompt) + 1] >= [begin]:
        ids, starts = ids[len(prompt) :], [start - begin for start in starts[len(prompt) :]]
    else:
        encoded = tokens.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, starts = encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]]
    ranks = [_rank_in_target(_first_visible_training_target_offset(text, start), spans) for start in starts]
    name = spans[0][0] + (text[spans[0][0]] == "[")
    first = max(index for index, start in enumerate(starts) if start <= name)
    end = tokens.tokenizer.eos_token_id
    closing = [] if end is None else [end]
    return TargetTokens(ids=(*ids, *closing), ranks=(*ranks, *(0 for _ in closing)), first=first)


def _first_visible_training_target_offset(text: str, start: int) -> int:
    """Return the offset of the first non-whitespace character at or after ``start``."""
    return start + len(text[start:]) - len(text[start:].lstrip())


def _rank_in_target(position: int, spans: Sequence[tuple[int, int]]) -> int:
    return next((rank for rank, (start, end) in enumerate(spans, 1) if start <= position < end), 0)
