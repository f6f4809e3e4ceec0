"""Tournaments: stage by stage, groups send their best on, and every stage survived is a point.

Source: TourRank of Chen et al., WWW 2025, arXiv 2406.11678, section 3.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from rerank.errors import UsageError
from rerank.strategies.sliding import check_window
from rerank.types import Order, Plan, Ranking, Window


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage: who is in it is dealt into groups, and so many go on."""

    entrants: int
    groups: int
    advancing: int

    def quota(self, group: int) -> int:
        """How many of a group go on; the first groups are the larger ones and send more where it does not divide."""
        return self.advancing // self.groups + (group < self.advancing % self.groups)

    def windows(self) -> int:
        """Groups of one ask nothing."""
        return min(self.groups, self.entrants - self.groups)


class _Played:
    """One tournament under way.

    Attributes:
        left: Who is still in it, by position in the given list.
        points: Stages survived, one number a document.
        places: Place in the last group that was survived; 0 where none was.
    """

    def __init__(self, n: int, chance: random.Random) -> None:
        self.left = list(range(n))
        self.points = [0] * n
        self.places = [0] * n
        self._chance = chance

    def deal(self, stage: _Stage) -> list[_Group]:
        """The groups of a stage, those left dealt by their given order, each group shuffled."""
        dealt = [sorted(self.left)[group :: stage.groups] for group in range(stage.groups)]
        self.left = []
        for shown in dealt:
            self._chance.shuffle(shown)
        return [_Group(self, shown, stage.quota(group)) for group, shown in enumerate(dealt)]


@dataclass(frozen=True, slots=True)
class _Group:
    """Documents of one tournament that are shown together, and how many of them go on."""

    of: _Played
    shown: list[int]
    quota: int

    def won(self, order: Order) -> None:
        """Let the best go on."""
        for place, position in enumerate(order[: self.quota]):
            doc = self.shown[position]
            self.of.left.append(doc)
            self.of.points[doc] += 1
            self.of.places[doc] = place


@dataclass(frozen=True, slots=True, kw_only=True)
class Tournament:
    """Hold tournaments, each with its own shuffles, and order by the points of all of them together.

    A stage deals who is left to groups like seeds, the first of the given list to different groups, shuffles each
    group, and asks for its best. Of n documents n/2, n/5, n/10, n/20, n/50 ... go on, rounded up, until two are left;
    that is 100-50-20-10-5-2 for 100. A stage has the fewest groups of at most ``size`` that divide evenly both who is
    in it and who goes on, or else the fewest there can be. Each who goes on gets a point.

    Equal points: the paper keeps the given order. Here a judge puts in order whom it sends on, so the better place
    in the last group that was survived comes first (the mean over the tournaments with a point), then the given order.

    Calls for n documents: passes x the sum of the groups of all stages, groups of one left out. With n = 100 and
    groups of 20: 5 + 5 + 1 + 1 + 1 = 13 a tournament. The tournaments are played side by side: 5 rounds of calls,
    however many there are.

    A window without an answer sends on those whom the shuffle put first.

    A judge that makes no mistakes gets as many of the best in order as the strictest stage of several groups lets go
    on from each, 4 with 100 documents.

    Attributes:
        size: Documents in a group, at most.
        passes: Tournaments; the paper's r.
        seed: Where the shuffles start.

    Raises:
        UsageError: ``size < 2`` or ``passes < 1``.
    """

    size: int = 20
    passes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_window(self.size, 1)
        if self.passes < 1:
            raise UsageError(f"{self.passes} tournaments", expected="at least 1")

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield the groups of one stage of all tournaments together."""
        n = len(ranking)
        played = [_Played(n, random.Random(f"{self.seed}/{ranking.query.id}/{at}")) for at in range(self.passes)]
        for stage in self._stages(n):
            groups = [group for tournament in played for group in tournament.deal(stage)]
            asked = [_window(ranking, group.shown, group.quota) for group in groups if len(group.shown) > 1]
            orders = iter((yield asked))
            for group in groups:
                group.won(next(orders) if len(group.shown) > 1 else (0,))
        points = [sum(tournament.points[at] for tournament in played) for at in range(n)]
        places = [_mean_place(played, at) for at in range(n)]
        return ranking.reorder(0, tuple(sorted(range(n), key=lambda at: (-points[at], places[at], at))))

    def calls(self, n: int) -> int:
        """The formula above."""
        return self.passes * sum(stage.windows() for stage in self._stages(n))

    def _stages(self, n: int) -> Iterator[_Stage]:
        """The stages of a tournament of n; the last is one group that leaves two, or one of two."""
        left = n
        shares = (digit * 10**power for power in count() for digit in (2, 5, 10))
        while left > 1:
            wanted = max(2, math.ceil(n / next(shares)))
            fewest = math.ceil(left / self.size)
            even = (at for at in range(fewest, 2 * fewest) if left % at == wanted % at == 0)
            groups = next(even, fewest)
            stage = _Stage(left, groups, max(wanted, groups))
            yield stage
            left = stage.advancing if (groups, stage.advancing) != (1, 2) else 0


def _mean_place(played: list[_Played], doc: int) -> float:
    survived = [tournament.places[doc] for tournament in played if tournament.points[doc]]
    return sum(survived) / len(survived) if survived else 0.0


def _window(ranking: Ranking, shown: list[int], best: int) -> Window:
    return Window(ranking.query, tuple(ranking.docs[at] for at in shown), best=best)
