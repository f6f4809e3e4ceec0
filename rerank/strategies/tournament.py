"""Tournaments, in which the winners of windows meet: with stages and points, by a graph, and as a sort.

Sources: `Tournament` is TourRank of Chen et al., WWW 2025, arXiv 2406.11678, section 3; `TournamentGraph` is BlitzRank
of Agrawal, Nguyen and Kiela 2026, arXiv 2602.05448, algorithm 1 with the ties of conjecture 63; `TournamentSort` is the
m-ary tournament sort with output caching of ListT5 (Yoon et al., ACL 2024, arXiv 2402.15838), with windows that are
ranked completely, as in the listwise tournament of ListK (Shin, Chang and Nargesian, arXiv 2603.17223).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from rerank.strategies.base import PreferenceGraph, check_choice, check_passes, check_window
from rerank.types import Order, Plan, Ranking, Window


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of a tournament: its entrants are divided into groups, and ``advancing`` of them advance."""

    entrants: int
    groups: int
    advancing: int

    def quota(self, group: int) -> int:
        """Return how many documents of a group advance.

        If the number cannot be the same in all groups, one more document advances from each of the first groups.
        """
        return self.advancing // self.groups + (group < self.advancing % self.groups)

    def windows(self) -> int:
        """Return the number of groups with more than one document; a single document needs no window."""
        return min(self.groups, self.entrants - self.groups)


class _State:
    """One tournament in progress."""

    def __init__(self, n: int, rng: random.Random) -> None:
        self.remaining = list(range(n))  # positions in the input list of the documents still in the tournament
        self.points = [0] * n  # number of stages from which each document advanced
        self.ranks = [0] * n  # rank (from 0) of each document in the last group from which it advanced
        self._rng = rng

    def make_groups(self, stage: _Stage) -> list[_Group]:
        """Distribute the remaining documents over the groups of a stage in input order, and shuffle each group."""
        groups = [sorted(self.remaining)[group :: stage.groups] for group in range(stage.groups)]
        self.remaining = []
        for positions in groups:
            self._rng.shuffle(positions)
        return [_Group(self, positions, stage.quota(group)) for group, positions in enumerate(groups)]


