"""Runs against each other."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import DataError, UsageError
from rerank.evaluation import Comparison, Scores, compare_evaluated_runs, compare_runs
from rerank.evaluation.significance import correct_p_values
from rerank.types import Qrels, Run
from tests.raising import raises
from tests.ranked import run_of

QUERIES = [f"q{n}" for n in range(30)]
QRELS = Qrels({query: {"a": 1, "b": 0} for query in QUERIES})


def run(name: str, better_on: int, queries: list[str] = QUERIES) -> Run:
    """The relevant document first for so many queries, second for the rest."""
    return run_of(name, {query: "ab" if n < better_on else "ba" for n, query in enumerate(queries)})


def scores(name: str, *values: float) -> Scores:
    return Scores(run=name, values={"AP": {f"q{n}": value for n, value in enumerate(values)}})


def test_three_runs() -> None:
    result = compare_runs(QRELS, [run("best", 29), run("good", 20), run("bad", 0)], "RR")
    assert result.measure == "RR"
    assert result.queries == 30
    assert [(r.run, r.mean) for r in result.runs] == [
        ("best", pytest.approx(59 / 60)),
        ("good", pytest.approx(5 / 6)),
        ("bad", 0.5),
    ]
    assert [(p.a, p.b) for p in result.pairs] == [("best", "good"), ("best", "bad"), ("good", "bad")]
    first = result.pairs[0]
    assert first.difference == pytest.approx(9 / 60)
    assert (first.wins, first.ties, first.losses) == (9, 21, 0)
    assert first.low < first.difference < first.high
    assert all(p.significant for p in result.pairs)
    assert all((p.p or 1) <= (p.p_adjusted or 0) and p.p_wilcoxon <= p.p_wilcoxon_adjusted for p in result.pairs)
    assert result.notes == ()


def test_dictionary_is_the_contract() -> None:
    content = compare_runs(QRELS, [run("a.run", 20), run("b.run", 10)], "nDCG@10").to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["measure"] == "nDCG@10"
    assert [entry["run"] for entry in content["runs"]] == ["a.run", "b.run"]
    assert content["runs"][0].keys() == {"run", "queries", "missing", "mean", "ci"}
    (pair,) = content["pairs"]
    assert pair.keys() == {
        *("a", "b", "difference", "ci", "wins", "ties", "losses", "significant"),
        *("p", "p_adjusted", "p_wilcoxon", "p_wilcoxon_adjusted"),
    }
    assert pair["difference"] == pytest.approx(content["runs"][0]["mean"] - content["runs"][1]["mean"])


def test_identical_runs_do_not_differ() -> None:
    (pair,) = compare_runs(QRELS, [run("a", 20), run("b", 20)], "AP").pairs
    assert (pair.difference, pair.low, pair.high) == (0.0, 0.0, 0.0)
    assert (pair.p, pair.p_adjusted, pair.p_wilcoxon, pair.p_wilcoxon_adjusted) == (1.0, 1.0, 1.0, 1.0)
    assert (pair.wins, pair.ties, pair.losses) == (0, 30, 0)
    assert not pair.significant


def test_equal_differences_cannot_be_tested_by_t() -> None:
    """Two queries, both better by the same: t is infinite, which says nothing."""
    runs = [scores("a", 0.3, 0.5), scores("b", 0.2, 0.4), scores("c", 0.1, 0.4)]
    result = compare_evaluated_runs(runs, "AP")
    (pair, *others) = result.pairs
    assert pair.untestable
    assert not pair.significant
    assert pair.p is pair.p_adjusted is None
    assert result.to_dict()["pairs"][0]["p"] is None
    assert pair.p_wilcoxon == 0.5
    assert pair.difference == pytest.approx(0.1)
    assert not any(other.untestable for other in others)
    (note,) = (note for note in result.notes if note.startswith("'a' and 'b': all 2 differences are equal"))
    assert note in str(result)
    assert sum("Wilcoxon" in line for line in result.notes) == 1
    assert "untestable" not in result.to_dict()["pairs"][0]


def test_an_untestable_pair_still_counts_in_the_correction() -> None:
    (whole, *_), (part, *_) = (
        [p for p in compare_runs(QRELS, runs, "RR").pairs if p.a == "best" and p.b == "good"]
        for runs in ([run("best", 30), run("good", 20), run("bad", 0)], [run("best", 30), run("good", 20)])
    )
    assert whole.p == part.p
    assert (whole.p_adjusted or 0) > (part.p_adjusted or 0) == part.p


def test_last_bits_make_no_win() -> None:
    (pair,) = compare_evaluated_runs([scores("a", 0.1 + 0.2, 0.5), scores("b", 0.3, 0.5)], "AP").pairs
    assert (pair.wins, pair.ties) == (0, 2)
    assert pair.p == 1.0


def test_a_level_of_relevance_and_trec_names() -> None:
    qrels = Qrels({query: {"a": 2, "b": 1} for query in QUERIES})
    result = compare_runs(qrels, [run("x", 30), run("y", 0)], "recip_rank", relevant=2)
    assert result.measure == "RR(rel=2)"
    assert [r.mean for r in result.runs] == [1.0, 0.5]


def test_missing_queries_and_few_topics_are_said() -> None:
    few = Qrels({query: QRELS[query] for query in QUERIES[:10]})
    result = compare_runs(few, [run("whole", 5), run("part", 5, QUERIES[:8])], "RR")
    assert [r.missing for r in result.runs] == [0, 2]
    assert result.notes[0].startswith("Run 'part' has no results for 2 of 10 judged queries")
    assert result.notes[1].startswith("Only 10 queries")
    assert result.to_dict()["notes"] == list(result.notes)


@pytest.mark.parametrize(
    ("names", "measure", "alpha", "named"),
    [
        (["a"], "AP", 0.05, "runs to compare is 1"),
        ([], "AP", 0.05, "runs to compare is 0"),
        (["a", "a"], "AP", 0.05, "'a'"),
        (["a", "b"], "P_5,10", 0.05, "2 measures"),
        (["a", "b"], "AP", 0.0, "alpha is 0"),
        (["a", "b"], "AP", 1.5, "alpha is 1.5"),
        (["a", "b"], "AP", math.nan, "alpha is nan"),
        (["a", "b"], "APP", 0.05, "'APP'"),
    ],
)
def test_what_makes_no_sense(names: list[str], measure: str, alpha: float, named: str) -> None:
    with raises(UsageError, named):
        compare_runs(QRELS, [run(name, 5) for name in names], measure, alpha=alpha)


def test_scores_that_do_not_fit_together() -> None:
    with raises(UsageError, "'b'", "RR"):
        compare_evaluated_runs([Scores(run="a", values={"RR": {"q": 1.0}}), scores("b", 1.0)], "RR")
    with raises(DataError, "'a'", "'b'"):
        compare_evaluated_runs([scores("a", 1.0, 0.0), scores("b", 1.0)], "AP")
    with raises(DataError, "1 judged query"):
        compare_evaluated_runs([scores("a", 1.0), scores("b", 1.0)], "AP")


columns = st.lists(st.integers(0, 10).map(lambda n: n / 10), min_size=4, max_size=4)


@given(st.lists(columns, min_size=2, max_size=4))
def test_properties(table: list[list[float]]) -> None:
    result = compare_evaluated_runs([scores(f"r{n}", *column) for n, column in enumerate(table)], "AP")
    assert len(result.pairs) == len(table) * (len(table) - 1) // 2
    means = {entry.run: entry.mean for entry in result.runs}
    for pair in result.pairs:
        assert pair.wins + pair.ties + pair.losses == 4
        assert pair.difference == pytest.approx(means[pair.a] - means[pair.b])
        if pair.p is None or pair.p_adjusted is None:
            assert pair.untestable
            assert not pair.significant
            continue
        assert 0 < pair.p <= pair.p_adjusted <= 1
        assert 0 < pair.p_wilcoxon <= pair.p_wilcoxon_adjusted <= 1
        assert pair.significant == (pair.p_adjusted <= result.alpha)


def example() -> Comparison:
    return compare_runs(QRELS, [run("best|1", 29), run("bad", 0), run("same", 0)], "RR")


def test_text_table() -> None:
    text = str(example())
    blocks = text.split("\n\n")
    assert blocks[0].splitlines() == [
        "   run         RR        95% interval",
        "a  best|1  0.9833ᵇᶜ  [0.9492, 1.0174]",
        "b  bad     0.5000    [0.5000, 0.5000]",
        "c  same    0.5000    [0.5000, 0.5000]",
    ]
    rows = [line.split() for line in blocks[1].splitlines()]
    expected = "best|1 bad +0.4833 [0.4492, 0.5174] +5.29 29/1/0 <0.0001 <0.0001* <0.0001 <0.0001"
    assert rows[1] == expected.split()
    assert rows[3][-5:] == ["0/30/0", "1.0000", "1.0000", "1.0000", "1.0000"]
    assert blocks[2].startswith("* significant: p (paired t, two-sided), after Holm's correction over 3 pairs, is")


def test_markdown_table() -> None:
    text = example().to_markdown(2)
    assert "| a | best\\|1 | **0.98**<sup>bc</sup> | [0.95, 1.02] |" in text
    assert "| --- | --- | ---: | ---: |" in text
    assert "\n\n\\* significant" in text


def test_other_tests_and_corrections() -> None:
    runs = [run("best", 29), run("good", 20), run("bad", 0)]
    usual = compare_runs(QRELS, runs, "RR")
    for test, correction in (("sign", "bh"), ("permutation", "none"), ("tukey-anova", "auto"), ("wilcoxon", "by")):
        other = compare_runs(QRELS, runs, "RR", test=test, correction=correction)
        second = np.array([p.p_wilcoxon for p in usual.pairs])
        named = {"tukey-anova": "holm"}.get(test, correction)  # a test that needs no correction leaves it to Holm
        assert [p.p_wilcoxon_adjusted for p in other.pairs] == list(correct_p_values(second, named))
        assert [p.significant for p in other.pairs] == [(p.p_adjusted or 0) <= 0.05 for p in other.pairs]
        assert all(0 < (p.p or 0) <= (p.p_adjusted or 0) <= 1 for p in other.pairs)
    with raises(UsageError, "holm", "tukey-anova"):
        compare_runs(QRELS, runs, "RR", test="tukey-anova", correction="holm")


def test_only_t_needs_spread() -> None:
    runs = [scores("a", *[0.5] * 30), scores("b", *[0.4] * 30)]
    assert not compare_evaluated_runs(runs, "AP").pairs[0].significant
    found = compare_evaluated_runs(runs, "AP", test="sign")
    assert found.pairs[0].significant
    assert found.notes == ()


def test_effects() -> None:
    values = [0.3, 0.1, 0.4, 0.1, 0.5, 0.9]
    result = compare_evaluated_runs([scores("a", *values), scores("b", *[0.0] * 6)], "AP")
    (pair,) = result.pairs
    spread = math.sqrt(sum((v - sum(values) / 6) ** 2 for v in values) / 5)
    assert pair.effect == pytest.approx(sum(values) / 6 / spread)
    # Hedges' own approximation of the factor is 1 - 3 / (4 v - 1)
    assert pair.hedges == pytest.approx(pair.effect * (1 - 3 / (4 * 5 - 1)), rel=3e-3)
    assert result.to_dict()["effects"] == [{"a": "a", "b": "b", "d_z": pair.effect, "hedges_g": pair.hedges}]
    constant = compare_evaluated_runs([scores("a", 0.3, 0.3), scores("b", 0.2, 0.2), scores("c", 0.2, 0.2)], "AP")
    assert [(p.effect, p.hedges) for p in constant.pairs] == [(math.inf, 0.0), (math.inf, 0.0), (0.0, 0.0)]
    assert constant.to_dict()["effects"][0]["d_z"] is None


def test_deltas_by_query() -> None:
    result = compare_evaluated_runs([scores("a", 0.3, 0.1 + 0.2), scores("b", 0.1, 0.3)], "AP")
    assert result.deltas("a", "b") == {"q0": 0.2, "q1": 0.0}
    assert result.deltas("b", "a") == {"q0": -0.2, "q1": 0.0}
    with raises(UsageError, "'c'"):
        result.deltas("a", "c")


def odd() -> Comparison:
    return compare_runs(QRELS, [run("a&b_<1>|$", 29), run("[x]", 0), run("100%*", 0)], "RR")


def test_latex_is_escaped() -> None:
    text = odd().to_latex(2)
    assert r"a & a\&b\_\textless{}1\textgreater{}\textbar{}\$ & \textbf{0.98}$^{bc}$ & {[}0.95, 1.02] \\" in text
    assert text.count(r"\begin{tabular}{llrr}") == text.count(r"\toprule") - 1 == 1
    assert r"100\%\textasteriskcentered{} & " in text
    assert text.count("{") == text.count("}")


def test_html_is_escaped() -> None:
    text = odd().to_html(2)
    assert '<td>a&amp;b_&lt;1&gt;|$</td><td style="text-align: right"><b>0.98</b><sup>bc</sup></td>' in text
    assert "<1>" not in text
    assert text.count("<table>") == text.count("</table>") == 2
    assert "<p>* significant" in text


def test_many_runs_get_numbers_instead_of_letters() -> None:
    result = compare_runs(QRELS, [run(f"r{n}", n) for n in range(27)], "RR", test="sign", correction="none")
    head, first, *_, last = str(result).split("\n\n")[0].splitlines()
    assert head.split()[-1] == "beats"
    assert (first.split()[-1], last.split()[-1]) == ("21", "0")
    assert "Letters" not in str(result)
    assert "<sup>a" not in result.to_html()


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    example().plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
