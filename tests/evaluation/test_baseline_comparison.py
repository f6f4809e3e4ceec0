"""Many runs against one baseline: contract, marks, corrections, missing values, equivalence."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation import ComparisonOptions, Scores, compare_with_baseline, score_compared_runs
from rerank.evaluation.baseline_comparison import equivalence_p_values
from rerank.evaluation.comparison import compared_runs_of_matrix
from rerank.evaluation.gate import decide_gate
from rerank.evaluation.pairwise_decisions import find_outlying_systems
from rerank.evaluation.scores import ScoreMatrix
from rerank.evaluation.significance.resampling import Bootstrap
from rerank.io.reports import convert_rows_to_csv
from rerank.types import Qrels, Run
from tests.raising import raises
from tests.ranked import run_of

VALUES = np.random.default_rng(4).normal([0.4, 0.47, 0.41, 0.3], 0.1, (40, 4))
NAMES = ("base", "good", "same", "bad")


def made(values: object = VALUES, measures: tuple[str, ...] = ("AP",)) -> list[Scores]:
    columns = np.asarray(values).T
    return [
        Scores(run=name, values={m: {f"q{n}": float(v) for n, v in enumerate(column)} for m in measures})
        for name, column in zip(NAMES, columns, strict=False)
    ]


def test_the_contract_and_the_marks() -> None:
    found = compare_with_baseline(made(), ["AP"], "base")
    content = found.to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["baseline"] == "base"
    assert content["family"].keys() >= {"test", "correction", "alpha", "pairs", "measures", "topics", "missing_topics"}
    assert content["family"]["versions"].keys() >= {"python", "numpy", "scipy", "ir-measures"}
    assert [row["run"] for row in content["rows"]] == ["good", "same", "bad"]
    assert content["rows"][0].keys() >= {"run", "measure", "difference", "interval", "p", "adjusted_p", "judged"}
    assert [row.mark for row in found.rows] == ["†", "", "‡"]
    raw = [stats.ttest_rel(VALUES[:, j], VALUES[:, 0]).pvalue for j in (1, 2, 3)]
    assert [row.p for row in found.rows] == pytest.approx(raw)
    assert [row.adjusted_p for row in found.rows] == pytest.approx(multipletests(raw, method="holm")[1])
    low, high = DescrStatsW(VALUES[:, 1] - VALUES[:, 0]).tconfint_mean(0.05)
    assert found.rows[0].interval == pytest.approx((low, high))
    assert found.rows[0].simultaneous_interval[0] < low


def test_intervals_follow_alpha_and_the_correction_may_cover_measures() -> None:
    narrow = compare_with_baseline(made(), ["AP"], "base", ComparisonOptions(alpha=0.2)).rows[0].interval
    wide = compare_with_baseline(made(), ["AP"], "base").rows[0].interval
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    both = made(measures=("AP", "RR"))
    for test in ("t", "dunnett", "max-t,permutations=500"):
        alone, together = (
            compare_with_baseline(both, ["AP", "RR"], "base", ComparisonOptions(test=test, across_measures=across))
            for across in (False, True)
        )
        assert (alone.family.size, together.family.size) == (3, 6)
        assert all((a.adjusted_p or 0) <= (b.adjusted_p or 0) for a, b in zip(alone.rows, together.rows, strict=True))
        assert together.rows[0].simultaneous_interval[0] <= alone.rows[0].simultaneous_interval[0]


def test_a_constant_difference_has_no_p_under_t() -> None:
    values = np.column_stack([VALUES[:, 0], VALUES[:, 0] + 0.1])
    (row,) = compare_with_baseline(made(values), ["AP"], "base").rows
    assert (row.p, row.adjusted_p, row.significant) == (None, None, False)
    (row,) = compare_with_baseline(made(values), ["AP"], "base", ComparisonOptions(test="sign")).rows
    assert row.significant


def test_equivalence_is_that_of_statsmodels() -> None:
    options = ComparisonOptions(margin=0.05, correction="none")
    row = compare_with_baseline(made(), ["AP"], "base", options).rows[1]
    p, lower, _ = DescrStatsW(VALUES[:, 2] - VALUES[:, 0]).ttost_mean(-0.05, 0.05)
    assert row.claims["equivalent_p"] == pytest.approx(p)
    assert row.claims["not_inferior_p"] == pytest.approx(lower[1])
    with raises(UsageError, "margin is -1"):
        compare_with_baseline(made(), ["AP"], "base", ComparisonOptions(margin=-1))


def test_claims_are_corrected_over_all_measures_if_asked() -> None:
    both = made(measures=("AP", "RR"))
    for test in ("t", "dunnett"):
        alone, together = (
            compare_with_baseline(
                both, ["AP", "RR"], "base", ComparisonOptions(test=test, margin=0.05, across_measures=across)
            )
            for across in (False, True)
        )
        raw = [equivalence_p_values(VALUES[:, 1:] - VALUES[:, [0]], 0.05).not_inferior] * 2
        for found, parts in ((alone, raw), (together, [np.concatenate(raw)])):
            expected = np.concatenate([multipletests(part, method="holm")[1] for part in parts])
            assert [row.claims["not_inferior_p"] for row in found.rows] == pytest.approx(expected)
    assert "Holm over 3 runs x 2 measures" in together.to_table("text")


@pytest.mark.parametrize("test", ["t", "bootstrap", "max-t", "dunnett"])
def test_a_constant_loss_is_worse_whatever_the_test(test: str) -> None:
    values = np.column_stack([np.linspace(0.3, 0.7, 40), np.linspace(0.3, 0.7, 40) - 0.1])
    found = compare_with_baseline(made(values), ["AP"], "base", ComparisonOptions(test=test, margin=0.2))
    assert found.rows[0].p is None
    assert decide_gate(found, "worse").fails
    assert not decide_gate(found, "not-equivalent").fails


def test_a_bootstrap_says_that_too_few_queries_differ() -> None:
    values = np.full((40, 2), 0.5)
    values[:2, 1] += 0.3
    found = compare_with_baseline(made(values), ["AP"], "base", ComparisonOptions(test="max-t"))
    assert "only 2 of 40 queries" in found.notes[-2]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["rows"][0]["simultaneous_interval"] is None


def test_a_bootstrap_of_equivalence_knows_the_skewness() -> None:
    """A few large losses below the margin: t claims more than draws with the same skewness allow."""
    d = np.array([0.05] * 38 + [-0.4] * 5)
    values = np.column_stack([np.full(43, 0.5), 0.5 + d])
    t, bootstrap = (
        compare_with_baseline(made(values), ["AP"], "base", ComparisonOptions(test=test, margin=0.05))
        for test in ("t", "bootstrap")
    )
    assert bootstrap.rows[0].claims["not_inferior_p"] > t.rows[0].claims["not_inferior_p"]
    assert "skewness of -2.4" in t.notes[-1]
    assert "max-t" not in t.notes[-1]
    drawn = np.concatenate([*Bootstrap().bootstrap_t(d[:, None])])
    observed = (d.mean() + 0.05) / (d.std(ddof=1) / np.sqrt(43))
    assert bootstrap.rows[0].claims["not_inferior_p"] == pytest.approx((1 + (drawn >= observed).sum()) / 10001)


@pytest.mark.parametrize(
    ("test", "scale", "words"),
    [
        ("dunnett", 4.0, ["range from", "'good'", "'bad'", "use max-t"]),
        ("dunnett", 1.0, []),
        ("wilcoxon", 1.0, ["symmetry", "not of the mean"]),
        ("max-t,permutations=99", 1.0, []),
    ],
)
def test_notes_on_assumptions(test: str, scale: float, words: list[str]) -> None:
    chance = np.random.default_rng(0)
    values = 0.5 + chance.normal(0, 0.1, (40, 4)) * [0, 1, 1, scale]
    notes = " ".join(compare_with_baseline(made(values), ["AP"], "base", ComparisonOptions(test=test)).notes)
    assert all(word in notes for word in words)
    assert bool(notes) == bool(words)


def test_an_unknown_baseline() -> None:
    with raises(UnknownNameError, "'bse'", "base"):
        compare_with_baseline(made(), ["AP"], "bse")


def test_csv_has_a_line_per_run_and_measure() -> None:
    found = compare_with_baseline(made(measures=("AP", "RR")), ["AP", "RR"], "base").to_dict()["rows"]
    rows = list(csv.DictReader(io.StringIO(convert_rows_to_csv(found))))
    assert [(row["run"], row["measure"]) for row in rows] == [(n, m) for m in ("AP", "RR") for n in NAMES[1:]]
    assert float(rows[0]["interval_low"]) == found[0]["interval"][0]
    assert rows[0]["judged"] == ""


def test_tables_escape_and_mark() -> None:
    found = compare_with_baseline(made(), ["AP"], "base")
    assert r"$^{\dagger{}}$" in found.to_table("latex")
    assert r"\caption{" in found.to_table("latex")
    assert "<sup>†</sup>" in found.to_table("html")
    assert "base (baseline)" in str(found)


def runs(*orders: str) -> list[Run]:
    return [run_of(f"r{number}", {f"q{n}": order for n in range(30)}) for number, order in enumerate(orders)]


def test_judged_fractions_and_runs_without_a_judged_document() -> None:
    qrels = Qrels({f"q{n}": {"a": 1, "b": 0} for n in range(30)})
    compared = score_compared_runs(qrels, runs("ab", "ax", "yz"), ["P@2"])
    assert [compared.judged[f"r{n}", "P@2"] for n in range(3)] == [1.0, 0.5, 0.0]
    (note,) = compared.notes
    assert "'r2'" in note


def test_outlying_runs_are_found_and_left_out(tmp_path: Path) -> None:
    values = np.random.default_rng(5).normal(np.linspace(0.3, 0.4, 12), 0.05, (30, 12))
    names = tuple(f"s{n}" for n in range(12))
    assert (
        find_outlying_systems(
            ScoreMatrix(measure="AP", topics=tuple(map(str, range(30))), systems=names, values=values)
        )
        == ()
    )
    values[:, :2] = 0.0
    matrix = ScoreMatrix(measure="AP", topics=tuple(map(str, range(30))), systems=names, values=values)
    assert find_outlying_systems(matrix) == ("s0", "s1")
    compared = compared_runs_of_matrix(matrix)
    assert [entry.run for entry in compared.without_outliers().scores] == list(names[2:])
    assert [entry.run for entry in compared.without_outliers(keep="s0").scores][0] == "s0"
    compared.write_query_differences(tmp_path / "d.csv", "s0")
    rows = list(csv.DictReader((tmp_path / "d.csv").read_text().splitlines()))
    assert (len(rows), rows[0]["a"], rows[0]["b"]) == (330, "s1", "s0")