@dataclass(frozen=True, slots=True)
class _Group:
    """Documents of one tournament that are judged together, of which ``quota`` advance."""

    tournament: _State
    positions: list[int]
    quota: int

    def advance(self, order: Order) -> None:
        for rank, index in enumerate(order[: self.quota]):
            position = self.positions[index]
            self.tournament.remaining.append(position)
            self.tournament.points[position] += 1
            self.tournament.ranks[position] = rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Tournament:
    """A strategy that plays several tournaments with different shuffles and sorts documents by their total points.

    A stage distributes the remaining documents over groups like seeded players, so that the first documents of the list
    are in different groups. Each group is shuffled and judged, and its best documents advance to the next stage and
    receive a point. Of n documents, n/2, n/5, n/10, n/20, n/50 ... advance, rounded up, until two are left; for
    n = 100, this is 100-50-20-10-5-2. Groups have at most ``size`` documents. The number of groups is the smallest one
    that divides both the number of entrants and the number of advancing documents, or else the smallest possible
    number.

    Ties: The paper keeps the input order of documents with equal points. Here, a judge also ranks the advancing
    documents. Ties are therefore broken by the rank in the last group from which a document advanced (the mean over the
    tournaments in which it has a point), then by input order.

    Calls for n documents: passes x the number of groups of all stages, without groups of one document. With n = 100 and
    groups of 20: 5 + 5 + 1 + 1 + 1 = 13 per tournament. All tournaments are played in parallel, so the number of rounds
    does not depend on their number (5 for n = 100). If a window has no valid answer, the documents that the shuffle put
    first advance.

    With a perfect judge, the number of top ranks that are correct is the smallest number of documents that advance from
    a group in a stage with several groups: 4 for n = 100.
    """

    size: int = 20  # maximum number of documents per group
    passes: int = 1  # number of tournaments (r in the paper)
    seed: int = 0

    def __post_init__(self) -> None:
        check_window(self.size, 1)
        check_passes(self.passes)

    def __call__(self, ranking: Ranking) -> Plan:
        n = len(ranking)
        tournaments = [
            _State(n, random.Random(f"{self.seed}/{ranking.query.id}/{index}")) for index in range(self.passes)
        ]
        for stage in self._stages(n):
            groups = [group for tournament in tournaments for group in tournament.make_groups(stage)]
            windows = [
                Window(ranking.query, tuple(ranking.docs[position] for position in group.positions), best=group.quota)
                for group in groups
                if len(group.positions) > 1
            ]
            orders = iter((yield windows))
            for group in groups:
                group.advance(next(orders) if len(group.positions) > 1 else (0,))
        points = [sum(tournament.points[position] for tournament in tournaments) for position in range(n)]
        survived = [[state.ranks[doc] for state in tournaments if state.points[doc]] for doc in range(n)]
        ranks = [sum(row) / len(row) if row else 0.0 for row in survived]
        # Ties: the better mean rank in the last group from which a document advanced, then the input order.
        order = sorted(range(n), key=lambda position: (-points[position], ranks[position], position))
        return ranking.reorder(0, tuple(order))

    def calls(self, n: int) -> int:
        return self.passes * sum(stage.windows() for stage in self._stages(n))

    def _stages(self, n: int) -> Iterator[_Stage]:
        """Yield the stages of a tournament of n documents. The last stage is one group, from which two advance."""
        remaining = n
        # 2, 5, 10, 20, 50, 100, ...: the fractions of n that advance, as in the paper's 100-50-20-10-5-2.
        divisors = (digit * 10**power for power in count() for digit in (2, 5, 10))
        while remaining > 1:
            target = max(2, math.ceil(n / next(divisors)))
            minimum = math.ceil(remaining / self.size)
            # The smallest number of groups with equal sizes and equal quotas, if it is below twice the minimum number.
            even = (groups for groups in range(minimum, 2 * minimum) if remaining % groups == target % groups == 0)
            groups = next(even, minimum)
            stage = _Stage(remaining, groups, max(target, groups))
            yield stage
            remaining = stage.advancing if (groups, stage.advancing) != (1, 2) else 0


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
    """

    size: int = 20  # number of documents per window (k in the paper)
    #: Number of best documents to rank (m in the paper). A window ranks only its own ``top_k`` best documents.
    top_k: int = 10

    def __post_init__(self) -> None:
        check_choice(self.size, self.top_k)

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield, as one round, all windows of documents that were never judged; then yield one window at a time."""
        n = len(ranking)
        graph = PreferenceGraph(n)
        step = min(self.size, n)
        groups = [list(range(start, start + step)) for start in range(0, n - step + 1, step)] if n > 1 else []
        calls = 0
        while groups and calls + len(groups) <= self.calls(n):
            calls += len(groups)
            windows = [
                Window(ranking.query, tuple(ranking.docs[p] for p in group), best=self.top_k) for group in groups
            ]
            for window, group, order in zip(windows, groups, (yield windows), strict=True):
                graph.add_order([group[index] for index in order], window.depth)
            groups = self._next_group(graph)
        return ranking.reorder(
            0, tuple(sorted(range(n), key=lambda p: (graph.count_better(p), -graph.count_net_wins_in_tier(p))))
        )

    def calls(self, n: int) -> int:
        if n <= self.size:
            return int(n > 1)
        best = min(self.top_k, n)
        return math.ceil(1.25 * (n + best - 2) / (self.size - 1) * (1 + math.log(best, self.size)))

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TournamentSort:
    """A strategy that judges only documents that may be the next best one, and never compares two documents twice.

    The contenders are the remaining documents that are not known to be worse than another remaining document. At first,
    these are all documents. They are divided into windows, and only the winner of each window remains a contender,
    until only one is left. This contender is the next document of the ranking and is removed; the documents that were
    directly behind it in a window then become contenders. After ``top_k`` removals, the others are sorted by the number
    of better documents, then by input order.

    Contenders have no known order, so no window can contradict an earlier window. With a perfect judge, the first
    ``top_k`` documents are correct.

    With n = 100, windows of 20 and the ten best: 5 windows of 20 and one with their winners, then one of two to five
    documents for each of the other nine ranks. These 15 calls in 11 rounds show 130 passages if the input order is
    random, whereas sliding windows show 180 in 9 calls.

    Maximum number of calls: w(n) + the sum over 1 <= j < min(top_k, n - 1) of w(min(n - j, r_j)), where w(c) is the
    number of windows that find the best of c contenders, and r_j is the number of rounds until the j-th removal: a
    document has been in at most one window per round.
    """

    size: int = 20  # maximum number of documents per window
    #: Number of best documents to rank. A window ranks only the documents that can still be among them.
    top_k: int = 10

    def __post_init__(self) -> None:
        check_choice(self.size, self.top_k)

    def __call__(self, ranking: Ranking) -> Plan:
        n = len(ranking)
        graph = PreferenceGraph(n)
        best = list[int]()
        while len(best) < min(self.top_k, n):
            removed = sum(1 << position for position in best)
            contenders = [p for p in range(n) if not (removed >> p & 1 or graph.above[p] & ~removed)]
            if len(contenders) == 1:
                best += contenders
                continue
            groups = [contenders[start:end] for start, end in self._spans(len(contenders))]
            wanted = self.top_k - len(best)
            windows = [Window(ranking.query, tuple(ranking.docs[p] for p in group), best=wanted) for group in groups]
            for window, group, order in zip(windows, groups, (yield windows), strict=True):
                graph.add_order([group[index] for index in order], window.depth)
        others = sorted(set(range(n)).difference(best), key=lambda position: (graph.count_better(position), position))
        return ranking.reorder(0, (*best, *others))

    def calls(self, n: int) -> int:
        calls = rounds = 0
        for removed in range(min(self.top_k, n - 1)):
            contenders = min(n - removed, rounds) if removed else n
            while contenders > 1:
                windows = sum(1 for _ in self._spans(contenders))
                calls, rounds, contenders = calls + windows, rounds + 1, math.ceil(contenders / self.size)
        return calls

    def _spans(self, contenders: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each window of a round; a contender left over alone waits for the next round."""
        for start in range(0, contenders - 1, self.size):
            yield start, min(start + self.size, contenders)
