"""Whole runs with fake models: folders, answers from them, failures, budgets, replay and verification."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rerank import Reranker
from rerank.engines import Local
from rerank.errors import DataError, PartialFailureError, UnknownNameError, UsageError
from rerank.experiment import (
    check_failure_rate,
    estimate_run_cost,
    prepare_run,
    replay_and_rescore_run,
    run_experiment,
    verify_run_folder,
)
from rerank.experiment.calibrate import fit_to_runs
from rerank.experiment.candidates import order_run
from rerank.experiment.execute import RunSpeed, RunTally, default_run_folder, run_tag
from rerank.experiment.prepare import spec_with_trained_defaults
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.run_files import read_run, write_run
from rerank.methods import method_names
from rerank.models.adapters import AdapterSettings
from rerank.prompts import passages
from rerank.store import RunFolder
from rerank.strategies.sliding import Full, Sliding
from rerank.tasks import Reply
from rerank.types import Run
from tests.experiment.conftest import Lists
from tests.raising import raises


@pytest.fixture
def out(tmp_path: Path) -> Execution:
    return Execution(out=tmp_path / "run")


def test_a_perfect_model_gives_perfect_scores_and_the_finished_folder_answers_without_a_call(
    lists: Lists, out: Execution
) -> None:
    summary = run_experiment(lists(), out)
    assert summary["scores"] == {"nDCG@10": 1.0}
    assert summary["first_stage_scores"]["nDCG@10"] < 1
    assert summary["windows"] == {"ok": 4, "repaired": 0, "partial": 0, "empty": 0, "refused": 0, "error": 0}
    assert (summary["queries"], summary["calls"], summary["reused_calls"]) == (4, 4, 0)
    assert summary["tokens_in"] > summary["tokens_out"] > 0
    assert summary["seconds"] >= 0
    folder = Path(summary["folder"])
    names = {path.name for path in folder.iterdir()}
    assert names >= {"spec.json", "calls.sqlite", "first_stage.trec", "run.trec", "qrels.trec", "scores.json"}
    assert RunFolder(folder).read_json("summary.json") == summary
    spec = json.loads((folder / "spec.json").read_text())
    assert spec["identity"]["model"]["model"] == "fake:perfect"
    assert spec["dataset"]["fingerprint"]
    assert spec["environment"]["python"]
    scores = [entry for r in read_run(folder / "run.trec").values() for entry in pairwise(r.scores)]
    assert all(above > below for above, below in scores)
    before = (folder / "run.trec").read_bytes()
    assert run_experiment(lists(), out) == summary | {"reused_calls": 4}
    assert (folder / "run.trec").read_bytes() == before
    assert run_experiment(lists(measures=("AP(rel=3)", "P@5")), out)["reused_calls"] == 4
    folder_of_run = RunFolder(folder)
    assert folder_of_run.spec()["spec"]["measures"] == ["AP(rel=3)", "P@5"]
    assert set(replay_and_rescore_run(folder_of_run)["scores"]) == {"AP(rel=3)", "P@5"}
    assert verify_run_folder(folder_of_run) == []


def test_without_judgments_there_are_no_scores(lists: Lists, out: Execution) -> None:
    with pytest.warns(UserWarning, match="fake:perfect"):
        summary = run_experiment(lists(qrels=None), out)
    assert summary["scores"] == {}
    assert not (Path(summary["folder"]) / "scores.json").exists()


def test_failures_are_counted_saved_and_complained_about(lists: Lists, out: Execution) -> None:
    summary = run_experiment(lists(model="fake:fail"), out)
    assert summary["windows"]["error"] == 4
    assert summary["complete"] is False
    assert summary["scores"] == summary["first_stage_scores"]
    with raises(PartialFailureError, "100%", "--max-failure-rate"):
        check_failure_rate(summary, 0.2)
    check_failure_rate(summary, 1.0)


def test_no_document_is_lost_whatever_the_model_says(lists: Lists, out: Execution) -> None:
    summary = run_experiment(lists(model="fake:stutter,p=0.9", depth=30, method="sliding"), out)
    folder = RunFolder.existing(summary["folder"])
    result, first = folder.read_run("run.trec"), folder.read_run("first_stage.trec")
    assert {q: sorted(r.doc_ids) for q, r in result.items()} == {q: sorted(r.doc_ids) for q, r in first.items()}
    assert sum(summary["windows"].values()) == 8


def test_only_so_many_queries_and_only_these(lists: Lists, out: Execution, tmp_path: Path) -> None:
    assert run_experiment(lists(max_queries=2), out)["queries"] == 2
    other = Execution(out=tmp_path / "other")
    spec = lists(queries=4, model="fake:reversed").model_copy(update={"queries": ("q3", "q1")})
    summary = run_experiment(spec, other)
    assert list(RunFolder.existing(summary["folder"]).read_run("run.trec")) == ["q3", "q1"]
    with raises(UnknownNameError, "'q33'"):
        run_experiment(spec.model_copy(update={"queries": ("q33",)}), other)


def test_queries_without_text_are_counted(out: Execution, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    documents = [{"docid": "a", "doc": "x"}, {"docid": "b", "doc": "y"}]
    rows = [{"query": {"qid": text or "q", "text": text}, "candidates": documents} for text in ("", "words")]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = {"collection": f"requests:{tmp_path / 'lists.jsonl'}", "first_stage": "candidates"}
    run_experiment(RunSpec.make({**spec, "model": "fake:reversed"}), out)
    assert "1 of 2 queries are empty, so their documents keep their order" in caplog.text


def test_depth_and_shuffle(lists: Lists, tmp_path: Path) -> None:
    def first(**options: Any) -> list[str]:
        prepared = prepare_run(lists(depth=6, **options), Execution())
        return list(order_run(prepared.first_stage, prepared.spec)["q0"].doc_ids)

    given = [f"d0-{n}" for n in range(6)]
    assert first() == given
    spec = lists(depth=6)
    assert prepare_run(spec.model_copy(update={"depth": 2}), Execution()).first_stage["q0"].doc_ids == ("d0-0", "d0-1")
    assert first(shuffle="inverse") == given[::-1]
    mixed = first(shuffle="random")
    assert sorted(mixed) == given
    assert mixed != given
    assert first(shuffle="random") == mixed
    assert first(shuffle="random", seed=1) != mixed


def test_judgments_of_other_queries_are_named(lists: Lists, out: Execution, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("someone-else 0 d 1\n")
    with raises(DataError, "4", "--qrels"):
        run_experiment(lists(qrels=str(tmp_path / "other.txt")), out)


def test_a_token_cap_makes_a_partial_run_that_can_go_on(lists: Lists, tmp_path: Path) -> None:
    place = tmp_path / "run"
    capped = run_experiment(lists(model="fake:reversed,batch_size=1"), Execution(out=place, max_total_tokens=600))
    assert 0 < capped["calls"] < 4
    assert capped["windows"]["error"] == 4 - capped["calls"]
    whole = run_experiment(lists(model="fake:reversed,batch_size=1"), Execution(out=place, resume=True))
    assert (whole["calls"], whole["reused_calls"]) == (4, capped["calls"])
    assert whole["windows"]["ok"] == 4


def test_estimate_counts_exactly_what_fullrank_asks(lists: Lists, out: Execution) -> None:
    expected = estimate_run_cost(prepare_run(lists(), Execution()))
    summary = run_experiment(lists(), out)
    assert (expected["calls"], expected["tokens_in"]) == (summary["calls"], summary["tokens_in"])
    assert expected["tokens_out"] >= summary["tokens_out"]
    assert expected["cost"] is None
    assert estimate_run_cost(prepare_run(lists(method="sliding", depth=30), Execution()))["calls"] == 8
    with raises(UsageError, "--provider-batch"):
        estimate_run_cost(prepare_run(lists(), Execution()), in_batches=True)


def test_replay_and_verify_need_no_model(lists: Lists, out: Execution) -> None:
    summary = run_experiment(lists(model="fake:stutter", method="sliding", depth=30), out)
    folder = RunFolder.existing(summary["folder"])
    again = replay_and_rescore_run(folder)
    assert {key: again[key] for key in ("queries", "windows", "scores", "first_stage_scores")} == {
        key: summary[key] for key in ("queries", "windows", "scores", "first_stage_scores")
    }
    assert set(replay_and_rescore_run(folder, ("RR",))["scores"]) == {"RR"}
    assert verify_run_folder(folder) == []


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("run.trec", ("d0-3 1 ", "d0-3 2 "), {"run.trec"}),
        ("scores.json", ('"mean": {\n      "nDCG@10": 1.0', '"mean": {\n      "nDCG@10": 0.9'), {"scores.json"}),
        *(
            ("summary.json", (f'"{key}": {value}', f'"{key}": 77'), {"summary.json", key})
            for key, value in {"calls": 4, "queries": 4, "failure_rate": 0.0, "depth": 100, "complete": "true"}.items()
        ),
        ("spec.json", ('"min_passage_tokens": 32', '"min_passage_tokens": 31'), {"spec.json"}),
        ("qrels.trec", ("q0 0 d0-0 0", "q0 0 d0-0 3"), {"scores.json"}),
        ("queries.jsonl", ("number 1", "number 9"), {"queries.jsonl"}),
    ],
)
def test_verify_finds_what_was_changed(
    lists: Lists, out: Execution, name: str, change: tuple[str, str], found: set[str]
) -> None:
    path = Path(run_experiment(lists(), out)["folder"]) / name
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    rows = verify_run_folder(RunFolder.existing(path.parent))
    assert found <= {value for row in rows for value in (row["file"], row["what"])}
    assert len(rows) == 1 or name not in ("summary.json", "queries.jsonl")


@pytest.mark.parametrize("with_hashes", [True, False])
def test_verify_recomputes_the_judge_scores(lists: Lists, out: Execution, *, with_hashes: bool) -> None:
    summary = run_experiment(lists(method="full:score", model="fake:stutter", depth=4), out)
    folder = RunFolder(summary["folder"])
    if not with_hashes:  # of an older version
        folder.write_json("spec.json", {key: value for key, value in folder.spec().items() if key != "files"})
    path = folder.path / "judge_scores.jsonl"
    content = path.read_bytes()
    assert b'"kind": "' in content
    assert verify_run_folder(folder) == []
    for number in range(13):
        rng = random.Random(number)
        start = rng.randrange(len(content))
        path.write_bytes(content[:start] + bytes([content[start] ^ 1 << rng.randrange(8)]) + content[start + 1 :])
        assert {row["file"] for row in verify_run_folder(folder)} == {"judge_scores.jsonl"}, number
    path.unlink()
    assert [row["file"] for row in verify_run_folder(folder)] == ["judge_scores.jsonl"] * with_hashes


def test_the_default_folder_is_named_by_method_model_and_hash() -> None:
    spec = RunSpec.make({"collection": "pydoc", "model": "org/some-model", "method": "sliding:generate"})
    assert default_run_folder(spec, "0123456789abcdef") == Path("runs/sliding-generate-some-model-0123456789ab")


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        (r"C:\models\mine", "mine"),
        ("C:/models/mine/", "mine"),
        ("openai:llama3.2:3b", "openai-llama3.2-3b"),
        ("fake:reversed,p=0.5", "fake-reversed,p=0.5"),
        ("openai:what?", "openai-what-"),
    ],
)
def test_the_default_folder_is_valid_on_all_systems(model: str, shown: str) -> None:
    spec = RunSpec.make({"collection": "pydoc", "model": model, "method": "sliding:generate"})
    assert default_run_folder(spec, "0123456789abcdef") == Path(f"runs/sliding-generate-{shown}-0123456789ab")


def test_a_run_is_named_by_its_adapter(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "heads.json"):
        (folder / name).write_text("{}")
    AdapterSettings(model="m", method="icr,heads=heads.json").write(folder)
    asked = {"collection": "pydoc", "adapter": str(folder)}
    own = spec_with_trained_defaults(RunSpec.make(asked))
    shutil.rmtree(folder)  # a run is named, and replayed, without it
    assert run_tag(own) == "mine"
    assert own.shown_method == "icr,heads=heads.json"
    assert run_tag(RunSpec.make(asked | {"method": "sliding,size=4"})) == "mine-sliding-size-4"
    assert run_tag(RunSpec.make({"collection": "pydoc", "method": "icr,heads=/a/b.json"})) == "icr-heads-b.json"


def test_the_call_cache_serves_other_runs(lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = lists(model="fake:reversed")
    run_experiment(spec, Execution(out=tmp_path / "a", call_cache=True))
    again = run_experiment(spec, Execution(out=tmp_path / "b", call_cache=True))
    assert (again["calls"], again["reused_calls"]) == (4, 4)
    alone = run_experiment(spec, Execution(out=tmp_path / "c"))
    assert alone["reused_calls"] == 0


def test_two_queries_of_the_same_words_are_two_calls(tmp_path: Path) -> None:
    rows = [
        {"query": {"qid": q, "text": "same"}, "candidates": [{"docid": d, "doc": f"text {d}"} for d in "abc"]}
        for q in ("q1", "q2")
    ]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "qrels.txt").write_text("q1 0 c 1\nq2 0 b 1\n")
    values = {"collection": f"requests:{tmp_path / 'lists.jsonl'}", "first_stage": "candidates"}
    spec = RunSpec.make({**values, "qrels": str(tmp_path / "qrels.txt"), "model": "fake:perfect"})
    summary = run_experiment(spec, Execution(out=tmp_path / "run"))
    assert (summary["calls"], summary["scores"]) == (2, {"nDCG@10": 1.0})
    assert verify_run_folder(RunFolder.existing(tmp_path / "run")) == []


@pytest.mark.parametrize("options", [{"measures": ("nDGC@10",)}, {"min_passage_tokens": 9, "max_passage_tokens": 8}])
def test_what_is_wrong_is_found_before_the_first_call(lists: Lists, out: Execution, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        run_experiment(lists(**options), out)
    assert out.out is not None
    if (out.out / "calls.sqlite").exists():
        with RunFolder(out.out).calls() as log:
            assert len(log) == 0


def test_judged_queries_that_the_collection_lacks_score_0(lists: Lists, out: Execution, tmp_path: Path) -> None:
    spec = lists()
    with (tmp_path / "qrels.txt").open("a") as file:
        file.write("\nq99 0 d 1\n")
    summary = run_experiment(spec, out)
    assert (summary["queries"], summary["missing"], summary["scores"]["nDCG@10"]) == (4, 1, 0.8)
    some = run_experiment(spec.model_copy(update={"max_queries": 2}), Execution(out=tmp_path / "some"))
    assert (some["missing"], some["scores"]["nDCG@10"]) == (0, 1.0)


def test_the_first_stage_is_scored_before_the_shuffle(lists: Lists, tmp_path: Path) -> None:
    plain = run_experiment(lists(), Execution(out=tmp_path / "a"))
    turned = run_experiment(lists(shuffle="inverse"), Execution(out=tmp_path / "b"))
    assert plain["first_stage_scores"] == turned["first_stage_scores"]
    assert verify_run_folder(RunFolder.existing(tmp_path / "b")) == []


def test_a_finished_folder_keeps_its_scores_without_judgments(lists: Lists, out: Execution) -> None:
    first = run_experiment(lists(), out)
    with raises(UsageError, "model is"):  # fake:perfect without judgments is another model
        run_experiment(lists(qrels=None), out)
    assert out.out is not None
    assert RunFolder.existing(out.out).read_json("summary.json")["scores"] == first["scores"]


def test_a_folder_that_was_killed_between_files_can_go_on(lists: Lists, out: Execution) -> None:
    assert out.out is not None
    out.out.mkdir()
    (out.out / ".spec.json.123.tmp").write_text("{")
    assert run_experiment(lists(), out)["calls"] == 4
    assert not (out.out / ".spec.json.123.tmp").exists()


def test_options_may_stand_behind_the_method(lists: Lists, tmp_path: Path) -> None:
    short = run_experiment(lists(method="sliding,size=4,stride=2"), Execution(out=tmp_path / "a"))
    long = run_experiment(lists(method="sliding", window_size=4, stride=2), Execution(out=tmp_path / "b"))
    assert long["calls"] == 4 * 5
    with raises(UsageError, "--window-size", "fullrank"):
        prepare_run(lists(window_size=4), Execution())
    assert (short["calls"], short["hash"]) == (long["calls"], long["hash"])
    assert RunFolder.existing(tmp_path / "a").read_run("run.trec").name == "sliding-size-4-stride-2"


def test_another_way_to_the_same_order_is_another_run(lists: Lists, out: Execution, tmp_path: Path) -> None:
    """A shuffle and a first stage that gives the shuffled order must not share a folder: its files would disagree."""
    run_experiment(lists(shuffle="inverse"), out)
    assert out.out is not None
    turned = RunFolder.existing(out.out).read_candidates()
    write_run(Run((order_run(turned, lists(shuffle="inverse"))).values(), name="r"), tmp_path / "r.trec")
    with raises(UsageError, "--out", "--overwrite"):
        run_experiment(lists(first_stage=f"run:{tmp_path / 'r.trec'}"), out)


def test_a_changed_result_is_not_answered_from(lists: Lists, out: Execution) -> None:
    path = Path(run_experiment(lists(), out)["folder"]) / "run.trec"
    path.write_text(path.read_text().replace("d0-3 1 ", "d0-3 2 "))
    with raises(DataError, "run.trec", "rerank verify", "--overwrite"):
        run_experiment(lists(), out)


#: Methods for pictures are replayed in tests/cli/test_cli_images.py: these documents have none.
TEXTUAL = [name for name in method_names() if not name.endswith("-images")]


@pytest.mark.parametrize("method", [*TEXTUAL, "sliding,identifiers=letters", "fullrank,identifiers=letters"])
def test_every_method_can_be_replayed_without_its_model(
    lists: Lists, out: Execution, method: str, tmp_path: Path
) -> None:
    if method in ("core", "qrhead"):
        heads = {"method": method, "model": {"model": "fake:reversed"}, "heads": [[0, 1]]}
        (tmp_path / "heads.json").write_text(json.dumps(heads))
        method += f",heads={tmp_path / 'heads.json'}"
    summary = run_experiment(lists(model="fake:reversed", method=method, depth=12), out)
    (tmp_path / "heads.json").unlink(missing_ok=True)
    assert verify_run_folder(RunFolder.existing(summary["folder"])) == []


def test_a_run_with_windows_too_long_for_the_context_can_be_replayed(lists: Lists, out: Execution) -> None:
    spec = lists(model="fake:perfect", depth=60, context_size=600, min_passage_tokens=6)
    summary = run_experiment(spec, out)
    assert (summary["split_windows"], summary["windows"]["error"]) == (4, 0)
    assert summary["scores"]["nDCG@10"] == 1.0
    assert verify_run_folder(RunFolder.existing(summary["folder"])) == []


def test_names_of_one_token_are_those_of_the_runs_tokenizer(
    lists: Lists, out: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past Z, which pairs of letters are one token is the tokenizer's affair."""
    names = (*map(chr, range(65, 91)), "QX", "ZZ", "AB", "KJ")
    with monkeypatch.context() as patch:
        patch.setattr(passages, "_find_letters", lambda counter: names)
        summary = run_experiment(lists(model="fake:perfect", depth=30, method="fullrank,identifiers=letters"), out)
    assert summary["windows"]["ok"] == 4
    assert verify_run_folder(RunFolder.existing(summary["folder"])) == []


