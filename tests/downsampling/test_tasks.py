"""Dropping tasks, on tables whose right choice is known."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.adjudication.conclusions import SignificanceVerdicts
from rerank.downsampling import (
    Goal,
    Procedure,
    ScoreTable,
    SignificanceCriterion,
    TaskReductionDesign,
    choose_fewest_tasks,
)
from rerank.downsampling.reduction import (
    compare,
    pairs_by_outcome,
    predict_left_out,
    predict_omitted,
    spearman,
    standardise,
)
from rerank.errors import UnknownNameError, UsageError
from tests.raising import raises


def table(values: np.ndarray) -> ScoreTable:
    """(tasks, models), or (tasks, queries, models)."""
    names = [f"T{at}" for at in range(len(values))]
    rows = values if values.ndim == 3 else values[:, None]
    queries = tuple(f"q{at}" for at in range(rows.shape[1])) if values.ndim == 3 else ()
    return ScoreTable(
        models=tuple(f"m{at}" for at in range(values.shape[-1])),
        tasks=dict(zip(names, rows, strict=True)),
        queries=dict.fromkeys(names, queries),
    )


def twins() -> ScoreTable:
    """T0, T2 and T4 say the same; T1 and T3 each say something of their own."""
    chance = np.random.default_rng(5)
    base, one, other = chance.normal(size=(3, 12))
    return table(np.stack([base, one, base + 0.01 * other, other, base * 2 + 1]))


def test_what_is_said_twice_goes_first() -> None:
    found = choose_fewest_tasks(twins(), TaskReductionDesign(goal=Goal(tau=0.0), least=3))
    assert {step.label for step in found.steps[1:]} <= {"T0", "T2", "T4"}
    assert {"T1", "T3"} < set(found.kept)
    assert [step.size for step in found.steps] == [5, 4, 3]
    assert found.steps[0].figures["tau"] == found.steps[0].figures["spearman"] == 1.0
    assert all(0.9 < step.more["predicted"] <= 1 for step in found.steps[1:])


def test_the_ranking_is_kept_or_nothing_more_is_dropped() -> None:
    found = choose_fewest_tasks(twins(), TaskReductionDesign(goal=Goal(tau=0.95)))
    assert all(step.figures["tau"] >= 0.95 for step in found.steps)
    assert found.chosen == found.steps[-1]
    assert len(found.kept) == found.steps[-1].size
    # whatever else could be dropped would miss the goal
    values = twins()
    for name in found.kept:
        rest = [task for task in found.kept if task != name]
        both = [values.rows(names, unit="task").mean(axis=0) for names in (list(values.tasks), rest)]
        concordance = [np.sign(np.subtract.outer(m, m))[np.triu_indices(12, 1)] for m in both]
        assert np.mean(concordance[0] * concordance[1]) < 0.95


def test_tasks_that_must_stay() -> None:
    found = choose_fewest_tasks(twins(), TaskReductionDesign(goal=Goal(tau=0.0), least=1, always=("T0", "T2")))
    assert {"T0", "T2"} <= set(found.kept)
    with raises(UnknownNameError, "'T00'", "'T0'"):
        choose_fewest_tasks(twins(), TaskReductionDesign(always=("T00",)))


def test_significant_differences_are_kept() -> None:
    """Eight tasks tell three groups of models apart, four more are noise of which the ranking hardly takes notice."""
    chance = np.random.default_rng(2)
    groups = np.repeat([0.0, 0.3, 0.6], 3)
    clear = groups + 0.02 * chance.normal(size=(8, 9))
    noise = 0.2 * chance.normal(size=(4, 9))
    scores = table(np.concatenate([clear, noise]))
    goal = Goal(tau=None, recall=0.95, precision=0.95)
    found = choose_fewest_tasks(scores, TaskReductionDesign(goal=goal, order="significance"))
    assert len(found.kept) < 12
    assert all(step.figures["recall"] >= 0.95 and step.figures["precision"] >= 0.95 for step in found.steps)
    assert found.whole["significant"] >= 25
    fates = found.pairs
    assert len(fates["kept"]) + len(fates["lost"]) + len(fates["reversed"]) == found.whole["significant"]
    assert len(fates["kept"]) == found.steps[-1].figures["AA"]
    assert all(int(better[1]) // 3 > int(worse[1]) // 3 for better, worse in fates["kept"])


def test_rows_of_queries_are_tested_together() -> None:
    chance = np.random.default_rng(3)
    scores = table(chance.normal(size=(3, 40, 4)) + np.array([0.0, 0.0, 1.0, 1.0]))
    found = choose_fewest_tasks(
        scores, TaskReductionDesign(unit="query", goal=Goal(tau=None, recall=1.0, precision=1.0), least=1)
    )
    assert found.whole["rows"] == 120
    assert found.whole["significant"] == 4
    assert len(found.pairs["kept"]) == 4
    assert any("all queries together" in note for note in found.notes)


def test_models_that_are_held_out() -> None:
    design = TaskReductionDesign(goal=Goal(tau=0.8), hold_out=0.5, seed=1)
    found = choose_fewest_tasks(twins(), design)
    assert found.whole["systems"] == 6
    assert all(step.more["held_out"].keys() == {"tau", "spearman", "recall", "precision"} for step in found.steps)
    assert found.steps[0].more["held_out"]["tau"] == 1.0
    assert not any("hold_out" in note for note in found.notes)
    assert any("hold_out" in note for note in choose_fewest_tasks(twins(), TaskReductionDesign()).notes)
    with raises(UsageError, "2 models", "10 are held out"):
        choose_fewest_tasks(twins(), TaskReductionDesign(hold_out=0.8))


def test_fates_of_pairs_by_hand() -> None:
    names = ("a", "b", "c")  # pairs ab, ac, bc
    gold = SignificanceVerdicts(np.array([[3.0, 2.0, 1.0]]), names, (np.array([True, True, False]),))
    cheap = SignificanceVerdicts(np.array([[2.0, 3.0, 1.0]]), names, (np.array([True, False, True]),))
    fates = {"kept": [], "lost": [["a", "c"]], "new": [["b", "c"]], "reversed": [["a", "b"]]}
    assert pairs_by_outcome(gold, cheap) == fates
    figures = compare(gold, cheap)
    assert (figures["AD"], figures["MA_missed"], figures["MA_spurious"]) == (1, 1, 1)
    assert figures["tau"] == pytest.approx(1 / 3)
    assert figures["spearman"] == pytest.approx(0.5)


def test_spearman_is_scipys() -> None:
    from scipy.stats import spearmanr

    chance = np.random.default_rng(4)
    a, b = chance.integers(0, 6, (2, 20)).astype(float)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, np.ones(20)) is None


def test_goals() -> None:
    with raises(UsageError):
        Goal(tau=None)
    with raises(UsageError, "recall is 90"):
        Goal(recall=90)
    goal = Goal(tau=0.5, recall=0.5)
    assert goal.is_met({"tau": 0.5, "recall": None})
    assert not goal.is_met({"tau": None, "recall": 1.0})
    assert not goal.is_met({"tau": 0.6, "recall": 0.4})
    with raises(UsageError, "least is 0"):
        TaskReductionDesign(least=0)


def test_a_task_alone_tests_nothing() -> None:
    scores = table(np.random.default_rng(6).normal(size=(2, 5)))
    design = TaskReductionDesign(
        least=1, goal=Goal(tau=0.0), criterion=SignificanceCriterion(procedure=Procedure("t", "none"))
    )
    found = choose_fewest_tasks(scores, design)
    assert found.steps[-1].size >= 1
    if found.steps[-1].size == 1:
        assert found.steps[-1].figures["AA"] == 0


def fitted_again(predictors: np.ndarray, wanted: np.ndarray, ridge: float) -> list[float]:
    """Ridge regression without each model in turn: the second implementation, by normal equations."""
    guessed = []
    for out in range(len(wanted)):
        kept = [at for at in range(len(wanted)) if at != out]
        x = np.column_stack([np.ones(len(kept)), predictors[:, kept].T])
        penalty = ridge * np.diag([0.0, *[1.0] * len(predictors)])
        weights = np.linalg.solve(x.T @ x + penalty, x.T @ wanted[kept])
        guessed.append(float(np.r_[1.0, predictors[:, out]] @ weights))
    return guessed


@pytest.mark.parametrize(("tasks", "models"), [(2, 9), (5, 12), (30, 8)])
def test_leaving_a_model_out_is_fitting_again_without_it(tasks: int, models: int) -> None:
    chance = np.random.default_rng(tasks)
    predictors, wanted = (standardise(chance.normal(size=(tasks, models))), chance.normal(size=models))
    ours = predict_left_out(predictors.T @ predictors, wanted, 0.7)
    assert ours == pytest.approx(fitted_again(predictors, wanted, 0.7), abs=1e-9)


def test_what_others_say_is_predicted_and_what_they_do_not_is_not() -> None:
    chance = np.random.default_rng(0)
    a, b, alone = chance.normal(size=(3, 20))
    scores = np.stack([a, b, (a + b) / 2, alone, np.full(20, 0.5)])
    found = predict_omitted(scores)
    assert found[2].spearman is not None
    assert found[2].spearman > 0.9
    assert found[2].r2 is not None
    assert found[2].r2 > 0.8
    assert found[3].r2 is not None
    assert found[3].r2 < 0.3
    assert (found[4].spearman, found[4].r2) == (None, None)
    order = sorted(range(5), key=lambda at: found[at].key, reverse=True)
    assert order[:2] == [4, 2]  # a task on which all score the same is missed least
    assert order[-1] == 3


def test_scales_play_no_part() -> None:
    scores = np.random.default_rng(1).normal(size=(4, 10))
    scaled = scores * np.array([[1.0], [100.0], [0.01], [5.0]]) + 3
    assert [one.spearman for one in predict_omitted(scores)] == pytest.approx(
        [one.spearman for one in predict_omitted(scaled)]
    )
