"""Objectives in recipes: what is read and what is refused before anything is loaded. Needs no torch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.evaluation import evaluate_run
from rerank.finetune.component_registry import OBJECTIVES, make_training_components
from rerank.finetune.extra import objectives
from rerank.finetune.extra.objectives import compute_gains, compute_ndcg, compute_reward
from rerank.finetune.labels.lists import TrainingList
from rerank.finetune.recipe import Recipe
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.raising import raises

GRPO = {"name": "grpo"}


def made(**changes: Any) -> Recipe:
    return Recipe.make({"data": {"lists": ["l.jsonl"]}, "objective": GRPO, **changes})


def test_an_objective_stands_in_the_place_of_losses() -> None:
    asked = made(objective={"name": "grpo", "group": 4, "max-tokens": 30})
    assert asked.losses == ()
    parts = make_training_components(asked)
    assert (parts.objective, parts.losses) == (objectives.Grpo(group=4, max_tokens=30), ())
    assert Recipe.make(json.loads(asked.model_dump_json())) == asked
    assert make_training_components(Recipe.make({"data": {"lists": ["l.jsonl"]}})).objective is None


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_it_says_what_it_is(name: str) -> None:
    objective = OBJECTIVES.get(name)
    assert objective.summary
    assert objective.__doc__
    assert "import torch" not in Path(str(objectives.__file__)).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"losses": [{"name": "lm"}]}, ("lm", "'grpo'")),
        ({"objective": {"name": "gpro"}}, ("'gpro'", "'grpo'")),
        ({"objective": {**GRPO, "groups": 4}}, ("groups", "'group'")),
        ({"objective": {**GRPO, "group": 1}}, ("group", "1", "2")),
        ({"objective": {**GRPO, "together": 3}}, ("together", "3", "group is 8")),
        ({"objective": {**GRPO, "temperature": 0}}, ("temperature", "0")),
        ({"objective": {**GRPO, "beta": -1}}, ("beta", "-1")),
        ({"objective": {**GRPO, "max_tokens": 0}}, ("max_tokens", "0")),
        ({"method": {"method": "icr"}}, ("'attention'", "fullrank")),
        ({"method": {"method": "first"}}, ("'logits'",)),
        ({"method": {"method": "pointwise"}}, ("'score'", "generate")),
        ({"adapter": {"name": "lora", "dropout": 0.1}}, ("dropout = 0.1",)),
        ({"training": {"neftune": 5.0}}, ("neftune = 5.0",)),
        ({"objective": {**GRPO, "beta": 0.1}, "adapter": {"name": "pissa"}}, ("beta = 0.1", "'pissa'")),
        ({"objective": {**GRPO, "beta": 0.1}, "adapter": {"name": "full"}}, ("'full'", "lora")),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], named: tuple[str, ...]) -> None:
    with raises((UsageError, UnknownNameError), *named):
        make_training_components(made(**changes))


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rerank.installation.find_spec", lambda name: None)
    asked = made()
    parts = make_training_components(asked)
    objective: Any = parts.objective
    with raises(MissingPrerequisiteError, "trl", "datasets", "[train]'"):
        objective.run(asked, parts, tmp_path, device="cpu")


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
