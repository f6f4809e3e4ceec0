"""Orders of judging on a pool small enough to follow by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from rerank.adjudication.orders import open_judging_order
from rerank.adjudication.orders.adaptive import hedge_gains
from rerank.adjudication.orders.fixed import condorcet_majorities
from rerank.adjudication.pools import Pool, PooledTopic, pool_runs
from rerank.adjudication.walks import judge_pool_in_order, pool_as_run
from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises

#: Three runs of one topic; b is in all of them, f in one.
LISTS = ("abcd", "bace", "fbd")


def pooled(*lists: Sequence[str]) -> Pool:
    return pool_runs(
        [
            Run([Ranking.from_order(Query(id="q"), [Document(id=doc) for doc in ids])], name=str(n))
            for n, ids in enumerate(lists)
        ],
        depth=10_000,
    )


def topic(*lists: Sequence[str]) -> PooledTopic:
    return pooled(*lists).topics[0]


def order(name: str, relevant: str = "", lists: Sequence[Sequence[str]] = LISTS, seed: int = 0) -> str:
    found = pooled(*lists)
    answers = np.array([doc in relevant for doc in found.topics[0].docs])
    (docs,) = judge_pool_in_order(open_judging_order(name), found, [answers], seed=seed).docs
    return "".join(found.topics[0].docs[doc] for doc in docs)


def order_by_id(name: str, lists: Sequence[Sequence[str]] = LISTS) -> str:
    """The order of a judging session, in which ties go by id."""
    found = pooled(*lists)
    run = pool_as_run(found, open_judging_order(name))
    return "".join(run["q"].doc_ids)


def score(name: str, doc: str) -> float:
    found = topic(*LISTS)
    return float(open_judging_order(name).scores(found)[found.docs.index(doc)])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docid", "abcdef"),
        ("depth", "abfcde"),  # best ranks 1 1 1 3 3 4: a b f, c d, e
        ("ntcir", "bacdfe"),  # b in 3; a, c, d in 2 with sums 3, 6, 7; f, e in 1 with 1, 4
    ],
)
def test_static_orders(name: str, expected: str) -> None:
    assert order_by_id(name) == expected


def test_ties_go_by_id_in_a_session_and_by_seed_in_a_study() -> None:
    assert order_by_id("ntcir", lists=("ab", "ba")) == "ab"
    assert {order("ntcir", lists=("ab", "ba"), seed=seed) for seed in range(20)} == {"ab", "ba"}
    found = {order("depth", seed=seed) for seed in range(100)}
    assert {"".join(sorted(docs[:3])) + "".join(sorted(docs[3:5])) + docs[5] for docs in found} == {"abfcde"}
    assert len(found) == 3 * 2 * 2  # every order of a, b, f (best rank 1) and of c, d (3), then e (4)
    assert {order("docid", seed=seed) for seed in range(10)} == {"abcdef"}


@pytest.mark.parametrize("name", ["depth", "rrf", "condorcet", "hedge", "rbp-c", "mtf"])
def test_names_of_documents_decide_nothing_but_docid(name: str) -> None:
    """With documents renamed, the same documents are judged equally early on average over seeds."""
    chance = np.random.default_rng(1)
    lists = ["".join(chance.permutation(list("abcdefgh"))[:6]) for _ in range(3)]
    renamed = ["".join(chr(ord("a") + ord("h") - ord(doc)) for doc in docs) for docs in lists]
    early = [
        np.mean([order(name, lists=given, seed=seed).index(doc) for seed in range(400)])
        for given, doc in ((lists, lists[0][3]), (renamed, renamed[0][3]))
    ]
    assert early[0] == pytest.approx(early[1], abs=0.35)


def test_scores_by_hand() -> None:
    # ranks: a 1 2 -, b 2 1 2, c 3 3 -, d 4 - 3, e - 4 -, f - - 1; 6 documents, lists of 4, 4, 3
    assert score("borda", "a") == -(1 + 2 + (3 + 1 + 6) / 2)
    assert score("borda", "f") == -(5.5 + 5.5 + 1)
    assert score("combmnz", "a") == pytest.approx(2 * (1 + 3 / 4))
    assert score("combmnz", "b") == pytest.approx(3 * (3 / 4 + 1 + 2 / 3))
    assert score("rrf", "b") == pytest.approx(1 / 62 + 1 / 61 + 1 / 62)
    assert score("rrf,k=0", "d") == pytest.approx(1 / 4 + 1 / 3)
    assert score("dcg", "c") == pytest.approx(2 / math.log2(4))
    assert score("rbp-a", "b") == pytest.approx(0.2 * (0.8 + 1 + 0.8))
    assert score("rbp-a,p=0.5", "e") == pytest.approx(0.5 * 0.5**3)


def test_condorcet() -> None:
    beats, docs = condorcet_majorities(topic(*LISTS)), topic(*LISTS).docs
    a, b, f = (docs.index(doc) for doc in "abf")
    assert beats[b, a]  # 2 to 1
    assert beats[b, f]
    assert beats[a, f]
    found = order("condorcet")
    assert found.startswith("ba")
    circle = order("condorcet", lists=("abc", "bca", "cab"))  # a > b > c > a
    votes, names = condorcet_majorities(topic("abc", "bca", "cab")), "abc"
    assert all(votes[names.index(x), names.index(y)] for x, y in zip(circle, circle[1:], strict=False))


def test_rbp_b_looks_at_what_is_left_of_a_run() -> None:
    # p = 0.5: c has .5 + .5; then a's .5 beats d and e, .25 of half a residual each; then b, d and e tie
    assert order("rbp-b,p=0.5", lists=("ab", "cd", "ce")).startswith("ca")


def test_rbp_c_prefers_runs_that_may_be_the_best() -> None:
    # after c, relevant, runs 2 and 3 have base .5: .25 * .5 * .75^3 = .0527 each against a's .5 * 1 * .5^3 = .0625
    assert order("rbp-c,p=0.5", "c", lists=("ab", "cd", "ce")).startswith("ca")
    # with both runs naming d: .1055 against .0625
    assert order("rbp-c,p=0.5", "c", lists=("ab", "cd", "cd")).startswith("cd")
    assert order("rbp-c,p=0.5", "", lists=("ab", "cd", "cd")).startswith("ca")  # .5 * .25^3: nearly nothing


def test_mtf_stays_while_a_run_is_right() -> None:
    for seed in range(20):
        found = order("mtf", "ab", seed=seed)
        if found[0] == "a":  # run 0: a and b are relevant, c is not
            assert found.startswith("abc")
        if found[0] == "b":  # run 1: b and a, then c
            assert found.startswith("bac")
        if found[0] == "f":  # run 2: f is not relevant; another run is next, which begins with a or b
            assert found[1] in "ab"


def test_mtf_global_spends_where_relevant_documents_are() -> None:
    lists = [Ranking.from_order(Query(id=q), [Document(id=f"{q}{n}") for n in range(5)]) for q in "xy"]
    found = pool_runs([Run(lists, name="only")])
    answers = [np.ones(5, dtype=bool), np.zeros(5, dtype=bool)]
    walked = judge_pool_in_order(open_judging_order("mtf-global"), found, answers)
    assert walked.sequence is not None
    from rerank.adjudication.walks import AdjudicationBudget

    assert walked.sizes(AdjudicationBudget.parse("3")).tolist() in (
        [5, 1],
        [4, 2],
    )  # all of x before y has a second one


def test_hedge_gains() -> None:
    found = topic(*LISTS)
    g = hedge_gains(found)
    place = found.docs.index
    assert g[0, place("a")] == pytest.approx(math.log(6))
    assert g[0, place("d")] == pytest.approx(math.log(6 / 4))
    assert g[0, place("f")] == pytest.approx((math.log(6 / 5) + math.log(6 / 6)) / 2)
    assert g[2, place("e")] == pytest.approx(sum(math.log(6 / r) for r in (4, 5, 6)) / 3)


def test_hedge_as_the_paper_says_it() -> None:
    """Against the plain formula, losses not in logarithms."""
    found = topic(*LISTS)
    g, relevant = hedge_gains(found), np.array([doc in "fd" for doc in found.docs])
    losses, left, expected = np.zeros(3), list(range(6)), []
    while left:
        weights = 0.1**losses
        worth = (weights / weights.sum()) @ g
        doc = max(left, key=lambda d: (worth[d], -d))
        left.remove(doc)
        expected.append(doc)
        losses += 0.5 * (-1.0) ** relevant[doc] * g[:, doc]
    assert order("hedge", "fd") == "".join(found.docs[doc] for doc in expected)


def test_hedge_does_not_underflow() -> None:
    lists = [[f"{n:04d}" for n in np.random.default_rng(seed).permutation(3000)[:2000]] for seed in range(3)]
    assert len(order("hedge", lists=lists)) == 4 * len(set().union(*lists))


def test_max_mean_follows_the_run_that_was_right() -> None:
    lists = ("abcd", "wxyz")
    for seed in range(10):
        found = order("mm", "abc", lists, seed)
        first = found.index("a")
        assert found[first : first + 4] == "abcd"  # once a was right, its run stays ahead until d
        assert order("mm-ns", "abc", lists, seed)[first : first + 4] == "abcd"


def test_a_rate_of_1_forgets_all_but_the_last_outcome() -> None:
    # run 0 is right three times and then wrong; run 1 has not been asked
    lists = ("abcde", "wxyz")
    for seed in range(20):
        stationary, forgetful = (order(name, "abc", lists, seed) for name in ("mm", "mm-ns"))
        if stationary[0] == "a":
            assert stationary[:5] == "abcde"  # 4/6 after d, still above 1/2
            assert forgetful[:5] == "abcdw"  # 1/3
    assert order("mm,rate=1", "abc", lists, 3) == order("mm-ns", "abc", lists, 3)
    assert order("mm-ns,rate=0", "abc", lists, 3) == order("mm", "abc", lists, 3)


def test_every_run_that_has_a_document_learns_from_it() -> None:
    # both of the first two runs begin with a; after it both are at 2/3, and w's run at 1/2 waits
    for seed in range(10):
        found = order("mm", "abx", ("ab", "ax", "wz"), seed)
        if found[0] == "a":
            assert set(found[:3]) == set("abx")


def test_ucb_tries_every_run_first() -> None:
    for seed in range(10):
        assert set(order("ucb1-tuned", "ab", ("ab", "cd", "ef"), seed)[:3]) == set("ace")


def test_epsilon_without_exploration_is_max_mean() -> None:
    lists = ("abcd", "wxyz", "mnop")
    for seed in range(10):
        found = order("eps-n-greedy,c=0", "abcd", lists, seed)
        at = found.index("a")
        assert found[at : at + 4] == "abcd"


def test_thompson_prefers_runs_that_are_right() -> None:
    lists = ([f"a{n}" for n in range(30)], [f"b{n}" for n in range(30)])
    relevant = np.array([doc.startswith("a") for doc in topic(*lists).docs])
    early = []
    for seed in range(20):
        (docs,) = judge_pool_in_order(open_judging_order("ts"), pooled(*lists), [relevant], seed=seed).docs
        early.append(relevant[docs[:30]].sum())
    assert np.mean(early) > 24


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("rbp-a,p=1", "p is 1"),
        ("hedge,beta=0", "beta is 0"),
        ("mm,rate=2", "rate is 2"),
        ("eps-n-greedy,d=0", "d is 0"),
        ("mtf,p=1", "takes no options"),
    ],
)
def test_bad_options(name: str, named: str) -> None:
    with raises((UsageError, UnknownNameError), named):
        open_judging_order(name)


def test_unknown_order() -> None:
    with raises(UnknownNameError, "hedge"):
        open_judging_order("hegde")


def test_llm_needs_a_run(tmp_path: object) -> None:
    with raises(UsageError, "llm:PATH"):
        open_judging_order("llm")
    with raises(DataError, str(tmp_path)):
        open_judging_order(f"llm:{tmp_path}")