@pytest.mark.parametrize("method", ["setwise", "setwise-bubble", "topdown", "pairwise"])
@pytest.mark.parametrize("model", ["fake:reversed", "fake:perfect"])
def test_what_adaptive_methods_ask_is_estimated_at_most(lists: Lists, out: Execution, method: str, model: str) -> None:
    depth = 12 if method == "pairwise" else 24  # it asks about all pairs
    spec = lists(method=method, model=model, queries=2, depth=depth)
    expected, summary = estimate_run_cost(prepare_run(spec, Execution())), run_experiment(spec, out)
    assert summary["calls"] <= expected["calls"]
    assert summary["tokens_in"] <= 1.1 * expected["tokens_in"]  # windows are not all of one length


@pytest.mark.parametrize("method", ["qlm", "icr"])
def test_scores_are_no_text_that_is_written(lists: Lists, method: str) -> None:
    assert estimate_run_cost(prepare_run(lists(method=method), Execution()))["tokens_out"] == 0


def test_the_seed_reaches_strategies_that_shuffle(lists: Lists, tmp_path: Path) -> None:
    runs = [prepare_run(lists(method="tourrank", seed=seed), Execution()) for seed in (0, 1)]
    assert runs[0].setup.strategy != runs[1].setup.strategy
    assert prepare_run(lists(method="fullrank", seed=1), Execution()).setup.strategy == Full()


