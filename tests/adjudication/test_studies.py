"""Studies on made-up runs and on those of Deep Learning 2019, with intervals and repeated systems."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from rerank.adjudication.conclusions import (
    CONTRASTED,
    RESAMPLED,
    Procedure,
    compare_methods,
    cross_significance_procedures,
)
from rerank.adjudication.orders.base import StaticOrder
from rerank.adjudication.pool_measures import SystemRepeats
from rerank.adjudication.pools import pool_runs
from rerank.adjudication.qrels_comparison import compare_with_gold_qrels
from rerank.adjudication.studies import AdjudicationStudy, StudyDesign, run_study
from rerank.adjudication.study_report import (
    find_disagreements,
    group_best_methods,
    render_study_report,
    write_study_report,
)
from rerank.adjudication.walks import AdjudicationBudget
from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.evaluation import ScoreMatrix
from rerank.io.run_files import read_qrels, read_run, write_run
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.raising import raises

BUDGETS = tuple(AdjudicationBudget.parse(text) for text in ("10%", "50%", "100%"))


def made(topics: int = 30) -> tuple[list[Run], Qrels]:
    """Six systems of falling quality; what all judge is in the qrels."""
    chance = np.random.default_rng(4)
    grades = {f"q{t}": {f"d{d:02d}": int(g) for d, g in enumerate(chance.integers(0, 4, 60))} for t in range(topics)}
    runs = []
    for system in range(6):
        lists = []
        for query, judged in grades.items():
            noise = chance.normal(0, 0.6 + 0.5 * system, len(judged))
            order = sorted(judged, key=lambda doc: -(judged[doc] + noise[int(doc[1:])]))
            lists.append(Ranking.from_order(Query(id=query), [Document(id=doc) for doc in order[:25]]))
        runs.append(Run(lists, name=f"<s{system}>"))
    return runs, Qrels(grades)


@pytest.fixture(scope="module")
def found() -> AdjudicationStudy:
    runs, qrels = made()
    design = StudyDesign(
        methods=("docid", "depth", "mtf", "mm", "mtf-global"),
        budgets=BUDGETS,
        measures=("nDCG@10", "AP"),
        procedures=cross_significance_procedures(["t", "tukey-anova"], ["bh", "holm"]),
        relevant=2,
        seeds=3,
    )
    return run_study(runs, qrels, design)


def test_a_row_for_everything(found: AdjudicationStudy) -> None:
    rows = found.rows()
    assert len(rows) == 5 * 3 * 2 * 3
    assert {row["seeds"] for row in rows} == {1, 3}
    assert all(("spread" in row) == (row["seeds"] > 1) for row in rows)
    assert {(row["test"], row["correction"]) for row in rows} == {("t", "bh"), ("t", "holm"), ("tukey-anova", "none")}
    for row in rows:
        assert row["AA"] + row["AD"] + row["MA"] + row["MD"] + row["PA"] + row["PD"] == pytest.approx(15)
        assert row["MA"] == pytest.approx(row["MA_missed"] + row["MA_spurious"])


def test_everything_judged_is_the_whole_pool(found: AdjudicationStudy) -> None:
    """Gold judges more than the runs have here, so the whole pool is not gold; the study says how far it goes."""
    whole = {(row["measure"], row["test"], row["correction"]): row["whole_pool"] for row in found.golds()}
    for row in found.rows():
        if row["budget"] == "100%":
            assert row["judged"] == len(found.pool)
            expected = whole[row["measure"], row["test"], row["correction"]]
            assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert "outside the pool of depth 100" in " ".join(found.notes)


def test_everything_judged_keeps_everything_where_gold_judges_the_pool() -> None:
    runs, qrels = made()
    pooled = {topic.id: {doc: qrels[topic.id][doc] for doc in topic.docs} for topic in pool_runs(runs).topics}
    design = StudyDesign(methods=("docid", "mtf"), budgets=BUDGETS[2:], measures=("nDCG@10", "AP"), relevant=2, seeds=2)
    found = run_study(runs, Qrels(pooled), design)
    for row in found.rows():
        assert (row["precision"], row["recall"], row["tau"], row["rbo"], row["max_drop"]) == (1, 1, 1, 1, 0)
        assert row["AA"] + row["PA"] == 15
    assert not any("no method can judge" in note for note in found.notes)


def test_what_is_given_twice_counts_once() -> None:
    twice = StudyDesign(
        methods=("depth", "depth"), budgets=(AdjudicationBudget.parse("10%"), AdjudicationBudget.parse("10.0%"))
    )
    assert (twice.methods, len(twice.budgets), len(twice.walks)) == (("depth",), 1, twice.seeds)


def test_budgets_that_judge_nothing_are_told() -> None:
    runs, qrels = made()
    found = run_study(
        runs, qrels, StudyDesign(methods=("docid",), budgets=(AdjudicationBudget.parse("0.1%"),), relevant=2)
    )
    (row,) = found.rows()
    assert (row["judged"], row["topics_judged"]) == (0, 0)
    assert row["tau"] is row["tau_ap"] is row["precision"] is None
    assert any("docid 0.1% (30 of 30)" in note for note in found.notes)


def test_grades_that_are_not_said_and_not_there_are_told() -> None:
    runs, qrels = made()
    silent = run_study(runs, qrels, StudyDesign(methods=("docid",), budgets=BUDGETS[:1], measures=("AP",)))
    assert any("grades up to 3" in note for note in silent.notes)
    high = run_study(runs, qrels, StudyDesign(methods=("docid",), budgets=BUDGETS[:1], relevant=9))
    assert any("grade 9" in note for note in high.notes)


def test_means_over_seeds_say_what_they_leave_out() -> None:
    runs, qrels = made()
    design = StudyDesign(methods=("random",), budgets=(AdjudicationBudget.parse("total:3"),), relevant=2, seeds=4)
    (row,) = run_study(runs, qrels, design).rows()
    assert row["undefined"].get("precision", 0) == 4
    assert row["precision"] is None


def test_names_that_are_no_text_do_not_cost_the_study(tmp_path: Path) -> None:
    runs, qrels = made()
    odd = [Run(run.values(), name=f"\udcff{at}") for at, run in enumerate(runs)]
    found = run_study(odd, qrels, StudyDesign(methods=("docid",), budgets=BUDGETS[:1]))
    for path in [*found.write(tmp_path), write_study_report(found, tmp_path / "report.html")]:
        assert path.read_text("utf-8")


def test_neither_the_order_of_topics_nor_that_of_runs_matters_without_chance() -> None:
    runs, qrels = made()
    design = StudyDesign(methods=("depth", "rrf", "dcg", "borda", "rbp-a", "combmnz"), budgets=BUDGETS[:2], relevant=2)
    turned = Qrels({topic: qrels[topic] for topic in reversed(list(qrels))})
    before, after = run_study(runs, qrels, design).rows(), run_study(runs[::-1], turned, design).rows()
    for row, other in zip(before, after, strict=True):
        for nested in ("spread", "undefined"):
            assert row.pop(nested) == pytest.approx(other.pop(nested))
        assert row == pytest.approx(other)


def test_a_larger_budget_finds_more(found: AdjudicationStudy) -> None:
    rows = {(row["method"], row["budget"]): row for row in found.rows()}
    for method in found.design.methods:
        few, half, all_ = (rows[method, str(budget)]["relevant"] for budget in BUDGETS)
        assert few < half < all_
    assert rows["mtf", "10%"]["relevant"] > rows["docid", "10%"]["relevant"]


def test_what_the_command_prints(found: AdjudicationStudy) -> None:
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["gold"]["pairs"] == 15
    assert content["gold"]["significant"] == content["gold"]["all"][0]["significant"]
    assert content["results"][0].keys() >= {"method", "budget", "measure", "AA", "tau_ap", "balanced_accuracy", "rbo"}


def test_files(found: AdjudicationStudy, tmp_path: Path) -> None:
    found.write(tmp_path)
    assert json.loads((tmp_path / "study.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    seeds = list(csv.DictReader((tmp_path / "study.csv").read_text().splitlines()))
    assert len(seeds) == (1 + 4 * 3) * 3 * 2 * 3
    first = found.rows()[0]
    about = {name: str(first[name]) for name in ("budget", "measure", "test", "correction")} | {"method": "mtf"}
    mtf = [float(row["recall"]) for row in seeds if about.items() <= row.items()]
    (mean,) = [row["recall"] for row in found.rows() if about.items() <= {k: str(v) for k, v in row.items()}.items()]
    assert len(mtf) == 3
    assert sum(mtf) / 3 == pytest.approx(mean)
    rows = {(row["method"], row["budget"]): row for row in found.rows()[::-1]}
    systems = list(csv.DictReader((tmp_path / "systems.csv").read_text().splitlines()))
    assert len(systems) == len(rows) * 6 * 6
    total = sum(float(row["missed"]) for row in systems)
    assert total == pytest.approx(2 * sum(row["MA_missed"] + row["MD_missed"] for row in found.rows()))


def test_the_report_is_one_page_that_needs_nothing_else(found: AdjudicationStudy) -> None:
    page = render_study_report(found)
    assert not re.search("https?:", page.replace("http://www.w3.org/2000/svg", ""))
    assert "<s0>" not in page  # names of systems are not markup
    assert "src=" not in page
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["rows"] == found.to_dict()["results"]
    codes = data["codes"]["docid|10%|nDCG@10|t|bh"]
    assert len(codes) == 15
    row = next(row for row in data["rows"] if row["method"] == "docid" and row["budget"] == "10%")
    assert codes.count(str(data["names"].index("AA"))) == row["AA"]


def test_the_message() -> None:
    def row(method: str, tau: float, recall: float | None, budget: str = "10%") -> dict[str, object]:
        about = {"measure": "AP", "test": "t", "correction": "bh", "budget": budget}
        return {**about, "method": method, "tau": tau, "recall": recall}

    (found,) = find_disagreements(
        [row("a", 0.9, 0.5), row("b", 0.8, 0.7), row("a", 0.9, 0.9, "20%"), row("b", 0.8, 0.7, "20%")]
    )
    assert (found["ranks"]["method"], found["keeps"]["method"], found["budget"]) == ("a", "b", "10%")
    assert find_disagreements([row("a", 0.9, None)]) == []
    noisy = {**row("b", 0.8, 0.7), "spread": {"tau": 0.01, "recall": 0.3}}
    assert find_disagreements([row("a", 0.9, 0.5), noisy]) == []
    rows = [row("a", 0.9, 0.5), row("b", 0.8, 0.7)]

    def contrast(figure: str, p: float) -> dict[str, object]:
        about = {name: rows[0][name] for name in ("measure", "test", "correction", "budget")}
        return {**about, "figure": figure, "method_a": "a", "method_b": "b", "adjusted_p": p}

    assert find_disagreements(rows, [contrast("tau", 0.01), contrast("recall", 0.2)]) == []
    assert len(find_disagreements(rows, [contrast("tau", 0.01), contrast("recall", 0.02)])) == 1
    (recall, tau) = group_best_methods(rows, [contrast("tau", 0.01), contrast("recall", 0.2)], 0.05)
    assert (recall["best"]["method"], recall["equal"], tau["best"]["method"], tau["equal"]) == ("b", ["a"], "a", [])


def test_the_report_has_no_absolute_paths(tmp_path: Path) -> None:
    runs, qrels = made()
    write_run(runs[0], tmp_path / "pool.trec")
    named = [Run(run.values(), name=f"{tmp_path}/{at % 2}/run{at}") for at, run in enumerate(runs)]
    gold = Qrels(qrels, name=f"{tmp_path}/qrels.txt")
    design = StudyDesign(methods=(f"llm:{tmp_path}/pool.trec",), budgets=BUDGETS[:1], relevant=9, seeds=2)
    page = render_study_report(run_study(named, gold, design))
    assert str(tmp_path) not in page
    assert all(name in page for name in ("0/run2", "llm:pool.trec", "qrels.txt"))


def test_crossed() -> None:
    assert cross_significance_procedures(["t", "tukey-anova"], ["bh", "holm"]) == (
        Procedure("t", "bh"),
        Procedure("t", "holm"),
        Procedure("tukey-anova", "none"),
    )
    assert cross_significance_procedures(["tukey-anova"], ["auto"]) == (Procedure("tukey-anova", "none"),)
    with raises(UsageError, "bh", "tukey-anova"):
        cross_significance_procedures(["tukey-anova"], ["bh"])
    with raises(UnknownNameError, "bonferroni"):
        cross_significance_procedures(["t"], ["bonferoni"])


def test_bad_designs() -> None:
    runs, qrels = made(4)
    with raises(UsageError, "methods"):
        StudyDesign(methods=(), budgets=BUDGETS)
    with raises(UsageError, "seeds is 0"):
        StudyDesign(methods=("mtf",), budgets=BUDGETS, seeds=0)
    with raises(UnknownNameError, "depth"):
        run_study(runs, qrels, StudyDesign(methods=("dept",), budgets=BUDGETS))
    with raises(DataError, "1 system"):
        run_study(runs[:1], qrels, StudyDesign(methods=("depth",), budgets=BUDGETS))


ONE = StudyDesign(
    methods=("depth", "mtf", "hedge", "mm"),
    budgets=(AdjudicationBudget.parse("20%"), AdjudicationBudget.parse("1000")),
    seeds=2,
)


def test_one_topic_is_not_enough() -> None:
    runs, qrels = made(1)
    with raises(DataError, "1 judged query"):
        run_study(runs, qrels, ONE)


def test_topics_that_do_not_match() -> None:
    runs, qrels = made(4)
    with raises(DataError, "other"):
        run_study(runs, Qrels({"elsewhere": {"d": 1}, "too": {"d": 1}}, name="other"), ONE)
    some = run_study(runs, Qrels({**qrels, "q9": {"d01": 2}}), ONE)
    assert any("1 of 5 topics have no document in the pool" in note for note in some.notes)


def test_runs_that_are_the_same_differ_in_nothing() -> None:
    runs, qrels = made(30)
    same = [Run(runs[0].values(), name=name) for name in "abcde"]
    found = run_study(same, qrels, ONE)
    for row in found.rows():
        assert (row["PA"], row["precision"], row["recall"], row["tau"]) == (10, None, None, None)
    assert any("does not distinguish them" in note for note in found.notes)


def test_a_run_without_a_judged_document_scores_0() -> None:
    runs, qrels = made(30)
    nothing = Run([Ranking.from_order(Query(id="q1"), [Document(id="unknown")])], name="nothing")
    found = run_study([*runs, nothing], qrels, ONE)
    assert found.gold["nDCG@10"].means[-1] == 0
    assert all(row["AA"] + row["PA"] > 0 for row in found.rows())


def test_negative_grades_are_judged_and_not_relevant() -> None:
    runs, qrels = made(30)
    spam = Qrels({topic: {doc: -2 if g == 0 else g for doc, g in judged.items()} for topic, judged in qrels.items()})
    assert run_study(runs, spam, ONE).rows() == run_study(runs, qrels, ONE).rows()
    everything = Qrels({topic: dict.fromkeys(judged, -2) for topic, judged in qrels.items()})
    found = run_study(runs, everything, ONE)
    assert {row["relevant"] for row in found.rows()} == {0}
    assert any("does not distinguish them" in note for note in found.notes)


def test_pooled_documents_without_a_judgment_are_not_judged() -> None:
    runs, qrels = made(30)
    part = Qrels({topic: {doc: g for doc, g in judged.items() if g} for topic, judged in qrels.items()})
    sampled = Qrels({topic: {doc: g or -1 for doc, g in judged.items()} for topic, judged in qrels.items()})
    ours, plain = (run_study(runs, gold, ONE) for gold in (sampled, part))
    assert (ours.rows(), ours.notes, len(ours.pool)) == (plain.rows(), plain.notes, len(plain.pool))


def test_a_budget_above_the_pool_is_the_pool() -> None:
    runs, qrels = made()
    found = run_study(runs, qrels, ONE)
    assert {row["judged"] for row in found.rows() if row["budget"] == "1000"} == {len(found.pool)}


def test_two_sets_of_judgments() -> None:
    runs, qrels = made()
    same = compare_with_gold_qrels(runs, qrels, qrels, ["nDCG@10", "P@5"], relevant=2).to_dict()
    for row in same["results"]:
        assert row["AA"] + row["PA"] == 15
        assert (row["precision"], row["recall"], row["tau"]) == (1, 1, pytest.approx(1))
    assert same["agreement"]["kappa"] == 1
    worse = Qrels({topic: {doc: (g + 1) % 4 for doc, g in judged.items()} for topic, judged in qrels.items()})
    other = compare_with_gold_qrels(runs, qrels, Qrels({**worse, "more": {"d": 1}}), relevant=2).to_dict()
    assert (other["topics"], other["topics_left_out"]) == (30, 1)
    assert other["results"][0]["tau"] < 1
    with raises(DataError, "1 topics"):
        compare_with_gold_qrels(runs, qrels, Qrels({"q1": {"d01": 1}}))


@pytest.mark.shared
def test_the_figures_for_deep_learning_2019(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published with the reference data: 37 official runs, nDCG@10, t + BH; orders with ties by id to the pair."""
    monkeypatch.setattr(StaticOrder, "random", False)
    runs = [read_run(path, name=path.name) for path in sorted((shared / "data/trec_dl_runs/dl19/official").iterdir())]
    qrels = read_qrels(shared / "data/qrels/qrels.dl19-passage.txt")
    design = StudyDesign(
        methods=("docid", "depth", "ntcir", "rrf", "mtf", "mm", "mm-ns"),
        budgets=tuple(AdjudicationBudget.parse(text) for text in ("10%", "20%", "50%")),
        relevant=2,
        seeds=5,
    )
    found = run_study(runs, qrels, design)
    assert found.golds()[0]["significant"] == 465
    rows = {(row["method"], row["budget"]): row for row in found.rows()}
    exact = {
        ("docid", "20%"): (36, 413, 16, 117, 84, 1.000, 0.077, 0.700),
        ("depth", "10%"): (389, 85, 1, 132, 59, 0.975, 0.837, 0.820),
        ("depth", "20%"): (366, 111, 0, 140, 49, 0.968, 0.787, 0.853),
        ("ntcir", "10%"): (181, 196, 96, 79, 106, 0.883, 0.389, 0.369),
        ("rrf", "10%"): (286, 112, 87, 82, 99, 0.935, 0.615, 0.441),
    }
    for key, expected in exact.items():
        row = rows[key]
        counts = tuple(row[name] for name in ("AA", "MA", "MD", "PA", "PD"))
        rates = tuple(round(row[name], 3) for name in ("precision", "recall", "tau"))
        assert (*counts, *rates) == expected, key
    # One walk each there, means of five here. The reference's MTF at 10% (.968) is above all of 100 walks of ours:
    # .75 to .95. It depends much on which runs come first, and ours draws that for every topic anew.
    for key, recall, slack in (
        (("mtf", "10%"), 0.846, 0.08),
        (("mtf", "50%"), 0.985, 0.02),
        (("mm", "10%"), 0.826, 0.05),
        (("mm-ns", "10%"), 0.862, 0.05),
    ):
        assert rows[key]["recall"] == pytest.approx(recall, abs=slack), key


