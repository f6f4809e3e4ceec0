"""Decisions on all pairs: which correction is meant, what is counted, what a reader is warned of."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest

from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation import ScoreMatrix, compare_all_runs
from rerank.evaluation.pairwise_decisions import build_test_selector
from tests.raising import raises


def matrix(values: npt.NDArray[np.float64]) -> ScoreMatrix:
    topics, systems = values.shape
    names = tuple(f"s{n}" for n in range(systems))
    return ScoreMatrix(measure="AP", topics=tuple(map(str, range(topics))), systems=names, values=values)


def ladder(topics: int = 40, systems: int = 4, step: float = 0.2) -> ScoreMatrix:
    chance = np.random.default_rng(1)
    return matrix(chance.normal(0, 0.1, (topics, systems)) + step * np.arange(systems))


def test_a_ladder_of_systems() -> None:
    found = compare_all_runs(ladder())
    assert (found.test, found.correction, found.alpha) == ("t", "holm", 0.05)
    assert found.significant.all()
    assert (found.differences < 0).all()
    assert found.beats() == [(), (0,), (0, 1), (0, 1, 2)]
    raw, adjusted = found.p_values()
    assert (raw <= adjusted).all()
    assert ((adjusted <= 0.05) == found.significant).all()
    assert found.notes == ()


def test_the_dictionary_is_the_contract() -> None:
    content = compare_all_runs(ladder(), "permutation,permutations=5000", "bh", alpha=0.01).to_dict()
    assert json.loads(json.dumps(content)) == content
    means = content.pop("means")
    assert content.pop("family")["pairs"] == 6
    assert content == {
        **{"topics": 40, "systems": 4, "pairs": 6, "significant": 6, "test": "permutation"},
        **{"options": {"permutations": 5000, "seed": 0}, "correction": "bh", "alpha": 0.01, "notes": []},
    }
    assert [(m["system"], m["beats"], m["beaten_by"]) for m in means] == [
        *(("s0", 0, 3), ("s1", 1, 2), ("s2", 2, 1), ("s3", 3, 0))
    ]
    assert means[3]["mean"] == pytest.approx(0.6, abs=0.1)


def test_text() -> None:
    lines = str(compare_all_runs(ladder(), "tukey-anova")).splitlines()
    assert lines[0].split() == ["system", "mean", "beats", "beaten", "by"]
    assert [line.split()[0] for line in lines[1:5]] == ["s3", "s2", "s1", "s0"]
    assert lines[-1] == (
        "6 of 6 pairs of 4 systems differ on 40 topics: Tukey HSD after two-way ANOVA, correction none, "
        "significance level 0.05."
    )
    assert "bootstrap, permutations 99, seed 0" in str(compare_all_runs(ladder(), "bootstrap,permutations=99", "none"))


@pytest.mark.parametrize("test", ["tukey-anova", "tukey_anova", "tukey-randomised,permutations=99"])
def test_tests_for_all_pairs_together_take_no_correction(test: str) -> None:
    assert compare_all_runs(ladder(), test).correction == "none"
    assert compare_all_runs(ladder(), test, "none").family_wise
    with raises(UsageError, "bh", test):
        compare_all_runs(ladder(), test, "bh")


def test_exact_p_values_are_computed_only_when_asked_for() -> None:
    found = compare_all_runs(ladder(), "tukey-anova")
    assert found.raw is None
    raw, adjusted = found.p_values()
    assert raw.tolist() == adjusted.tolist()
    assert (raw < 0.05).all()


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, float("nan")])
def test_a_level_that_is_none(alpha: float) -> None:
    with raises(UsageError, f"alpha is {alpha}"):
        compare_all_runs(ladder(), alpha=alpha)


def test_unknown_names() -> None:
    with raises(UnknownNameError, "test"):
        compare_all_runs(ladder(), "anova")
    for test in ("t", "tukey-anova"):
        with raises(UnknownNameError, "hlm"):
            compare_all_runs(ladder(), test, "hlm")


def test_options_of_chance() -> None:
    assert build_test_selector("t") == "t"
    assert build_test_selector("bootstrap", permutations=5, seed=3) == "bootstrap,permutations=5,seed=3"
    assert build_test_selector("permutation,seed=1", permutations=5) == "permutation,seed=1,permutations=5"
    with raises(UsageError, "'seed'", "sign", "bootstrap, permutation, tukey-randomised"):
        build_test_selector("sign", seed=3)
    with raises(UnknownNameError, "test"):
        build_test_selector("sgn", seed=3)


def notes(values: npt.NDArray[np.float64], test: str = "t", correction: str = "auto") -> str:
    return "\n".join(compare_all_runs(matrix(values), test, correction).notes)


def test_few_topics() -> None:
    chance = np.random.default_rng(2)
    assert notes(chance.random((24, 3))).startswith("Only 24 topics: ")
    assert notes(chance.random((25, 3))) == ""


@pytest.mark.parametrize(
    ("test", "correction", "warned"),
    [
        ("permutation,permutations=999", "holm", True),
        ("permutation,permutations=999", "bonferroni", True),
        ("permutation,permutations=999", "hochberg", False),
        ("permutation,permutations=999", "bh", False),
        ("permutation,permutations=199", "by", False),
        ("permutation,permutations=30", "by", True),
        ("permutation,permutations=10", "none", True),
        ("tukey-randomised,permutations=10", "auto", True),
        ("tukey-randomised,permutations=99", "auto", False),
        ("wilcoxon", "holm", False),
    ],
)
def test_too_few_draws_to_find_anything(test: str, correction: str, *, warned: bool) -> None:
    """190 pairs: Holm requires 0.05 / 190, which 999 draws cannot give."""
    caveats = notes(np.random.default_rng(3).random((30, 20)), test, correction)
    assert ("no pair can be significant" in caveats) is warned


def test_five_topics_cannot_be_significant_by_ranks() -> None:
    assert "smallest possible p-value of this test is 0.062, and the significance level requires 0.05" in notes(
        np.random.default_rng(4).random((5, 2)), "wilcoxon", "none"
    )


def test_constant_scores() -> None:
    column = np.random.default_rng(5).random((30, 1))
    assert notes(np.hstack([column, np.zeros((30, 1))])).startswith(
        "1 system has the same score on every topic, such as 's1'"
    )
    assert notes(np.hstack([column, column])).startswith("All systems have equal scores on all topics")
    assert notes(np.zeros((30, 2))).count("\n") == 1
    assert not compare_all_runs(matrix(np.zeros((30, 3))), "tukey-anova").significant.any()