@pytest.mark.parametrize(
    ("given", "stride"),
    [({}, 10), ({"window_size": 8}, 4), ({"window_size": 8, "stride": 2}, 2), ({"window_size": 3}, 1)],
)
def test_windows_overlap_by_half_unless_told_otherwise(lists: Lists, given: dict[str, int], stride: int) -> None:
    strategy = prepare_run(lists(method="sliding", **given), Execution()).setup.strategy
    assert isinstance(strategy, Sliding)
    assert strategy.stride == stride


def test_speed_and_remaining_time_of_new_calls() -> None:
    now = 0.0
    speed = RunSpeed(102, clock=lambda: now)
    assert speed.describe() == ""
    now = 5.0
    speed.add_tokens_in_progress(500)
    assert speed.describe() == "500 tokens, 100/s"  # no reply yet, so no remaining time
    now = 10.0
    speed.add_tokens_in_progress(500)
    speed.add_reply(Reply(tokens_in=1200, tokens_cached=250, tokens_out=50))
    assert speed.describe() == "1,000 tokens, 100/s, at most 17 min left"
    speed.add_reply(Reply(tokens_in=9, reused=True))
    assert speed.describe() == "1,000 tokens, 100/s, at most 17 min left"
    now = 20.0
    speed.add_reply(Reply(tokens_in=1000))
    assert speed.describe() == "2,000 tokens, 100/s, at most 16 min left"
    assert speed.calls == 3


