"""Tournament graphs: preferences from earlier windows determine the next window, until the first ranks are certain.

Source: BlitzRank of Agrawal, Nguyen and Kiela 2026, arXiv 2602.05448, algorithm 1 with the ties of conjecture 63.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rerank.strategies.base.group_winners import check_group_choice
from rerank.strategies.base.preference_graph import PreferenceGraph
from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class TournamentGraph:
    """A strategy that collects the preferences of all windows and stops when the first ``top_k`` documents are certain.

    A document is resolved if its relation to all others is known, directly or by transitivity. The next window contains
    one document from each of the ``size`` tiers that are not resolved and have the fewest better documents; ties are
    decided by fewer worse documents, then by input order. Each window reveals at least one new preference. As long as
    there are ``size`` documents that were never judged, the next window consists of them, so these windows are yielded
    at once.

    The result is sorted by the number of better documents, then by input order. Documents that the judge ranks in a
    cycle form a tier. They are tied in the paper, which suggests the first stage's scores to order them; here, the
    number of comparisons won minus lost within the tier comes first.

    With a perfect judge, the first ``top_k`` documents are correct. For the ten best of n = 100, this takes 6 or 7
    calls with windows of 20, in 2 or 3 rounds, and 12 to 15 calls with windows of 10.

    Maximum number of calls for n documents: the paper proves only n (n - 1) / 2. It observes at most 1.25 B with
    B = ((n - 1) + (top_k - 1)) / (size - 1) x (1 + log_size(top_k)) (equation 13), and finds fewer calls with cycles.
    This strategy stops after at most that many calls, rounded up (13 for n = 100), and sorts by the known preferences.

    Attributes:
        size: Number of documents per window (k in the paper).
        top_k: Number of best documents to rank (m in the paper). A window ranks only its own ``top_k`` best documents.
    """

    size: int = 20
    top_k: int = 10

    def __post_init__(self) -> None:
        """Check the options."""
        check_group_choice(self.size, self.top_k)

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield, as one round, all windows of documents that were never judged; then yield one window at a time."""
        n = len(ranking)
        graph = PreferenceGraph(n)
        step = min(self.size, n)
        groups = [list(range(start, start + step)) for start in range(0, n - step + 1, step)] if n > 1 else []
        calls = 0
        while groups and calls + len(groups) <= self.calls(n):
            calls += len(groups)
            windows = [self._window(ranking, group) for group in groups]
            for window, group, order in zip(windows, groups, (yield windows), strict=True):
                graph.add_window_order([group[index] for index in order], window.depth)
            groups = self._next_group(graph)
        return ranking.reorder(
            0, tuple(sorted(range(n), key=lambda p: (graph.count_better(p), -graph.count_net_wins_in_tier(p))))
        )

    def calls(self, n: int) -> int:
        """Return the maximum number of calls after which this strategy stops (formula in the class docstring)."""
        if n <= self.size:
            return int(n > 1)
        best = min(self.top_k, n)
        return math.ceil(1.25 * (n + best - 2) / (self.size - 1) * (1 + math.log(best, self.size)))

    def _window(self, ranking: Ranking, positions: Sequence[int]) -> Window:
        return Window(ranking.query, tuple(ranking.docs[position] for position in positions), best=self.top_k)

    def _next_group(self, graph: PreferenceGraph) -> list[list[int]]:
        """Return the documents to judge next, in input order, or no group if the first ranks are certain."""
        n = len(graph.above)
        order = sorted(range(n), key=lambda position: (graph.count_better(position), graph.count_worse(position)))
        if all(graph.is_resolved(position) for position in order[: self.top_k]):
            return []
        chosen, tiers = list[int](), 0
        for position in order:
            if len(chosen) < self.size and not graph.is_resolved(position) and not tiers >> position & 1:
                chosen.append(position)
                tiers |= graph.tier(position)
        return [sorted(chosen)]