def test_systems_that_did_not_contribute() -> None:
    runs, qrels = made()
    few = Qrels({topic: dict(list(judged.items())[::2]) for topic, judged in qrels.items()})
    design = StudyDesign(methods=("depth",), budgets=BUDGETS[:2], relevant=2, seeds=2)
    found = run_study(runs, few, design, pool_from=runs[:4])
    assert found.pooled is not None
    assert found.pooled.tolist() == [True] * 4 + [False] * 2
    assert len(found.pool) < len(run_study(runs, few, design).pool)
    content = found.to_dict()
    assert (content["pooled_systems"], content["gold"]["systems"]) == (4, 6)
    for row in content["results"]:
        groups = row["by_contribution"]
        assert [(group["contributing"], group["pairs"]) for group in groups] == [(2, 6), (1, 8), (0, 1)]
        for name in ("AA", "MA_missed", "PD"):
            assert sum(group[name] for group in groups) == pytest.approx(row[name])
    everything = run_study(runs, few, design, pool_from=runs)
    rows = [{**row, "by_contribution": None} for row in run_study(runs, few, design).rows()]
    assert [{**row, "by_contribution": None} for row in everything.rows()] == rows


def test_a_system_outside_the_pool_loses_ranks(tmp_path: Path) -> None:
    """Its own relevant documents stay unjudged, which the file of systems shows."""
    runs, qrels = made()
    shift = {topic: {f"n{doc}": grade for doc, grade in judged.items()} for topic, judged in qrels.items()}
    own = [
        Ranking.from_order(ranking.query, [Document(id=f"n{doc}") for doc in ranking.doc_ids])
        for ranking in runs[0].values()
    ]
    wide = Qrels({topic: {**judged, **shift[topic]} for topic, judged in qrels.items()})
    design = StudyDesign(methods=("docid",), budgets=BUDGETS[-1:], relevant=2)
    found = run_study([*runs, Run(own, name="new")], wide, design, pool_from=runs)
    found.write(tmp_path)
    (row,) = [r for r in csv.DictReader((tmp_path / "systems.csv").read_text().splitlines()) if r["system"] == "new"]
    assert (row["pooled"], row["rank_change"]) == ("0", "5.0")


