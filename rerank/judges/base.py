"""What a judge is: something that puts the documents of a window in order. Knows no strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from rerank.types import Order, Window

#: How a window went. In words: a permutation as asked; complete after dropping repeats and foreign identifiers or
#: reading another form; some identifiers missing and appended; no identifier; no identifier and the model declines;
#: no reply.
Status = Literal["ok", "repaired", "partial", "empty", "refused", "error"]
STATUSES: tuple[Status, ...] = get_args(Status)
#: Statuses that say nothing about the documents: the window keeps its order and counts as a failure.
FAILURES: frozenset[Status] = frozenset({"empty", "refused", "error"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One judged window.

    Attributes:
        order: A permutation of the window's positions; the identity if the window failed.
        status: How it was come by.
        detail: What was repaired or went wrong, in words; empty if nothing.
    """

    order: Order
    status: Status
    detail: str = ""


class Judge(Protocol):
    """Something that puts windows in order."""

    def order(self, windows: Sequence[Window]) -> list[Verdict]:
        """Judge all windows, in the order given; a window that fails is a verdict, not an exception."""
