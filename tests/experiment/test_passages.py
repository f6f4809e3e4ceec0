"""Whole runs over passages: identity, folder, resume, replay, estimate, and the front door for Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank import Reranker
from rerank.errors import UnknownNameError
from rerank.experiment import estimate_run_cost, prepare_run, run_experiment
from rerank.experiment.execute import run_tag
from rerank.experiment.replay import replay_and_rescore_run, verify_run_folder
from rerank.experiment.spec import Execution, RunSpec
from rerank.store import RunFolder
from tests.experiment.conftest import Lists
from tests.raising import raises


@pytest.fixture
def long_lists(lists: Lists, tmp_path: Path) -> Lists:
    """The lists, their documents of 1 to 30 words."""

    def make(**options: object) -> RunSpec:
        spec = lists(depth=8, **options)
        file = tmp_path / "lists.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            for at, candidate in enumerate(row["candidates"]):
                candidate["doc"] = " ".join(f"{candidate['docid']}w{n}" for n in range(1 + at * 11 % 30))
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return spec

    return make


@pytest.mark.parametrize("passages", ["max,size=5", "first,size=5", "sum,size=5,stride=5"])
@pytest.mark.parametrize("method", ["fullrank", "sliding,size=4,stride=2", "pointwise", "setwise"])
def test_a_run_is_answered_replayed_and_verified(long_lists: Lists, tmp_path: Path, passages: str, method: str) -> None:
    spec = long_lists(passages=passages, method=method)
    execution = Execution(out=tmp_path / "run")
    first = run_experiment(spec, execution)
    folder = RunFolder(tmp_path / "run")
    assert verify_run_folder(folder) == []
    assert replay_and_rescore_run(folder)["scores"] == first["scores"]
    assert run_experiment(spec, execution)["reused_calls"] == first["calls"]
    result, given = folder.read_run("run.trec"), folder.read_candidates()
    assert {q: sorted(ranking.doc_ids) for q, ranking in result.items()} == {
        q: sorted(ranking.doc_ids) for q, ranking in given.items()
    }
    if method in ("fullrank", "pointwise") and passages[:3] != "sum":  # the judge knows the documents' grades
        assert first["scores"]["nDCG@10"] == pytest.approx(1.0)


def test_they_are_a_part_of_the_runs_identity_and_name(long_lists: Lists) -> None:
    whole, some = long_lists(), long_lists(passages="max,size=5")
    more = long_lists(passages="max,size=5,stride=1")
    prepared = [prepare_run(spec, Execution()) for spec in (whole, some, more)]
    assert "passages" not in prepared[0].identity()
    assert prepared[1].identity()["passages"] == "Passages(aggregate='max', size=5, stride=2)"
    assert prepared[1].identity() != prepared[2].identity()
    assert [run_tag(run.spec) for run in prepared[:2]] == ["fullrank", "fullrank-passages-max-size-5"]


def test_an_estimate_counts_passages(long_lists: Lists, tmp_path: Path) -> None:
    spec = long_lists(passages="max,size=5", method="pointwise")
    expected = estimate_run_cost(prepare_run(spec, Execution()))
    done = run_experiment(spec, Execution(out=tmp_path / "run"))
    rows = [json.loads(line) for line in (tmp_path / "run/passages.jsonl").read_text().splitlines()]
    assert expected["calls"] == done["calls"] == sum(sum(row["docs"].values()) for row in rows)
    assert expected["calls"] > sum(len(row["docs"]) for row in rows)


def test_wishes_for_the_best_documents_do_not_reach_the_strategy(long_lists: Lists) -> None:
    spec = long_lists(passages="max,size=5", top_k=3)
    assert "top_k=None" in repr(prepare_run(spec, Execution()).setup.strategy)
    assert "top_k=3" in repr(prepare_run(long_lists(top_k=3), Execution()).setup.strategy)


def test_bad_options_are_refused_before_anything_is_asked(long_lists: Lists, tmp_path: Path) -> None:
    with raises(UnknownNameError, "Did you mean 'max'"):
        run_experiment(long_lists(passages="maxx"), Execution(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_front_door_for_python() -> None:
    texts = ["one two three four", "five", "six seven"]
    reranker = Reranker.from_pretrained("fake:reversed", passages="max,size=2,stride=2")
    hits = reranker.rank("a question", texts)
    assert [hit.text for hit in hits] == texts[::-1]
    assert [hit.corpus_id for hit in hits] == [2, 1, 0]
    assert [hit.text for hit in reranker.rank("a question", texts, top_k=1)] == ["six seven"]


@pytest.mark.shared
def test_vaswani_in_passages(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vaswani's documents are abstracts of some forty words, so twenty words make several passages of most."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = {"docs": "doc-text.trec.gz", "topics": "query-text.trec", "qrels": "qrels"}
    selector = ",".join(f"{kind}={shared / 'data/vaswani' / name}" for kind, name in files.items())
    values = {"collection": f"trec:{selector}", "model": "fake:perfect", "depth": 50, "max_queries": 10}
    for passages in ("max,size=20", "first,size=20", "sum,size=20"):
        out = tmp_path / passages.partition(",")[0]
        done = run_experiment(RunSpec.make(values | {"passages": passages}), Execution(out=out))
        assert verify_run_folder(RunFolder(out)) == []
        assert done["scores"]["nDCG@10"] > done["first_stage_scores"]["nDCG@10"]
        counts = [n for docs in RunFolder(out).read_passages().values() for n in docs.values()]
        assert (max(counts) > 1) is (not passages.startswith("first"))
