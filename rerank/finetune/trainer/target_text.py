"""The written order that a model is to learn, as tokens, and the rank that each token belongs to.

Ranks come from characters, so they are right for any tokenizer: whether it splits numbers into digits, keeps them
whole, or joins a bracket with what follows it. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.lm.tokenizers import HfTokens
from rerank.types import Order

#: What stands between two identifiers, as in the published models' training.
SEPARATOR = " > "


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A label as tokens.

    Attributes:
        ids: Token ids, the end of the text with them.
        ranks: For each, the rank of the identifier that it belongs to, from 1; 0 for separators and the end.
        first: Place among them of the first token of the first identifier's name, behind its bracket.
    """

    ids: tuple[int, ...]
    ranks: tuple[int, ...]
    first: int


def written(order: Order, names: Sequence[str], begun: str = "") -> tuple[str, list[tuple[int, int]]]:
    """The text of an order, and where each of its identifiers stands in it, brackets included.

    >>> written((1, 0), ("1", "2"))
    ('[2] > [1]', [(0, 3), (6, 9)])
    >>> written((1, 0), ("1", "2"), begun="Order: [")
    ('2] > [1]', [(0, 2), (5, 8)])

    Args:
        order: Positions of the documents, best first.
        names: What each document is called, without brackets.
        begun: The beginning of the answer that the prompt gives already.
    """
    items = [f"[{names[at]}]" for at in order]
    given = 1 if begun.endswith("[") else 0
    spans = []
    at = -given
    for item in items:
        spans.append((max(at, 0), at + len(item)))
        at += len(item) + len(SEPARATOR)
    return SEPARATOR.join(items)[given:], spans


def tokenized(tokens: HfTokens, rendered: str, text: str, spans: Sequence[tuple[int, int]]) -> Label:
    """Tokens of a label behind its prompt.

    The label is cut into tokens as it stands behind the prompt; where a token would reach over the border, it is cut by
    itself, because at inference the prompt's tokens are there before the first one of the answer.

    A token belongs to the identifier in which its first character that is not white space stands; it is a separator's
    where that is in none.

    Args:
        tokens: The tokenizer, a fast one.
        rendered: The prompt, chat template and all.
        text: The label's text.
        spans: Where its identifiers stand in it, best first.
    """
    prompt = tokens.ids(rendered)
    ids, starts = tokens.starts(rendered + text)
    begin = len(rendered)
    if ids[: len(prompt)] == prompt and starts[len(prompt) : len(prompt) + 1] >= [begin]:
        ids, starts = ids[len(prompt) :], [start - begin for start in starts[len(prompt) :]]
    else:
        found = tokens.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, starts = found["input_ids"], [start for start, _ in found["offset_mapping"]]
    ranks = [_rank(_visible(text, start), spans) for start in starts]
    name = spans[0][0] + (text[spans[0][0]] == "[")
    first = max(at for at, start in enumerate(starts) if start <= name)
    end = tokens.tokenizer.eos_token_id
    closing = [] if end is None else [end]
    return Label(ids=(*ids, *closing), ranks=(*ranks, *(0 for _ in closing)), first=first)


def _visible(text: str, start: int) -> int:
    """The first character from ``start`` on that is not white space."""
    return start + len(text[start:]) - len(text[start:].lstrip())


def _rank(position: int, spans: Sequence[tuple[int, int]]) -> int:
    return next((rank for rank, (start, end) in enumerate(spans, 1) if start <= position < end), 0)