def test_replies_from_a_log_alone_have_no_speed() -> None:
    speed = RunSpeed(2)
    speed.add_reply(Reply(tokens_in=9, reused=True))
    assert speed.describe() == ""


def spec(**values: Any) -> RunSpec:
    chosen = {"collection": "pydoc", "model": "fake:stutter", "method": "pointwise", "depth": 8, "max_queries": 6}
    return RunSpec.make({**chosen, **values})


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    run_experiment(spec(max_queries=12), Execution(out=tmp_path / "fitted"))
    fit_to_runs([tmp_path / "fitted"], tmp_path / "calibration.json", complete=True)
    return tmp_path / "calibration.json"


def test_a_run_writes_probabilities_and_a_reranker_gives_the_same_kind(calibration: Path, tmp_path: Path) -> None:
    run_experiment(spec(), Execution(out=tmp_path / "run", calibration=str(calibration)))
    rows = [json.loads(line) for line in (tmp_path / "run" / "relevance.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 6
    for row in rows:
        values = list(row["relevance"].values())
        assert values == sorted(values, reverse=True)
        assert all(0 <= value <= 1 for value in (*values, row["answerable"]))
        assert row["fit"] == "judge+first-stage"
    reranker = Reranker.from_pretrained("fake:stutter", method="pointwise", calibration=str(calibration))
    hits = reranker.rank("open a file", ["a", "b", "c", "d"])
    relevance = [hit.relevance or 0.0 for hit in hits]
    assert relevance == sorted(relevance, reverse=True)
    assert hits.report.fit == "judge"  # no first-stage scores were given
    assert hits.answerable is not None
    kept = reranker.rank("open a file", ["a", "b", "c", "d"], threshold=relevance[1])
    assert len(kept) == sum(value >= relevance[1] for value in relevance) >= 2


def test_a_calibration_of_another_ranker_is_refused(calibration: Path, tmp_path: Path) -> None:
    with raises(UsageError, "another ranker"):
        run_experiment(spec(method="fullrank"), Execution(out=tmp_path / "other", calibration=str(calibration)))
    with raises(UsageError, "another ranker"):
        Reranker.from_pretrained("fake:stutter", method="fullrank", calibration=str(calibration))


class Outside(Local):
    """An engine that keeps the generators that it returned, as one with threads may."""

    kept: ClassVar[list[Iterator[Any]]] = []
    closed = 0

    def rank(self, *arguments: Any) -> Iterator[Any]:
        def results() -> Iterator[Any]:
            try:
                yield from Local.rank(self, *arguments)
            finally:
                Outside.closed += 1

        self.kept.append(results())
        return self.kept[-1]


class Listing(Local):
    def rank(self, *arguments: Any) -> Iterator[Any]:
        return iter([*Local.rank(self, *arguments)])  # it has no method close


def test_results_of_an_outside_engine_are_closed_after_an_error(
    lists: Lists, out: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rerank.experiment.execute.open_engine", lambda *_, **__: Outside())
        patch.setattr(RunTally, "add", fail)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(lists(), out)
    assert (len(Outside.kept), Outside.closed) == (1, 1)
    monkeypatch.setattr("rerank.experiment.execute.open_engine", lambda *_, **__: Listing())
    assert run_experiment(lists(), Execution(out=out.out, resume=True))["queries"] == 4
