"""Runs without judgments read their lists from the file, write the same folder, and hold few lists at a time."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.errors import BackendError, DataError, UnknownNameError
from rerank.experiment import estimate_run_cost, execute_run, prepare_run, run_experiment, verify_run_folder
from rerank.experiment.candidates import CandidateLists, digest_run
from rerank.experiment.spec import Execution, RunSpec
from rerank.store import RunFolder
from rerank.types import Ranking
from tests.experiment.conftest import Lists
from tests.raising import raises

_FILES = ("run.trec", "first_stage.trec", "queries.jsonl", "judge_scores.jsonl", "passages.jsonl", "splits.jsonl")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth": 5, "shuffle": "random"},
        {"max_queries": 2, "shuffle": "inverse", "top_k": 3},
        {"queries": ("q3", "q1")},
        {"passages": "max,size=2,stride=1"},
        {"context_size": 180, "min_passage_tokens": 4},
        {"method": "pointwise"},
        {"model": "fake:stutter,p=0.9"},
    ],
)
def test_the_folder_is_that_of_a_run_in_memory(lists: Lists, tmp_path: Path, options: dict[str, Any]) -> None:
    spec = lists(model="fake:reversed", qrels=None)
    spec = RunSpec.make(spec.model_dump(include=spec.model_fields_set) | options)
    execution = Execution(out=tmp_path / "streamed")
    prepared = prepare_run(spec, execution)
    in_memory = replace(prepared, lists=CandidateLists.of(prepared.first_stage))
    assert (prepared.lists.kept is None) == ("queries" not in options)
    assert prepared.identity()["first_stage"] == digest_run(prepared.first_stage) == in_memory.identity()["first_stage"]
    assert estimate_run_cost(prepared) == estimate_run_cost(in_memory)
    whole = execute_run(in_memory, Execution(out=tmp_path / "memory"))
    streamed = execute_run(prepared, execution)
    varying = {"folder", "seconds"}
    assert {k: v for k, v in streamed.items() if k not in varying} == {
        k: v for k, v in whole.items() if k not in varying
    }
    for name in _FILES:
        files = [tmp_path / folder / name for folder in ("streamed", "memory")]
        assert [file.exists() for file in files] in ([True, True], [False, False])
        assert not files[0].exists() or files[0].read_bytes() == files[1].read_bytes()
    assert {row["what"] for row in verify_run_folder(RunFolder.existing(execution.out or ""))} <= {"failures"}


def test_judgments_and_other_first_stages_keep_the_lists(lists: Lists) -> None:
    assert prepare_run(lists(), Execution()).lists.kept is not None
    bm25 = lists(qrels=None, model="fake:reversed", first_stage="bm25")
    assert prepare_run(bm25, Execution()).lists.kept is not None


def test_few_lists_are_alive_or_read_ahead(lists: Lists, tmp_path: Path) -> None:
    execution = Execution(out=tmp_path / "run")
    prepared = prepare_run(lists(queries=120, depth=3, qrels=None, model="fake:reversed,batch_size=1"), execution)
    read: list[int] = []
    replies: list[object] = []
    ahead: list[int] = []
    alive: list[int] = []

    def counted() -> Iterator[Ranking]:
        read.clear()
        for ranking in prepared.lists.read():
            read.append(1)
            yield ranking

    def on_reply(reply: object) -> None:
        replies.append(reply)
        ahead.append(len(read) - len(replies))
        if len(replies) == 118:
            alive.append(sum(type(found) is Ranking for found in gc.get_objects()))

    gc.collect()
    before = sum(type(found) is Ranking for found in gc.get_objects())
    watched = replace(prepared, lists=replace(prepared.lists, read=counted))
    assert execute_run(watched, execution, on_reply=on_reply)["queries"] == len(replies) == 120
    assert "run" not in vars(watched.lists)  # the lists in memory
    assert 0 < max(ahead) <= 8  # a block is eight batches
    assert alive[0] - before <= 40  # of 120: a block as read, as shown and as reranked


def test_no_file_is_half_written_and_a_resumed_run_ends_as_if_it_was_never_stopped(
    lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = lists(queries=30, qrels=None, model="fake:stutter,batch_size=1")
    whole = run_experiment(spec, Execution(out=tmp_path / "whole"))
    generate = Fake.generate

    def breaking(self: Fake, requests: Any) -> Any:
        if len(self.served) >= 20:
            raise BackendError("out of memory")
        return generate(self, requests)

    with monkeypatch.context() as patch:
        patch.setattr(Fake, "generate", breaking)
        with pytest.raises(BackendError):
            run_experiment(spec, Execution(out=tmp_path / "run"))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {".lock", "spec.json", "calls.sqlite", "first_stage.trec", "queries.jsonl"}
    again = run_experiment(spec, Execution(out=tmp_path / "run", resume=True))
    assert (again["calls"], again["reused_calls"]) == (whole["calls"], 20)
    for name in ("run.trec", "judge_scores.jsonl", "first_stage.trec"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_file_that_changes_during_the_run_leaves_no_result(lists: Lists, tmp_path: Path) -> None:
    spec = lists(qrels=None, model="fake:reversed")
    execution = Execution(out=tmp_path / "run")
    prepared = prepare_run(spec, execution)
    path = tmp_path / "lists.jsonl"
    path.write_text(path.read_text().replace("text 1 of list 3", "text 1 of list 9"))
    with raises(DataError, "changed"):
        execute_run(prepared, execution)
    assert not (tmp_path / "run" / "run.trec").exists()


def test_a_query_that_occurs_twice_is_named_with_its_line(lists: Lists, tmp_path: Path) -> None:
    spec = lists(qrels=None, model="fake:reversed")
    path = tmp_path / "lists.jsonl"
    first = path.read_text().splitlines()[0]
    path.write_text(f"{path.read_text()}\n{first}\n")
    with raises(DataError, "lists.jsonl:5", "'q0'"):
        prepare_run(spec, Execution())
    assert prepare_run(spec.model_copy(update={"max_queries": 4}), Execution()).lists.survey.queries == 4


def test_queries_that_are_asked_for_must_be_in_the_file(lists: Lists) -> None:
    with raises(UnknownNameError, "'q11'", "Did you mean 'q1'"):
        prepare_run(lists(qrels=None, model="fake:reversed").model_copy(update={"queries": ("q11",)}), Execution())


def test_results_that_are_not_of_the_candidates_are_refused(lists: Lists, tmp_path: Path) -> None:
    execution = Execution(out=tmp_path / "run")
    prepared = prepare_run(lists(qrels=None, model="fake:reversed"), execution)
    execute_run(prepared, execution)
    folder = RunFolder.existing(tmp_path / "run")
    pairs = list(folder.results(prepared.lists))
    assert [result.doc_ids for _, result in pairs] == [given.doc_ids[::-1] for given, _ in pairs]
    shorter = (given.top(3) for given, _ in pairs)
    with raises(DataError, "run.trec", "'q0'"):
        list(folder.results(shorter))
    with raises(DataError, "run.trec", "'q1'"):
        list(folder.results(given for given, _ in pairs[1:]))


def test_a_run_of_lists_without_documents_is_empty(tmp_path: Path) -> None:
    rows = [{"query": {"qid": f"q{n}", "text": "words"}, "candidates": []} for n in range(2)]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {"collection": f"requests:{tmp_path / 'lists.jsonl'}", "first_stage": "candidates"}
    execution = Execution(out=tmp_path / "run")
    prepared = prepare_run(RunSpec.make(values | {"model": "fake:reversed"}), execution)
    summary = execute_run(prepared, execution)
    assert (summary["queries"], summary["calls"]) == (2, 0)
    assert [len(result) for _, result in RunFolder.existing(tmp_path / "run").results(prepared.lists)] == [0, 0]
    assert verify_run_folder(RunFolder.existing(tmp_path / "run")) == []
