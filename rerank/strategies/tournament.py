"""Tournaments: in each stage the best documents of every group advance and receive a point.

Source: TourRank of Chen et al., WWW 2025, arXiv 2406.11678, section 3.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from rerank.strategies.base import check_number_of_passes
from rerank.strategies.sliding import check_sliding_window
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


class _TournamentState:
    """One tournament in progress.

    Attributes:
        remaining: Positions in the input list of the documents that are still in the tournament.
        points: Number of stages from which each document advanced.
        ranks: Rank (from 0) of each document in the last group from which it advanced; 0 without points.
    """

    def __init__(self, n: int, rng: random.Random) -> None:
        self.remaining = list(range(n))
        self.points = [0] * n
        self.ranks = [0] * n
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

    tournament: _TournamentState
    positions: list[int]
    quota: int

    def advance(self, order: Order) -> None:
        """Let the best documents of the group advance to the next stage and receive a point."""
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

    Attributes:
        size: Maximum number of documents per group.
        passes: Number of tournaments (r in the paper).
        seed: Seed of the shuffles.
    """

    size: int = 20
    passes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_sliding_window(self.size, 1)
        check_number_of_passes(self.passes)

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield, for each stage, the groups of all tournaments together."""
        n = len(ranking)
        tournaments = [
            _TournamentState(n, random.Random(f"{self.seed}/{ranking.query.id}/{index}"))
            for index in range(self.passes)
        ]
        for stage in self._stages(n):
            groups = [group for tournament in tournaments for group in tournament.make_groups(stage)]
            windows = [_window_of_tournament_group(ranking, group) for group in groups if len(group.positions) > 1]
            orders = iter((yield windows))
            for group in groups:
                group.advance(next(orders) if len(group.positions) > 1 else (0,))
        points = [sum(tournament.points[position] for tournament in tournaments) for position in range(n)]
        ranks = [_mean_rank_in_tournaments(tournaments, position) for position in range(n)]
        # Ties: the better mean rank in the last group from which a document advanced, then the input order.
        order = sorted(range(n), key=lambda position: (-points[position], ranks[position], position))
        return ranking.reorder(0, tuple(order))

    def calls(self, n: int) -> int:
        """Return the number of windows of all stages and tournaments."""
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


def _mean_rank_in_tournaments(tournaments: list[_TournamentState], position: int) -> float:
    survived = [tournament.ranks[position] for tournament in tournaments if tournament.points[position]]
    return sum(survived) / len(survived) if survived else 0.0


def _window_of_tournament_group(ranking: Ranking, group: _Group) -> Window:
    return Window(ranking.query, tuple(ranking.docs[position] for position in group.positions), best=group.quota)
