"""Move-to-Front: stay with a run while it gives relevant documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import Chance, Cursor, Walk, WalkAcross
from rerank.adjudication.pools import Topic


@dataclass(frozen=True, kw_only=True)
class Mtf:
    """Runs begin with the same priority. Judge down one of the highest priority until a document is not relevant.

    That costs the run one, and the next is chosen anew; ties by chance. Documents that are judged already are passed
    over at no cost. Source: Cormack, Palmer and Clarke, Efficient construction of large test collections, SIGIR 1998.
    """

    title: ClassVar[str] = "Move-to-Front"
    random: ClassVar[bool] = True

    def __call__(self, topic: Topic, chance: Chance) -> Walk:
        """See `Order`."""
        walk = move_to_front([topic], chance)
        answer = None
        while True:
            try:
                _, doc = walk.send(answer)  # type: ignore[arg-type]
            except StopIteration:
                return
            answer = yield doc


def move_to_front(topics: Sequence[Topic], chance: Chance) -> WalkAcross:
    """Walk down the runs of all topics, each run of each topic with a priority of its own.

    All that have the highest priority leave it, one by one, before any of a lower one is looked at: so one shuffle
    gives the order among them, and those that left with a document that was not relevant are the next to be shuffled.
    """
    cursors = [Cursor.of(topic) for topic in topics]
    highest = [(at, run) for at, topic in enumerate(topics) for run in range(len(topic.lists))]
    while highest:
        lower = []
        for at, run in [highest[place] for place in chance.permutation(len(highest))]:
            relevant = True
            while relevant and (doc := cursors[at].next(run)) is not None:
                relevant = yield at, doc
            if not relevant:
                lower.append((at, run))
        highest = lower