@pytest.fixture(scope="module")
def sampled() -> AdjudicationStudy:
    runs, qrels = made()
    design = StudyDesign(methods=("docid", "random", "mtf"), budgets=BUDGETS, relevant=2, seeds=3, resamples=60)
    return run_study(runs, qrels, design)


def test_samples_change_no_figure(sampled: AdjudicationStudy) -> None:
    runs, qrels = made()
    plain = run_study(
        runs, qrels, StudyDesign(methods=("docid", "random", "mtf"), budgets=BUDGETS, relevant=2, seeds=3)
    )
    assert [{**row, "interval": None} for row in plain.rows()] == [{**row, "interval": None} for row in sampled.rows()]


def test_an_interval_contains_its_figure(sampled: AdjudicationStudy) -> None:
    for row in sampled.rows():
        assert row["interval"].keys() == set(RESAMPLED)
        for name, bounds in row["interval"].items():
            if bounds is not None:
                assert -1 <= bounds[0] <= row[name] <= bounds[1] <= 1
        if row["budget"] == "100%":
            assert row["interval"]["recall"] == [row["recall"], row["recall"]] or row["recall"] < 1


def test_methods_are_compared_on_the_same_samples(sampled: AdjudicationStudy) -> None:
    contrasts = sampled.contrasts()
    assert {row["figure"] for row in contrasts} <= set(CONTRASTED)
    rows = {(row["method"], row["budget"]): row for row in sampled.rows()}
    for row in contrasts:
        a, b = (rows[row[side], row["budget"]][row["figure"]] for side in ("method_a", "method_b"))
        assert row["difference"] == pytest.approx(a - b)
        assert 0 < row["p"] <= row["adjusted_p"] <= 1
        if row["budget"] == "100%":  # every order has judged the same documents
            assert (row["difference"], row["p"]) == (0, 1)
    (better,) = [r for r in contrasts if (r["budget"], r["figure"], r["method_a"]) == ("50%", "recall", "docid")][1:]
    assert better["method_b"] == "mtf"
    assert better["difference"] < 0


