from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.errors import BackendError, DataError
from rerank.evaluation import Scores
from rerank.experiment import run_experiment as run_once
from rerank.experiment import verify_run_folder
from rerank.experiment.candidates import digest_run
from rerank.experiment.spec import Execution
from rerank.io.run_files import write_run
from rerank.leaderboard.suites import bench as bench_module
from rerank.leaderboard.suites.bench import PlannedRun, SuiteResult, execute_runs, plan_runs, sum_costs
from rerank.leaderboard.suites.results import average_seeds, check_candidates, compare_groups, run_row, write_rows
from rerank.leaderboard.suites.suite import Suite
from rerank.store import RunFolder
from rerank.tasks import Reply
from rerank.types import Ranking, Run
from tests.leaderboard.made import suite_of, write_lists

HOW = Execution()


def done(suite: Suite, out: Path) -> list[SuiteResult]:
    return list(execute_runs(plan_runs(suite, out, HOW), out, HOW))


def statuses(planned: list[PlannedRun]) -> list[str]:
    return [one.status for one in planned]


def counting(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    asked: list[Any] = []
    original: Callable[..., Any] = getattr(bench_module, name)

    def noting(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments[0])
        return original(*arguments, **options)

    monkeypatch.setattr(bench_module, name, noting)
    return asked


def test_a_run_is_what_rerank_run_makes(tmp_path: Path) -> None:
    suite = suite_of(write_lists(tmp_path), methods=["sliding,size=4,stride=2"], models=["fake:stutter"], seeds=[3])
    (made,) = done(suite, tmp_path / "out")
    assert made.summary is not None
    alone = run_once(suite.expand()[0].spec, Execution(out=tmp_path / "alone"))
    folder = Path(made.summary["folder"])
    assert folder.name == f"sliding-size-4-stride-2-fake-stutter-{alone['hash'][:12]}"
    for name in ("run.trec", "first_stage.trec", "queries.jsonl", "qrels.trec", "scores.json"):
        assert (folder / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    assert {p.name for p in folder.iterdir()} == {p.name for p in (tmp_path / "alone").iterdir()}
    assert verify_run_folder(RunFolder.existing(folder)) == []


def test_a_plan_says_what_is_missing_and_what_it_takes(tmp_path: Path) -> None:
    suite, out = suite_of(write_lists(tmp_path)), tmp_path / "out"
    before = plan_runs(suite, out, HOW)
    assert statuses(before) == ["missing", "missing"]
    assert [one.expected["calls"] for one in before] == [5, 5]
    assert [one.to_dict()["seconds"] for one in before] == [None, None]
    sums = sum_costs(before)
    assert (sums["missing"], sums["calls"], sums["seconds"]) == (2, 10, None)
    assert sums["tokens"] == sum(one.to_dict()["tokens"] for one in before) > 0
    assert not out.exists(), "planning leaves something behind"

    done(suite.with_models(["fake:perfect"]), out)
    after = plan_runs(suite, out, HOW)
    assert statuses(after) == ["done", "missing"]
    assert after[0].stored is not None
    assert after[0].stored.summary is not None
    assert after[0].to_dict()["tokens"] == after[0].stored.summary["tokens_in"] + after[0].stored.summary["tokens_out"]
    assert sum_costs(after)["calls"] == 5
    # Nobody has run fake:reversed here, so how fast it is is not known; of fake:perfect it is.
    assert after[1].to_dict()["seconds"] is None
    longer = plan_runs(suite_of(write_lists(tmp_path, "longer", queries=8)), out, HOW)[0].to_dict()
    took = after[0].stored.summary
    speed = took["seconds"] / (took["tokens_in"] + took["tokens_out"])
    assert longer["status"] == "missing"
    assert longer["seconds"] == pytest.approx(speed * longer["tokens"])


def test_a_finished_suite_asks_nothing_and_is_scored_as_asked_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, out = write_lists(tmp_path), tmp_path / "out"
    first = done(suite_of(collection), out)
    monkeypatch.setattr(Fake, "generate", None)  # whoever asks fails
    again = done(suite_of(collection, measures=["P@3", "nDCG@10"]), out)
    assert [one.problem for one in again] == ["", ""]
    for old, new in zip(first, again, strict=True):
        assert old.summary
        assert new.summary
        assert new.summary["folder"] == old.summary["folder"]
        assert list(new.summary["scores"]) == ["P@3", "nDCG@10"]
        assert new.summary["scores"]["nDCG@10"] == old.summary["scores"]["nDCG@10"]
        assert new.summary["reused_calls"] == 5


@pytest.mark.parametrize("after", [1, 7])
def test_stopped_in_the_middle_it_goes_on_and_asks_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    suite = suite_of(write_lists(tmp_path), models=["fake:reversed,batch_size=1", "fake:talk,batch_size=1"])
    served: list[str] = []
    generate = Fake.generate

    class Stopped(BaseException):
        """As a kill is: nobody catches it."""

    def stopping(self: Fake, requests: Any) -> Any:
        if len(served) == after:
            raise Stopped
        served.extend(request.digest(self.identity) for request in requests)
        return generate(self, requests)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Fake, "generate", stopping)
        with pytest.raises(Stopped):
            done(suite, out)
    planned = plan_runs(suite, out, HOW)
    assert [(one.status, one.committed) for one in planned] == (
        [("missing", 1), ("missing", 0)] if after == 1 else [("done", 5), ("missing", 2)]
    )

    def noting(self: Fake, requests: Any) -> Any:
        served.extend(request.digest(self.identity) for request in requests)
        return generate(self, requests)

    monkeypatch.setattr(Fake, "generate", noting)
    assert [one.problem for one in done(suite, out)] == ["", ""]
    assert len(served) == len(set(served)) == 10


def test_another_specification_has_another_folder(tmp_path: Path) -> None:
    collection, out = write_lists(tmp_path), tmp_path / "out"
    done(suite_of(collection), out)
    kept = {path.name: (path / "summary.json").read_bytes() for path in out.iterdir()}
    changed = suite_of(collection, options={"max_passage_tokens": 40})
    assert statuses(plan_runs(changed, out, HOW)) == ["missing", "missing"]
    done(changed, out)
    assert len(list(out.iterdir())) == 4
    assert {name: (out / name / "summary.json").read_bytes() for name in kept} == kept
    assert statuses(plan_runs(suite_of(collection), out, HOW)) == ["done", "done"]


def test_changed_documents_are_another_run_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done(suite_of(write_lists(tmp_path)), out)
    path = tmp_path / "lists.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("text d0-0", "another text"), encoding="utf-8")
    suite = suite_of(f"requests:{path},qrels={tmp_path / 'lists.qrels'}")
    assert statuses(plan_runs(suite, out, HOW)) == ["missing", "missing"]


def test_a_first_stage_is_retrieved_once_and_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counting(monkeypatch, "retrieve_shared")
    suite = suite_of(write_lists(tmp_path), depths=[10, 5], methods=["fullrank", "sliding"], seeds=[0, 1])
    made = done(suite.model_copy(update={"shuffle": "random"}), tmp_path / "out")
    assert len(made) == 2 * 2 * 2 * 2
    assert [spec.depth for spec in asked] == [10, 5]


def test_a_seed_that_changes_nothing_is_left_out(tmp_path: Path) -> None:
    collection = write_lists(tmp_path)
    greedy = plan_runs(suite_of(collection, seeds=[0, 1, 2]), tmp_path, HOW)
    assert [one.spec.seed for one in greedy] == [0, 0]
    mixed = plan_runs(suite_of(collection, seeds=[0, 1, 2], shuffle="random"), tmp_path, HOW)
    assert [one.spec.seed for one in mixed] == [0, 1, 2, 0, 1, 2]


def test_several_seeds_are_one_system_by_its_mean_for_a_query(tmp_path: Path) -> None:
    suite = suite_of(write_lists(tmp_path), models=["fake:reversed"], seeds=[0, 1, 2], shuffle="random")
    made = done(suite, tmp_path / "out")
    (group,) = compare_groups(suite, made)
    first, system = group["systems"]
    assert (first["system"], first["seeds"], first["spread"]["sd"]) == ("first stage", 1, None)
    means = [one.summary["scores"]["nDCG@10"] for one in made if one.summary]
    assert len(set(means)) > 1, "the seeds make no difference, so this shows nothing"
    assert system["seeds"] == 3
    assert system["scores"]["nDCG@10"] == pytest.approx(statistics.mean(means))
    spread = {"sd": pytest.approx(statistics.stdev(means)), "lowest": min(means), "highest": max(means)}
    assert system["spread"] == spread
    assert [run.run for run in group["comparison"].runs] == ["first stage", "fullrank fake:reversed"]
    files = [json.loads((Path(one.summary["folder"]) / "scores.json").read_text()) for one in made if one.summary]
    for query, value in files[0]["first_stage"]["per_query"]["nDCG@10"].items():
        mine = statistics.mean(file["run"]["per_query"]["nDCG@10"][query] for file in files)
        row_of = group["comparison"].decisions.matrix
        at = row_of.topics.index(query)
        assert row_of.values[at].tolist() == pytest.approx([value, mine])


def test_averaging_counts_a_query_that_one_seed_lacks() -> None:
    one = Scores(run="a", values={"m": {"q": 1.0, "r": 0.5}}, overall={"t": 1.0})
    two = Scores(run="b", values={"m": {"q": 0.0, "r": 0.0}}, overall={"t": 0.0}, missing=("r",))
    mean = average_seeds([one, two], "both")
    assert (mean.run, mean.values["m"], mean.overall, mean.missing) == (
        "both",
        {"q": 0.5, "r": 0.25},
        {"t": 0.5},
        ("r",),
    )


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (BackendError("out of memory"), "out of memory"),
        (UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"), "UnicodeEncodeError"),
        (RecursionError("too deep"), "RecursionError('too deep')"),
    ],
)
def test_a_failing_run_leaves_the_others_alone(
    error: Exception, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of(
        [{"collection": write_lists(tmp_path)}, {"collection": "requests:nowhere.jsonl"}],
        models=["fake:reversed", "fake:fail", "fake:perfect", "fake:stutter,p=7"],
    )
    generate = Fake.generate

    def breaking(self: Fake, requests: Any) -> Any:
        if self.kind == "reversed":
            raise error
        return generate(self, requests)

    monkeypatch.setattr(Fake, "generate", breaking)
    made = done(suite, tmp_path / "out")
    problems = {(m.planned.run.group.table.title == "requests:nowhere.jsonl", m.planned.spec.model): m for m in made}
    assert len(problems) == len(made) == 8
    assert all("nowhere" in problems[True, model].problem for model in suite.models)
    assert problem in problems[False, "fake:reversed"].problem
    assert "100% of the windows failed" in problems[False, "fake:fail"].problem
    assert problems[False, "fake:fail"].summary is not None
    assert "p=7" in problems[False, "fake:stutter,p=7"].problem
    assert problems[False, "fake:perfect"].problem == ""
    here, gone = compare_groups(suite, made)
    assert [system["system"] for system in here["systems"]] == ["first stage", "fullrank fake:perfect"]
    assert gone["comparison"] is None
    assert "nowhere" in gone["notes"][0]


def test_an_unfinished_run_is_not_compared_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, out = suite_of(write_lists(tmp_path), options={"max_failure_rate": 0.5}), tmp_path / "out"
    generate = Fake.generate

    def failing(self: Fake, requests: Any) -> Any:
        replies = list(generate(self, requests))
        if self.kind == "perfect":
            replies[0] = Reply(finish="error", error="the server hung up")
        return replies

    monkeypatch.setattr(Fake, "generate", failing)
    made = done(suite, out)
    assert "unfinished: 1 of its windows got no reply" in made[0].problem
    assert run_row(suite, made[0])["problem"] == made[0].problem
    (group,) = compare_groups(suite, made)
    assert [one["system"] for one in group["systems"]] == ["first stage", "fullrank fake:reversed"]
    assert [run.run for run in group["comparison"].runs] == ["first stage", "fullrank fake:reversed"]
    (said,) = group["notes"]
    assert "fullrank fake:perfect, seed 0" in said
    monkeypatch.setattr(Fake, "generate", generate)
    assert statuses(plan_runs(suite, out, HOW)) == ["missing", "done"]
    again = done(suite, out)
    assert [one.problem for one in again] == ["", ""]
    assert len(compare_groups(suite, again)[0]["systems"]) == 3


def test_rerankers_of_other_candidates_are_not_compared(tmp_path: Path) -> None:
    tables = [{"name": n, "collection": write_lists(tmp_path, n, shift=s)} for n, s in (("a", 0), ("b", 1))]
    suite = suite_of(tables, depths=[10, 5])
    made = done(suite, tmp_path / "out")
    groups = compare_groups(suite, made)
    assert [(g["collection"], g["depth"]) for g in groups] == [("a", 10), ("a", 5), ("b", 10), ("b", 5)]
    assert all(len(group["comparison"].runs) == 3 for group in groups)
    found = made[0].planned.candidates
    assert found is not None
    folders = [RunFolder(one.summary["folder"]) for one in made if one.summary]
    check_candidates(folders[:1], digest_run(found.first_stage))
    with pytest.raises(DataError):
        check_candidates(folders, digest_run(found.first_stage))


def test_rivals_are_shown_beside_with_what_they_have_in_common(tmp_path: Path) -> None:
    collection = write_lists(tmp_path)
    suite = suite_of(collection)
    found = plan_runs(suite, tmp_path / "out", HOW)[0].candidates
    assert found is not None
    lists = found.first_stage
    same = Run((Ranking.from_order(r.query, r.docs[::-1]) for r in lists.values()), name="same")
    half = Run((Ranking.from_order(r.query, r.docs[:5]) for r in lists.values()), name="half")
    (tmp_path / "rivals").mkdir()
    for run in (same, half):
        write_run(run, tmp_path / "rivals" / f"{run.name}.run.gz")
    (tmp_path / "rivals" / "bad.run").write_text("nonsense\n", encoding="utf-8")
    table = {"collection": collection, "rivals": [f"{tmp_path}/rivals/*", f"{tmp_path}/none/*.run"]}
    suite = suite_of([table])
    (group,) = compare_groups(suite, done(suite, tmp_path / "out"))
    rivals = {one["rival"]: one for one in group["rivals"]}
    assert {name: (one["candidates"], one["in_common"]) for name, one in rivals.items()} == {
        "same": ("same", 1.0),
        "half": ("other", 1.0),
    }
    backwards = next(s for s in group["systems"] if s["system"] == "fullrank fake:reversed")
    assert rivals["same"]["scores"] == backwards["scores"]
    assert len(group["comparison"].runs) == 3, "a rival is tested with the rerankers"
    assert any("bad.run" in said for said in group["notes"])
    assert any("none/*.run" in said for said in group["notes"])


def test_without_judgments_nothing_is_compared(tmp_path: Path) -> None:
    collection = write_lists(tmp_path).partition(",")[0]
    suite = suite_of(collection, models=["fake:reversed"])
    (group,) = compare_groups(suite, done(suite, tmp_path / "out"))
    assert (group["comparison"], group["notes"]) == (None, ["There are no judgments, so nothing is compared."])


def test_one_judged_query_is_measured_and_not_compared(tmp_path: Path) -> None:
    suite = suite_of(write_lists(tmp_path, queries=1))
    (group,) = compare_groups(suite, done(suite, tmp_path / "out"))
    assert group["comparison"] is None
    assert "1 judged query" in group["notes"][0]
    assert len(group["systems"]) == 3


def test_results_are_rows(tmp_path: Path) -> None:
    suite, out = suite_of(write_lists(tmp_path), measures=["nDCG@10", "P@3"]), tmp_path / "out"
    made = done(suite, out)
    write_rows(out, [run_row(suite, one) for one in made])
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(one["system"], one["depth"], one["first_stage"]) for one in rows] == [
        ("fullrank fake:perfect", 10, "candidates"),
        ("fullrank fake:reversed", 10, "candidates"),
    ]
    assert [one["scores"] for one in rows] == [one.summary["scores"] for one in made if one.summary]
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [float(one["nDCG@10"]) for one in table] == [one["scores"]["nDCG@10"] for one in rows]
    assert math.isclose(float(table[1]["P@3"]), rows[1]["scores"]["P@3"])


