"""Collection of the requests of a run, by running its strategy with a judge that sends no request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rerank.errors import UsageError
from rerank.experiment.candidates import order_candidate_list_of_spec
from rerank.experiment.prepare import PreparedRun
from rerank.judges.base import Judge, OversizedWindow, ScoreKind, Verdict
from rerank.pipeline.stream import Flow, Ranker, drive_ranking_stream
from rerank.strategies.base import Strategy
from rerank.tasks import Reply, Request
from rerank.types import Plan, Ranking, Window

_INDEPENDENT = "a method whose calls do not depend on each other's replies, such as fullrank or pointwise"


@dataclass(kw_only=True)
class _CollectingJudge:
    """A judge that passes another judge's requests to a function without sending them, and keeps the given order."""

    judge: Judge
    on_request: Callable[[Request], None]
    divides: bool

    @property
    def score_kind(self) -> ScoreKind | None:
        return None

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        requests = self.judge.requests(window)
        if isinstance(requests, OversizedWindow):
            if not self.divides:
                raise UsageError(
                    f"The {len(window)} documents of query {window.query.id!r} do not fit in one prompt, so they are "
                    "ranked in parts, each of which depends on the replies to the parts before it",
                    expected=f"at most {requests.capacity} documents per prompt",
                    remedy="Use a smaller --depth or --max-passage-tokens, or omit --provider-batch",
                )
            return requests
        for request in requests:
            self.on_request(request)
        return []  # nothing is sent

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        return Verdict(order=tuple(range(len(window))), status="ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class _OneRound:
    """A wrapper for a strategy, which raises an error if the strategy needs results before it yields all windows."""

    strategy: Strategy
    name: str

    def __call__(self, ranking: Ranking) -> Plan:
        plan = self.strategy(ranking)
        try:
            orders = yield next(plan)
            plan.send(orders)
        except StopIteration as end:
            result: Ranking = end.value
            return result
        raise UsageError(
            f"--provider-batch cannot be used with the method {self.name}: later windows depend on the replies to "
            f"earlier windows, so the {len(ranking)} candidates of query {ranking.query.id!r} need several rounds of "
            "up to 24 hours each",
            expected=_INDEPENDENT,
            remedy="Choose another --method, or omit --provider-batch",
        )

    def calls(self, n: int) -> int:
        return self.strategy.calls(n)


def collect_run_requests(
    prepared: PreparedRun, on_request: Callable[[Request], None], *, in_one_round: bool = False
) -> None:
    """Call a function with each request of a run, assuming that every reply keeps the order of the documents.

    Args:
        prepared: The prepared run.
        on_request: Function that is called with each request.
        in_one_round: Whether to check that no request depends on a reply, so that the requests are those of the run.
    """
    judge = _CollectingJudge(judge=prepared.judge, on_request=on_request, divides=not in_one_round)
    ranker = Ranker(strategy=prepared.setup.strategy, judge=judge, passages=prepared.setup.passages)
    if in_one_round:
        ranker = replace(ranker, strategy=_OneRound(strategy=ranker.strategy, name=prepared.spec.shown_method))
    lists = (order_candidate_list_of_spec(ranking, prepared.spec) for ranking in prepared.lists)
    for _ in drive_ranking_stream(lists, ranker, prepared.backend, Flow.of(prepared.backend)):
        pass  # iterating runs the strategy, and the judge collects the requests
