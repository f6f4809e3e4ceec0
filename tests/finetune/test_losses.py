"""Losses: values against tables and second implementations, gradients against finite differences."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rerank.errors import DataError, UsageError  # noqa: E402
from rerank.finetune.component_registry import LOSSES  # noqa: E402
from rerank.finetune.components import ListTarget  # noqa: E402
from tests.raising import raises  # noqa: E402

SCORES = (0.3, -1.2, 2.0, 0.1, 0.7)
RANKS = (2.0, 5.0, 1.0, 3.0, 4.0)
TEACHER = (1.5, -2.0, 3.0, 0.5, 0.0)


def wanted(ranks: Any = RANKS, scores: Any = TEACHER, dtype: Any = None) -> ListTarget:
    kind = dtype or torch.float64
    return ListTarget(ranks=torch.tensor(ranks, dtype=kind), scores=torch.tensor(scores, dtype=kind))


def scored() -> list[str]:
    return [name for name in LOSSES.names() if LOSSES.get(name).of == "scores"]


def value(name: str, scores: Any = SCORES, **options: Any) -> float:
    return float(LOSSES.get(name)(**options)(torch.tensor(scores, dtype=torch.float64), wanted()))


def test_the_published_weights() -> None:
    ranks = torch.tensor([1.0, 2.0, 10.0, 100.0, 0.0])
    weights = LOSSES.get("importance")(alpha=0.25).weights(ranks).tolist()
    assert weights == pytest.approx([2.0, 1.631, 1.289, 1.150, 0.25], abs=5e-4)


def test_other_weights() -> None:
    ranks = torch.tensor([1.0, 4.0, 0.0])
    assert LOSSES.get("lm")().weights(ranks).tolist() == [1, 1, 1]
    assert LOSSES.get("reciprocal")().weights(ranks).tolist() == [1, 0.25, 0]


def pairs() -> list[tuple[int, int]]:
    return [(i, j) for i, j in itertools.permutations(range(5), 2) if RANKS[i] < RANKS[j]]


def test_ranknet_by_hand() -> None:
    parts = [(1 / (RANKS[i] + RANKS[j]), math.log1p(math.exp(SCORES[j] - SCORES[i]))) for i, j in pairs()]
    assert value("ranknet") == pytest.approx(sum(w * v for w, v in parts) / sum(w for w, _ in parts))
    assert value("ranknet", weighted=False) == pytest.approx(np.mean([v for _, v in parts]))


def test_lambdarank_by_hand() -> None:
    place = {at: position for position, at in enumerate(sorted(range(5), key=lambda at: -SCORES[at]), 1)}
    ideal = sum(1 / r / math.log2(1 + r) for r in RANKS)
    total = 0.0
    for i, j in pairs():
        gain = abs(1 / RANKS[i] - 1 / RANKS[j]) / ideal
        discount = abs(1 / math.log2(1 + place[i]) - 1 / math.log2(1 + place[j]))
        total += gain * discount * math.log2(1 + math.exp(-(SCORES[i] - SCORES[j])))
    assert value("lambdarank") == pytest.approx(total)


def test_listmle_is_plackett_luce() -> None:
    left = sorted(range(5), key=lambda at: RANKS[at])
    likelihood = 1.0
    while left:
        likelihood *= math.exp(SCORES[left[0]]) / sum(math.exp(SCORES[at]) for at in left)
        left.pop(0)
    assert value("listmle") == pytest.approx(-math.log(likelihood) / 5)


def test_listnet_and_distill_by_hand() -> None:
    target = np.exp(-np.array(RANKS)) / np.exp(-np.array(RANKS)).sum()
    logs = np.array(SCORES) - np.log(np.exp(SCORES).sum())
    assert value("listnet") == pytest.approx(-(target * logs).sum())
    given = np.array(TEACHER)
    given = (given - given.mean()) / given.std() / 0.5
    teacher = np.exp(given) / np.exp(given).sum()
    assert value("distill", teacher_temperature=0.5) == pytest.approx((teacher * (np.log(teacher) - logs)).sum())


def test_adr_mse_by_hand() -> None:
    expected = [1 + sum(1 / (1 + math.exp(SCORES[i] - SCORES[j])) for j in range(5) if j != i) for i in range(5)]
    parts = [(e - r) ** 2 / math.log2(r + 1) for e, r in zip(expected, RANKS, strict=True)]
    assert value("adr-mse") == pytest.approx(np.mean(parts))


def test_adr_mse_vanishes_where_scores_are_far_apart_in_the_right_order() -> None:
    assert value("adr-mse", scores=[-100 * r for r in RANKS]) == pytest.approx(0)


def test_infonce_by_hand() -> None:
    shares = np.array(SCORES) / 0.05
    shares -= shares.max()
    logs = shares - np.log(np.exp(shares).sum())
    assert value("infonce") == pytest.approx(-logs[2])
    assert value("infonce", positives=2) == pytest.approx(-(logs[2] + logs[0]) / 2)


def test_margin_mse_is_half_the_mean_squared_error_of_all_margins() -> None:
    margins = [(SCORES[i] - SCORES[j] - TEACHER[i] + TEACHER[j]) ** 2 for i, j in itertools.product(range(5), repeat=2)]
    assert value("margin-mse") == pytest.approx(np.mean(margins) / 2)


@pytest.mark.parametrize("name", scored())
def test_gradients(name: str) -> None:
    loss = LOSSES.get(name)()
    scores = torch.tensor(SCORES, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: loss(s, wanted()), (scores,))


@pytest.mark.parametrize("name", scored())
def test_the_label_s_order_is_better_than_its_reverse(name: str) -> None:
    loss = LOSSES.get(name)()
    right = torch.tensor([-r for r in RANKS], dtype=torch.float64)
    assert loss(right, wanted(scores=[-r for r in RANKS])) < loss(-right, wanted(scores=[-r for r in RANKS]))


@pytest.mark.parametrize("name", scored())
def test_finite_on_hard_lists(name: str) -> None:
    loss = LOSSES.get(name)()
    for scores in ([0.0, 0.0], [1e4, -1e4], [-1e4, 1e4]):
        given = torch.tensor(scores, requires_grad=True)
        found = loss(given, wanted(ranks=[1.0, 2.0], scores=[1.0, 1.0], dtype=torch.float32))
        found.backward()
        assert torch.isfinite(found)
        assert torch.isfinite(given.grad).all()


@pytest.mark.parametrize("name", ["distill", "margin-mse"])
def test_a_teacher_without_scores(name: str) -> None:
    with raises(DataError, name, "scores"):
        LOSSES.get(name)()(torch.tensor(SCORES), wanted(scores=[]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("importance", {"alpha": -1}),
        ("infonce", {"temperature": 0}),
        ("infonce", {"positives": 0}),
        ("distill", {"temperature": -1}),
        ("adr-mse", {"temperature": 0}),
        ("adr-mse", {"temperature": float("nan")}),
        ("listnet", {"temperature": 0}),
        ("listnet", {"temperature": -1}),
        ("lambdarank", {"sigma": 0}),
        ("lambdarank", {"sigma": float("inf")}),
        ("importance", {"alpha": float("nan")}),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, float]) -> None:
    with raises(UsageError, *options, *options.values()):
        LOSSES.get(name)(**options)
