"""What every test of pairs must show, whatever it computes. Runs over everything that is registered."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation.significance import open_significance_test, tests
from rerank.evaluation.significance.base import PairTest, SupportsDecision

Floats = npt.NDArray[np.float64]
DRAWS = 1000
#: What chance may move p by with so many draws: five standard deviations of a difference of two estimates.
SLACK = 5 * (0.5 / DRAWS) ** 0.5

drawn = [name for name in tests.names() if "permutations" in inspect.signature(tests.get(name)).parameters]
every = pytest.mark.parametrize("name", tests.names())


def opened(name: str, draws: int = DRAWS) -> PairTest:
    return open_significance_test(f"{name},permutations={draws}" if name in drawn else name)


@st.composite
def matrices(draw: Callable[..., int]) -> Floats:
    """Few topics and systems; sixteenths, whose differences have no rounding."""
    topics, systems = draw(st.integers(2, 7)), draw(st.integers(2, 4))
    chance = np.random.default_rng(draw(st.integers(0, 10**6)))
    return chance.integers(0, 8, (topics, systems)) / 16


def found(test: PairTest, scores: Floats, alpha: float) -> npt.NDArray[np.bool_]:
    if isinstance(test, SupportsDecision):
        return test.significant(scores, alpha)
    return test.p_values(scores) <= alpha


def square(p: Floats, systems: int) -> Floats:
    full = np.ones((systems, systems))
    for (a, b), value in zip(combinations(range(systems), 2), p, strict=True):
        full[a, b] = full[b, a] = value
    return full


@every
@settings(max_examples=15)
@given(scores=matrices())
def test_p_is_above_0_and_at_most_1_and_no_finer_than_said(name: str, scores: Floats) -> None:
    test = opened(name)
    p = test.p_values(scores)
    assert p.shape == (scores.shape[1] * (scores.shape[1] - 1) // 2,)
    assert ((p > 0) & (p <= 1)).all()
    assert p.min() >= test.resolution(len(scores)) * (1 - 1e-9)


@every
@settings(max_examples=15)
@given(scores=matrices(), seed=st.integers(0, 99))
def test_neither_the_order_of_topics_nor_that_of_systems_matters(name: str, scores: Floats, seed: int) -> None:
    test, chance = opened(name), np.random.default_rng(seed)
    rows, columns = chance.permutation(scores.shape[0]), chance.permutation(scores.shape[1])
    p = square(test.p_values(scores), scores.shape[1])
    moved = square(test.p_values(scores[np.ix_(rows, columns)]), scores.shape[1])
    np.testing.assert_allclose(moved, p[np.ix_(columns, columns)], rtol=1e-9, atol=SLACK if name in drawn else 0)


@every
@settings(max_examples=15)
@given(scores=matrices(), factor=st.sampled_from([0.25, 1, 8]), seed=st.integers(0, 99))
def test_it_is_paired(name: str, scores: Floats, factor: float, seed: int) -> None:
    """What a topic adds to all systems, and the unit of the measure, change nothing."""
    easier = np.random.default_rng(seed).integers(0, 16, (len(scores), 1)) / 16
    np.testing.assert_allclose(
        opened(name).p_values(scores * factor + easier), opened(name).p_values(scores), rtol=1e-9
    )


@every
def test_systems_that_never_differ(name: str) -> None:
    column = np.random.default_rng(3).random((12, 1))
    assert opened(name).p_values(np.repeat(column, 3, axis=1)).tolist() == [1, 1, 1]
    other = np.random.default_rng(4).random((12, 1))
    assert opened(name).p_values(np.hstack([column, other, column]))[1] == 1


@every
def test_differences_that_cancel_out_have_a_p_value_of_1(name: str) -> None:
    """Every draw is at least as extreme, so each of them is counted."""
    scores = np.column_stack([[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, 2.0]])
    assert opened(name, 15).p_values(scores).tolist() == [1.0]


@every
def test_a_clear_difference_is_found_and_noise_is_not(name: str) -> None:
    chance = np.random.default_rng(5)
    noise = chance.normal(0, 0.1, (40, 3))
    p = opened(name).p_values(noise + np.array([0.0, 0.0, 0.3]))
    assert p[0] > 0.05
    assert (p[1:] <= 0.01).all()


@every
def test_the_share_of_false_positives_is_the_level(name: str) -> None:
    """Systems that are the same but for noise: a share alpha of pairs is found, or of whole families at most alpha."""
    chance = np.random.default_rng(6)
    test = opened(name, 499)
    families = np.array([found(test, chance.normal(size=(30, 4)), 0.1) for _ in range(200)])
    share = families.any(axis=1).mean() if test.family_wise else families.mean()
    assert 0.05 <= share <= 0.15


@every
def test_deciding_agrees_with_the_p_values(name: str) -> None:
    test = opened(name)
    if isinstance(test, SupportsDecision):
        scores = np.random.default_rng(7).normal(size=(15, 8)) + np.linspace(0, 1, 8)
        for alpha in (0.001, 0.05, 0.3):
            assert (test.significant(scores, alpha) == (test.p_values(scores) <= alpha)).all()


@every
def test_it_says_what_it_is(name: str) -> None:
    assert opened(name).title
    assert type(opened(name)).__doc__


@pytest.mark.parametrize("name", drawn)
def test_the_default_is_seed_0_and_ten_thousand_draws_or_more_for_a_whole_family(name: str) -> None:
    draws = 100_000 if tests.get(name).family_wise else 10_000
    assert open_significance_test(name) == open_significance_test(f"{name},permutations={draws},seed=0")


@pytest.mark.parametrize("name", drawn)
def test_chance_is_seeded_and_checked(name: str) -> None:
    scores = np.random.default_rng(8).normal(size=(30, 3))
    first, again, other = (
        open_significance_test(f"{name},permutations=200,seed={seed}").p_values(scores) for seed in (1, 1, 2)
    )
    assert first.tolist() == again.tolist() != other.tolist()
    with pytest.raises(UsageError, match=r"permutations is 0; expected at least 1"):
        open_significance_test(f"{name},permutations=0")
    with pytest.raises(UsageError, match="seed is -1"):
        open_significance_test(f"{name},seed=-1")
    with pytest.raises(UsageError, match="a whole number"):
        open_significance_test(f"{name},permutations=many")


@pytest.mark.parametrize("name", drawn)
def test_the_last_batch_of_draws_has_only_those_that_are_left(name: str) -> None:
    """Draws are made in batches of about 700 or 1000 here."""
    scores = np.random.default_rng(9).normal(size=(50, 30)) + np.linspace(0, 0.5, 30)
    test = opened(name, 1050)
    np.testing.assert_allclose(test.p_values(scores), opened(name, 5000).p_values(scores), atol=SLACK)
    scores[:, 0] += 10
    assert test.p_values(scores).min() == test.resolution(50) == 1 / 1051


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'wilcoxon'"):
        open_significance_test("wilcoxn")
    with pytest.raises(UnknownNameError, match="It takes no options"):
        open_significance_test("t,seed=1")
