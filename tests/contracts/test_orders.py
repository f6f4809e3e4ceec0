"""What every order of judging must show. Runs over everything that is registered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank.adjudication.orders import open_judging_order, orders
from rerank.adjudication.orders.base import JudgingOrder, SupportsAcross
from rerank.adjudication.pools import Bools, Pool, pool_runs
from rerank.adjudication.walks import AdjudicationBudget, judge_pool_in_order
from rerank.io.run_files import write_run
from rerank.types import Document, Query, Ranking, Run

Drawn = tuple[Pool, list[Bools]]
every = pytest.mark.parametrize("name", orders.names())


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[str], JudgingOrder]:
    """Opens an order by name; those that read a run get one."""

    def opener(name: str) -> JudgingOrder:
        if name != "llm":
            return open_judging_order(name)
        ranking = Ranking.from_order(Query(id="t0"), [Document(id=f"d{n}") for n in (3, 1, 99)])
        write_run(Run([ranking]), tmp_path / "llm.trec")
        return open_judging_order(f"llm:{tmp_path / 'llm.trec'}")

    return opener


@st.composite
def pools(draw: Callable[..., int]) -> Drawn:
    """A few runs of unequal length over a few topics, and what is relevant."""
    topics, systems = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    chance = np.random.default_rng(draw(st.integers(0, 10**6)))
    runs = [
        Run(
            [
                Ranking.from_order(
                    Query(id=f"t{topic}"),
                    [Document(id=f"d{doc}") for doc in chance.permutation(9)[: chance.integers(1, 8)]],
                )
                for topic in range(topics)
            ],
            name=f"s{system}",
        )
        for system in range(systems)
    ]
    found = pool_runs(runs)
    return found, [chance.random(len(topic)) < 0.4 for topic in found.topics]


relaxed = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


@every
@relaxed
@given(drawn=pools(), seed=st.integers(0, 5))
def test_every_document_is_judged_once(
    opened: Callable[[str], JudgingOrder], name: str, drawn: Drawn, seed: int
) -> None:
    found = judge_pool_in_order(opened(name), *drawn, seed=seed)
    for docs, topic in zip(found.docs, drawn[0].topics, strict=True):
        assert sorted(docs.tolist()) == list(range(len(topic)))


@every
@relaxed
@given(drawn=pools(), seed=st.integers(0, 5))
def test_a_seed_gives_the_same_and_what_has_no_chance_needs_none(
    opened: Callable[[str], JudgingOrder], name: str, drawn: Drawn, seed: int
) -> None:
    order = opened(name)
    first = judge_pool_in_order(order, *drawn, seed=seed)
    again = judge_pool_in_order(order, *drawn, seed=seed if order.random else seed + 1)
    assert [docs.tolist() for docs in first.docs] == [docs.tolist() for docs in again.docs]


@every
@relaxed
@given(drawn=pools(), at=st.integers(0, 8))
def test_what_comes_next_rests_on_what_was_judged_before_only(
    opened: Callable[[str], JudgingOrder], name: str, drawn: Drawn, at: int
) -> None:
    """Judging a document otherwise changes nothing up to it: a smaller budget is the head of a larger one."""
    found, relevant = drawn
    order = opened(name)
    before = judge_pool_in_order(order, found, relevant)
    for topic, docs in enumerate(before.docs):
        if at < len(docs):
            turned = [answers.copy() for answers in relevant]
            turned[topic][docs[at]] ^= True
            after = judge_pool_in_order(order, found, turned)
            assert after.docs[topic][: at + 1].tolist() == docs[: at + 1].tolist()


@every
@relaxed
@given(drawn=pools(), smaller=st.integers(1, 5), more=st.integers(0, 5))
def test_a_larger_budget_is_a_superset(
    opened: Callable[[str], JudgingOrder], name: str, drawn: Drawn, smaller: int, more: int
) -> None:
    found = judge_pool_in_order(opened(name), *drawn)
    few, many = (found.sizes(AdjudicationBudget("topic", float(amount))) for amount in (smaller, smaller + more))
    assert (few <= many).all()
    assert few.sum() == sum(min(smaller, len(topic)) for topic in drawn[0].topics)


@every
def test_topics_do_not_touch_one_another(opened: Callable[[str], JudgingOrder], name: str) -> None:
    """Unless it is an order across topics, a topic is judged as it would be alone."""
    order = opened(name)
    if isinstance(order, SupportsAcross):
        pytest.skip("it spends one budget on all topics")
    chance = np.random.default_rng(7)
    runs = [
        Run(
            [
                Ranking.from_order(Query(id=f"t{t}"), [Document(id=f"d{d}") for d in chance.permutation(20)[:12]])
                for t in range(3)
            ],
            name=str(system),
        )
        for system in range(4)
    ]
    found = pool_runs(runs)
    relevant = [chance.random(len(topic)) < 0.4 for topic in found.topics]
    together = judge_pool_in_order(order, found, relevant)
    alone = judge_pool_in_order(order, Pool(topics=found.topics[1:2], systems=found.systems), relevant[1:2])
    assert alone.docs[0].tolist() == together.docs[1].tolist()


@every
def test_it_says_what_it_is(opened: Callable[[str], JudgingOrder], name: str) -> None:
    order = opened(name)
    assert order.title
    assert type(order).__doc__