@pytest.mark.shared
def test_dl19(shared: Path, tmp_path: Path) -> None:
    """BM25's and SPLADE++'s lists are what they are known to be, and the runs that reranked BM25's are recognised."""
    from rerank.leaderboard.suites.suite import read_suite

    path = Path(__file__).resolve().parents[2] / "eval" / "suites" / "dl19.toml"
    suite = read_suite(path, data=shared / "data").with_models(["fake:perfect"])
    made = done(suite, tmp_path / "out")
    assert [one.problem for one in made] == [""] * 4
    bm25, splade = compare_groups(suite, made)
    assert bm25["systems"][0]["scores"]["nDCG@10"] == pytest.approx(0.5058, abs=5e-5)
    assert splade["systems"][0]["scores"]["nDCG@10"] == pytest.approx(0.7308, abs=5e-5)
    assert list(bm25["systems"][0]["scores"]) == ["nDCG@10", "AP(rel=2)@100", "RR(rel=2)@10"]
    assert (bm25["queries"], bm25["notes"]) == (43, [])
    rivals = {one["rival"]: one for one in bm25["rivals"]}
    assert len(rivals) == 37 + 24 + 16
    assert rivals["idst_bert_p1"]["scores"]["nDCG@10"] == pytest.approx(0.7645, abs=5e-5)
    again = {name for name, one in rivals.items() if one["candidates"] == "same"}
    assert {name for name in again if "RANK_GPT" not in name} == {"bm25base_p"}
    assert all(one["candidates"] == "same" for name, one in rivals.items() if name.startswith("gpt-3.5"))
