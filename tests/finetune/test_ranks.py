"""Ranks from spectra and from gradients, on matrices made by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from rerank.errors import UsageError  # noqa: E402
from rerank.finetune.component_registry import RANKS  # noqa: E402
from rerank.finetune.extra.ranks import Contribution, Welore, allocate_proportionally  # noqa: E402
from rerank.finetune.inspection.spectra import common_threshold  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402


def linear(**weights: Any) -> Any:
    model = torch.nn.ModuleDict()
    for name, weight in weights.items():
        model[name] = torch.nn.Linear(*reversed(weight.shape), bias=False)
        model[name].weight.data = weight
    return model


@dataclass(frozen=True)
class Pulls:
    """A loss whose gradients are given matrices."""

    gradients: dict[str, Any]
    first_lr: float = 1e-5

    def forward(self, model: Any, lists: int | None = None) -> None:
        """See `Calibrate`."""

    def backward(self, model: Any, lists: int | None = None) -> None:
        """See `Calibrate`."""
        torch.stack([(model[name].weight * one).sum() for name, one in self.gradients.items()]).sum().backward()


def turned(values: list[float], rows: int, columns: int) -> Any:
    chance = torch.Generator().manual_seed(rows)
    u, v = (torch.linalg.qr(torch.randn(n, n, generator=chance))[0][:, : len(values)] for n in (rows, columns))
    return (u * torch.tensor(values)) @ v.T


def test_welore_adapts_matrices_of_low_rank_and_freezes_the_others() -> None:
    """Over their largest: flat 1 .9 .8 .7, steep 1 .1 .01. On average, a third of them are up to .1."""
    model = linear(flat=turned([20.0, 18, 16, 14], 6, 4), steep=turned([0.5, 0.05, 0.005], 3, 5))
    assert Welore(reduction=1 / 3).pattern(model, ["flat", "steep"], 2, TinyBatches()) == {"flat": 0, "steep": 2}


def test_welore_adapts_at_least_one_matrix() -> None:
    """All values of a rotation are equal, and of a matrix with one row none can be dropped."""
    model = linear(a=torch.eye(4), b=torch.eye(5), c=torch.ones(1, 4))
    assert Welore().pattern(model, ["a", "b"], 2, TinyBatches()) == {"a": 2, "b": 2}
    assert Welore().pattern(model, ["c"], 2, TinyBatches()) == {"c": 2}


def test_welore_against_bisection() -> None:
    """The paper finds its threshold by bisection until the mean reduction meets the target of one half."""
    model = tiny_model()
    targets = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name != "lm_head"]
    spectra = {name: torch.linalg.svdvals(model.get_submodule(name).weight.detach()) for name in targets}
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = {name: float((one / one[0] <= middle).float().mean()) for name, one in spectra.items()}
        low, high = (low, middle) if sum(below.values()) / len(below) >= 0.5 else (middle, high)
    below = {name: float((one / one[0] <= high).float().mean()) for name, one in spectra.items()}
    found = Welore().pattern(model, targets, 20, TinyBatches())
    assert found == {name: 20 if below[name] >= 0.5 else 0 for name in targets}
    # Random square matrices have small singular values, and flat random matrices have none.
    assert set(found.values()) == {0, 20}


def test_contribution_on_matrices_made_by_hand() -> None:
    """Squared norms 9 and 3: of 8 ranks, 6 and 2."""
    model = linear(a=torch.zeros(7, 9), b=torch.zeros(8, 8))
    pulls = Pulls({"a": torch.full((7, 9), 3 / 63**0.5), "b": torch.full((8, 8), 3**0.5 / 8)})
    assert Contribution().pattern(model, ["a", "b"], 4, pulls) == {"a": 6, "b": 2}
    assert Contribution(least=3).pattern(model, ["a", "b"], 4, pulls) == {"a": 5, "b": 3}
    assert model["a"].weight.grad is None


def test_contribution_gives_no_matrix_more_than_it_has() -> None:
    model = linear(a=torch.zeros(2, 9), b=torch.zeros(8, 8), c=torch.zeros(8, 8))
    pulls = Pulls({"a": torch.ones(2, 9), "b": torch.ones(8, 8) * 0.1, "c": torch.zeros(8, 8)})
    assert Contribution().pattern(model, ["a", "b", "c"], 3, pulls) == {"a": 2, "b": 7, "c": 0}


def test_what_takes_no_part_in_the_loss_contributes_nothing() -> None:
    model = linear(a=torch.zeros(7, 9), b=torch.zeros(8, 8), out=torch.zeros(8, 8))
    pulls = Pulls({"a": torch.full((7, 9), 3 / 63**0.5), "b": torch.full((8, 8), 3**0.5 / 8)})
    assert Contribution().pattern(model, ["a", "b", "out"], 4, pulls) == {"a": 7, "b": 5, "out": 0}
    assert Contribution(least=1).pattern(model, ["a", "b", "out"], 4, pulls) == {"a": 7, "b": 4, "out": 1}


def test_contribution_on_a_model() -> None:
    model = tiny_model()
    targets = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name != "lm_head"]
    found = Contribution().pattern(model, targets, 4, TinyBatches())
    assert list(found) == targets
    assert sum(found.values()) == 4 * len(targets)
    assert len(set(found.values())) > 2


@pytest.mark.parametrize("name", RANKS.names())
def test_every_way_keeps_the_budget_and_the_order(name: str) -> None:
    made = RANKS.get(name)()
    model = tiny_model()
    targets = [f"model.layers.{n}.self_attn.{part}_proj" for n in (1, 0) for part in ("v", "q")]
    found = made.pattern(model, targets, 3, TinyBatches())
    assert list(found) == targets
    assert all(0 <= rank <= 32 if "v_proj" in one else rank <= 64 for one, rank in found.items())
    assert 0 < sum(found.values()) <= 12
    assert made.summary
    assert made.paper
    with raises(UsageError, "0", "4 matrices"):
        made.pattern(model, targets, 0, TinyBatches())
    with raises(UsageError, "0 matrices"):
        made.pattern(model, [], 1, TinyBatches())


def test_least_is_checked() -> None:
    with raises(UsageError, "least", "-1"):
        Contribution(least=-1)
    with raises(UsageError, "least=5"):
        Contribution(least=5).pattern(tiny_model(), ["model.layers.0.mlp.up_proj"], 4, TinyBatches())


weights = st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 9)), min_size=1, max_size=8)


@given(drawn=weights, budget=st.integers(0, 60), least=st.integers(0, 2))
def test_shares(drawn: list[tuple[float, int]], budget: int, least: int) -> None:
    shares = {str(at): weight for at, (weight, _) in enumerate(drawn)}
    most = {str(at): limit for at, (_, limit) in enumerate(drawn)}
    budget = max(budget, least * len(drawn))
    found = allocate_proportionally(shares, budget, most, least=least)
    assert sum(found.values()) == min(budget, sum(most.values()))
    assert all(min(least, most[name]) <= found[name] <= most[name] for name in shares)
    free = [name for name in shares if found[name] < most[name]]
    for one in free:
        for other in free:
            assert shares[one] < shares[other] or found[one] >= found[other] - 1


spectrum = st.lists(st.floats(0, 1), max_size=6).map(lambda rest: [1.0, *sorted(rest, reverse=True)])


@given(drawn=st.lists(spectrum, min_size=1, max_size=6), mean=st.integers(1, 8))
def test_one_threshold(drawn: list[list[float]], mean: int) -> None:
    drop = sum(map(len, drawn)) - mean * len(drawn)
    threshold, found = common_threshold({str(at): one for at, one in enumerate(drawn)}, drop, lambda values: 1)
    assert len(drawn) <= sum(found.values()) <= mean * len(drawn)
    for at, one in enumerate(drawn):
        assert all(value <= threshold for value in one[found[str(at)] :])
        assert all(value > threshold for value in one[1 : found[str(at)]])
    lower = sum(value >= threshold for one in drawn for value in one)
    assert threshold < 0 or lower > mean * len(drawn), "a lower threshold would have done"
