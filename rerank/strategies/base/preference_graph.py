"""Preferences between documents: those that windows revealed, and those that follow by transitivity.

Source: the revealed graph of Agrawal, Nguyen and Kiela 2026, arXiv 2602.05448 (BlitzRank), sections 2.2 and 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


class PreferenceGraph:
    """A graph with an edge from each document to every document known to be worse, directly or by transitivity.

    Judges may contradict themselves. The documents of a cycle of preferences form a tier: they are tied.

    A set of documents is an integer with one bit per position, so that a hundred documents take a few machine words.

    Attributes:
        above: For each position in the list, the set of positions that are known to be better. A document in a cycle is
            in its own set.
        below: The same for the positions that are known to be worse.
    """

    def __init__(self, n: int) -> None:
        """Create a graph of ``n`` documents without edges."""
        self.above = [0] * n
        self.below = [0] * n
        self._won = [0] * n  # the positions that a document was ranked above in some window
        self._lost = [0] * n

    def add_window_order(self, positions: Sequence[int], depth: int) -> None:
        """Add the preferences of a judged window.

        Args:
            positions: The documents of the window, best first.
            depth: Number of documents that the judge ranked, at least 1. The order of the other documents is ignored.
        """
        ranked, others = positions[:depth], positions[depth:]
        # Neighbours suffice, since all other pairs follow by transitivity.
        for better, worse in pairwise(ranked):
            self._add_preference(better, worse)
        for worse in others:
            self._add_preference(ranked[-1], worse)
        seen, unseen = 0, sum(1 << position for position in positions)
        for position in ranked:
            unseen ^= 1 << position
            self._won[position] |= unseen
            self._lost[position] |= seen
            seen |= 1 << position
        for position in others:
            self._lost[position] |= seen

    def tier(self, position: int) -> int:
        """Return the set of documents that are tied with a document, including itself."""
        return self.above[position] & self.below[position] | 1 << position

    def count_better(self, position: int) -> int:
        """Return the number of documents known to be better, without ties: the in-reach of the paper's figure 3."""
        return (self.above[position] & ~self.tier(position)).bit_count()

    def count_worse(self, position: int) -> int:
        """Return the number of documents known to be worse, without ties."""
        return (self.below[position] & ~self.tier(position)).bit_count()

    def count_net_wins_in_tier(self, position: int) -> int:
        """Return how many tied documents a document was ranked above, minus the number that it was ranked below.

        This is the Copeland score within the tier. Tied documents that it was ranked both above and below cancel out.
        """
        tier = self.tier(position)
        return (self._won[position] & tier).bit_count() - (self._lost[position] & tier).bit_count()

    def is_resolved(self, position: int) -> bool:
        """Return whether the document's relation to every other document is known."""
        known = self.above[position] | self.below[position] | 1 << position
        return known.bit_count() == len(self.above)

    def _add_preference(self, better: int, worse: int) -> None:
        """Add an edge and all edges that follow by transitivity."""
        if self.below[better] >> worse & 1:
            return
        upper = self.above[better] | 1 << better
        lower = self.below[worse] | 1 << worse
        for position in range(len(self.above)):
            if upper >> position & 1:
                self.below[position] |= lower
            if lower >> position & 1:
                self.above[position] |= upper
