"""The reward of GRPO, computed by hand and by trec_eval. Needs no torch."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rerank.evaluation import evaluate_run
from rerank.finetune.extra.objectives import compute_gains, compute_ndcg, compute_reward
from rerank.finetune.labels.lists import TrainingList
from rerank.types import Document, Qrels, Query, Ranking, Run

QUERY = Query(id="q")
NUMBERS = ("1", "2", "3")


def listed(order: tuple[int, ...], scores: tuple[float, ...] = ()) -> TrainingList:
    docs = tuple(Document(id=f"d{at}") for at in range(len(order)))
    return TrainingList(query=QUERY, docs=docs, order=order, scores=scores)


#: Documents 3, 1, 2 are at ranks 1, 2, 3, so worth 1/2, 1/3, 1: the best DCG is 1 + 0.5/log2(3) + (1/3)/2 = 1.48213.
BEST = 1.4821315


@pytest.mark.parametrize(
    ("text", "dcg"),
    [
        ("[3] > [1] > [2]", BEST),
        ("[2] > [1] > [3]", 1 / 3 + 0.5 * 0.6309298 + 1 / 2),  # the other way round
        ("[3]", BEST),  # the rest in the order in which it is shown, which is the label's
        ("[2] > [3]", 1 / 3 + 0.6309298 + 0.5 / 2),  # then [1]
        ("The order is [3] > [1] > [2].", BEST),
        ("[3] > [3] > [9] > [1]", BEST),
        ("", 0),
        ("I cannot rank these passages.", 0),
        ("wing lift", 0),
        ("[7] > [8]", 0),
    ],
)
def test_by_hand(text: str, dcg: float) -> None:
    assert compute_reward(text, compute_gains(listed((2, 0, 1))), labels=NUMBERS, cutoff=10) == pytest.approx(
        dcg / BEST, abs=1e-6
    )


def test_the_gold_order_is_worth_one_and_the_reverse_least() -> None:
    chance = random.Random(4)
    for n in range(2, 15):
        order = tuple(chance.sample(range(n), n))
        names = [str(at + 1) for at in range(n)]

        def worth(positions: tuple[int, ...], given: TrainingList, names: list[str] = names) -> float:
            text = " > ".join(f"[{names[at]}]" for at in positions)
            return compute_reward(text, compute_gains(given), labels=names, cutoff=len(names))

        given = listed(order)
        others = [worth(tuple(chance.sample(range(n), n)), given) for _ in range(20)]
        assert worth(order, given) == 1
        assert worth(order[::-1], given) <= min(others)
        assert max(others) <= 1


def test_letters() -> None:
    assert compute_reward(
        "[C] > [A] > [B]", compute_gains(listed((2, 0, 1))), labels=("A", "B", "C"), cutoff=10
    ) == pytest.approx(1)


def test_only_the_first_ranks_count() -> None:
    worth = compute_gains(listed((0, 1, 2)))
    assert compute_reward("[1] > [3] > [2]", worth, labels=NUMBERS, cutoff=1) == 1
    assert compute_reward("[1] > [3] > [2]", worth, labels=NUMBERS, cutoff=2) < 1


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        ((3.0, 0.0, 1.0), (3.0, 0.0, 1.0)),
        ((3.0, 1.0, 1.0), (3.0, 1.0, 1.0)),
        ((), (1.0, 1 / 3, 0.5)),
        ((0.9, 0.1, 0.4), (1.0, 1 / 3, 0.5)),  # no grades
        ((3.0, -1.0, 1.0), (1.0, 1 / 3, 0.5)),
        ((0.0, 0.0, 0.0), (1.0, 1 / 3, 0.5)),  # nothing would be worth anything
        ((1.0, 0.0, 3.0), (1.0, 1 / 3, 0.5)),  # they contradict the label
    ],
)
def test_scores_that_are_grades_are_gains(scores: tuple[float, ...], found: tuple[float, ...]) -> None:
    assert compute_gains(listed((0, 2, 1), scores)) == pytest.approx(found)


def test_against_trec_eval() -> None:
    chance = random.Random(2)
    for _ in range(20):
        n = chance.randint(2, 14)
        grades = [chance.randint(0, 3) for _ in range(n - 1)] + [2]
        order = tuple(sorted(range(n), key=lambda at, grades=grades: -grades[at]))  # type: ignore[misc]
        worth = compute_gains(listed(order, tuple(map(float, grades))))
        said: Any = chance.sample(range(n), n)
        docs = [Document(id=f"d{at}") for at in said]
        qrels = Qrels({"q": {f"d{at}": grade for at, grade in enumerate(grades)}})
        scores = evaluate_run(qrels, Run([Ranking.from_order(QUERY, docs)], name="r"), ["nDCG@10"])
        assert compute_ndcg(tuple(said), worth, 10) == pytest.approx(next(iter(scores.summary().values())), abs=1e-6)