def test_a_difference_that_all_samples_confirm_is_found_and_one_that_none_do_is_not() -> None:
    chance = np.random.default_rng(0)
    common = chance.normal(0, 0.1, (400, len(RESAMPLED)))
    own = [chance.normal(0, 0.01, common.shape) for _ in range(3)]
    figures = {"a": common + own[0], "b": common + own[1], "c": common + own[2]}
    rows = {name: dict.fromkeys(CONTRASTED, value) for name, value in (("a", 0.8), ("b", 0.7), ("c", 0.705))}
    sampled = {(r["method_a"], r["method_b"]): r for r in compare_methods(rows, figures, 0.05) if r["figure"] == "tau"}
    assert sampled["a", "b"]["adjusted_p"] < 0.001  # .1 against .014: what all methods share cancels out
    assert sampled["b", "c"]["adjusted_p"] > 0.5
    low, high = sampled["b", "c"]["interval"]
    assert low < 0 < high


def test_figures_that_are_mostly_undefined_have_no_interval() -> None:
    figures = {name: np.full((10, len(RESAMPLED)), np.nan) for name in "ab"}
    assert not list(compare_methods({name: dict.fromkeys(CONTRASTED, 0.5) for name in "ab"}, figures, 0.05))


def test_bad_numbers_of_samples() -> None:
    for count in (-1, 1):
        with raises(UsageError, f"resamples is {count}"):
            StudyDesign(methods=("mtf",), budgets=BUDGETS, resamples=count)


def test_fewer_samples_than_seeds() -> None:
    runs, qrels = made()
    design = StudyDesign(methods=("random",), budgets=BUDGETS[1:2], relevant=2, seeds=5, resamples=3)
    (row,) = run_study(runs, qrels, design).rows()
    assert row["seeds"] == 5
    assert row["interval"]["tau"][0] <= row["tau"]


def test_means_per_topic_and_variance_between_repeats() -> None:
    repeats = SystemRepeats.match(["gpt-1", "bm25", "gpt-2"], [("gpt", "gpt-*")])
    assert repeats.systems == ("gpt", "bm25")
    values = np.array([[0.1, 0.5, 0.3], [0.6, 0.5, 0.6]])
    assert repeats.average(values) == pytest.approx(np.array([[0.2, 0.5], [0.6, 0.5]]))
    matrix = ScoreMatrix(measure="AP", topics=("1", "2"), systems=("gpt-1", "bm25", "gpt-2"), values=values)
    (row,) = repeats.describe({"AP": matrix})
    assert (row["system"], row["runs"], row["measure"]) == ("gpt", 2, "AP")
    assert row["mean"] == pytest.approx(0.4)
    assert row["sd_of_means"] == pytest.approx(np.std([0.35, 0.45], ddof=1))
    assert row["sd_per_topic"] == pytest.approx((0.02 / 2) ** 0.5)  # variances .02 and 0


def test_repeats_are_one_system_of_a_study() -> None:
    runs, qrels = made()
    again = [*runs, Run(runs[0].values(), name="<s0> again")]
    design = StudyDesign(methods=("docid",), budgets=BUDGETS, relevant=2, repeats=(("first", "<s0>*"),))
    found = run_study(again, qrels, design)
    assert found.systems == ("first", "<s1>", "<s2>", "<s3>", "<s4>", "<s5>")
    plain = run_study(runs, qrels, StudyDesign(methods=("docid",), budgets=BUDGETS, relevant=2))
    assert found.rows() == plain.rows()
    (row,) = found.to_dict()["repeats"]
    assert (row["system"], row["runs"], row["sd_of_means"], row["sd_per_topic"]) == ("first", 2, 0, 0)


def test_patterns_that_do_not_fit() -> None:
    with raises(UsageError, "1 runs", "a"):
        SystemRepeats.match(["a1", "b1"], [("a", "a*")])
    with raises(UsageError, "'a1'"):
        SystemRepeats.match(["a1", "a2"], [("a", "a*"), ("b", "*1")])
    with raises(UsageError, "'b'"):
        SystemRepeats.match(["a1", "a2", "b"], [("b", "a*")])
