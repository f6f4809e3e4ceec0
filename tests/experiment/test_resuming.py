"""Runs that are interrupted and resumed, and the settings that they take from their folder."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rerank.backends.fake import Fake
from rerank.engines import Local, RankingJob
from rerank.errors import BackendError, DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.experiment import execute, prepare_run, replay_and_rescore_run, run_experiment, spec, verify_run_folder
from rerank.experiment.candidates import digest_run
from rerank.experiment.demo import ADAPTER, BASE, DEPTH, METHODS, specify_runs
from rerank.experiment.execute import complete_resumed_spec, describe_environment
from rerank.experiment.prepare import spec_with_trained_defaults
from rerank.experiment.spec import LATER_KEYS, Execution, RunSpec
from rerank.models.adapters import adapter_folder, shipped_adapters
from rerank.pipeline.results import RankedList
from rerank.store import LoggingBackend, RunFolder
from rerank.types import Ranking
from tests.experiment.conftest import Lists
from tests.raising import raises


class Recording(Local):
    """An engine that keeps the sizes of the blocks that it was asked for, and fails where told to."""

    blocks: ClassVar[list[int | None]] = []
    fails = False

    def rank(self, lists: Iterable[Ranking], job: RankingJob, calls: LoggingBackend) -> Iterator[RankedList]:
        self.blocks.append(job.flow.block)
        if self.fails:
            raise BackendError("The worker was lost")
        return Local.rank(self, lists, job, calls)


@pytest.mark.parametrize(
    ("schedules_requests", "expected"), [(True, [6, 6, 6]), (False, [8192] * 3), (None, [None, None])]
)
def test_a_resumed_run_keeps_its_blocks_whatever_the_number_of_workers(
    lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedules_requests: bool | None, expected: list[Any]
) -> None:
    monkeypatch.setattr("rerank.experiment.execute.open_engine", lambda *_, **__: Recording())
    monkeypatch.setattr(Recording, "blocks", [])
    monkeypatch.setattr(Fake, "schedules_requests", bool(schedules_requests))
    spec, out = lists(queries=43, depth=3, model="fake:perfect,batch_size=1024"), tmp_path / "run"
    with monkeypatch.context() as patch, raises(BackendError):
        patch.setattr(Recording, "fails", True)
        run_experiment(spec, Execution(out=out, engine="ray", workers=8))
    if schedules_requests is None:  # a folder of a version that recorded no flow
        recorded = RunFolder(out).spec()
        del recorded["flow"]
        (out / "spec.json").write_text(json.dumps(recorded))
        Recording.blocks.clear()
    with monkeypatch.context() as patch, raises(BackendError):
        patch.setattr(Recording, "fails", True)
        run_experiment(spec, Execution(out=out, engine="ray", workers=2, resume=True))
    run_experiment(spec, Execution(out=out, resume=True))
    assert Recording.blocks == expected
    assert verify_run_folder(RunFolder(out)) == []


SHIPPED = "smollm2-135m-attention"
#: Settings of the shipped adapter, with the paths of another machine.
ELSEWHERE = {
    "method": "icr,heads=/elsewhere/adapter/heads.json",
    "prompt": "/elsewhere/adapter/prompt.yaml",
    "model": "smollm2-135m",
    "max_passage_tokens": 64,
}


def write_spec(folder: Path, identity: Any = None, **values: Any) -> Path:
    folder.mkdir(exist_ok=True)
    document = {"hash": "", "spec": {"collection": "pydoc", **values}, "identity": identity or {}}
    (folder / "spec.json").write_text(json.dumps(document))
    return folder


def test_a_folder_without_a_run_adds_nothing(tmp_path: Path) -> None:
    values = {"collection": "pydoc", "depth": 3}
    assert complete_resumed_spec(values, tmp_path) == values
    with raises(MissingResourceError, str(tmp_path)):
        complete_resumed_spec({"depth": 3}, tmp_path)


def test_given_values_precede_recorded_ones(tmp_path: Path) -> None:
    folder = write_spec(tmp_path / "a", depth=20, seed=4, qrels=None)
    expected = {"collection": "pydoc", "depth": 3, "seed": 4, "qrels": None}
    assert complete_resumed_spec({"depth": 3}, folder) == {**LATER_KEYS, **expected}


def test_recorded_values_precede_defaults(tmp_path: Path) -> None:
    """A default that has changed since the run began does not make its folder unusable."""
    folder = write_spec(tmp_path / "a", min_passage_tokens=48)
    assert RunSpec.make(complete_resumed_spec({}, folder)).min_passage_tokens == 48


def test_a_run_keeps_its_method_when_the_default_of_its_model_has_changed(tmp_path: Path) -> None:
    recorded = {"model": "smollm2-135m", "method": "fullrank", "prompt": "auto", "max_passage_tokens": None}
    resumed = RunSpec.make(complete_resumed_spec({}, write_spec(tmp_path / "a", **recorded)))
    assert spec_with_trained_defaults(resumed).model_dump(include={*recorded}) == recorded


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"dtype": "bfloat16", "adapter": "a1"}, "float32"),
        ({"dtype": "bfloat16", "adapter": "a1", "adapter_dtype": "bfloat16"}, "auto"),
        ({"dtype": "bfloat16", "adapter": "a1", "engine": "vllm"}, "auto"),
        ({"dtype": "float32", "adapter": "a1"}, "auto"),
        ({"dtype": "bfloat16"}, "auto"),
    ],
)
def test_a_run_keeps_the_dtype_that_its_adapter_had(tmp_path: Path, model: dict[str, Any], expected: str) -> None:
    folder = write_spec(tmp_path / "a", identity={"model": model})
    assert RunSpec.make(complete_resumed_spec({}, folder)).adapter_dtype == expected


def test_a_recorded_null_precedes_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the default of max_passage_tokens had been changed from None to a number."""
    values = complete_resumed_spec({}, write_spec(tmp_path / "a", max_passage_tokens=None))

    class Later(RunSpec):
        max_passage_tokens: int | None = 64

    assert Later.make({"collection": "pydoc"}).max_passage_tokens == 64
    assert Later.make(values).max_passage_tokens is None


def test_a_key_that_the_run_did_not_have_gets_the_value_of_that_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (execute, spec):
        monkeypatch.setattr(module, "LATER_KEYS", {"thinking_tokens": 5})
    folder = write_spec(tmp_path / "a")
    assert complete_resumed_spec({}, folder)["thinking_tokens"] == 5
    assert complete_resumed_spec({"thinking_tokens": 7}, folder)["thinking_tokens"] == 7
    assert spec.read_run_spec(folder / "spec.json")["thinking_tokens"] == 5
    assert RunSpec.from_record({"collection": "pydoc"}).thinking_tokens == 5
    assert RunSpec.from_record({"collection": "pydoc", "thinking_tokens": 0}).thinking_tokens == 0


@pytest.mark.parametrize("part", ["spec", "identity"])
def test_a_damaged_spec_is_reported(tmp_path: Path, part: str) -> None:
    document = {"hash": "", "spec": {}, "identity": {}, part: []}
    (tmp_path / "spec.json").write_text(json.dumps(document))
    with pytest.raises(DataError) as error:
        complete_resumed_spec({}, tmp_path)
    assert part in error.value.found


def test_an_adapter_by_name_was_elsewhere(tmp_path: Path) -> None:
    shipped = adapter_folder(SHIPPED)
    settings = json.loads((shipped / "rerank.json").read_text())
    recorded = ELSEWHERE | {"method": elsewhere(settings["method"]), "adapter": SHIPPED}
    values = complete_resumed_spec({}, write_spec(tmp_path / "a", **recorded))
    assert values["adapter"] == SHIPPED
    assert values["prompt"] == str(shipped / "prompt.yaml")
    assert "/elsewhere/" not in values["method"]


def test_an_adapter_that_was_moved(tmp_path: Path) -> None:
    moved = tmp_path / "adapter"
    shutil.copytree(adapter_folder(SHIPPED), moved)
    settings = json.loads((moved / "rerank.json").read_text())
    recorded = ELSEWHERE | {"method": elsewhere(settings["method"]), "adapter": "/elsewhere/adapter"}
    values = complete_resumed_spec({"adapter": str(moved)}, write_spec(tmp_path / "a", **recorded))
    assert values["adapter"] == str(moved)
    assert values["prompt"] == str(moved / "prompt.yaml")
    assert "/elsewhere/" not in values["method"]


def test_files_of_the_user_with_the_names_of_the_adapters_are_kept(tmp_path: Path) -> None:
    settings = json.loads((adapter_folder(SHIPPED) / "rerank.json").read_text())
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("prompt.yaml", "heads.json"):
        (mine / name).write_text("")
    recorded = {
        "method": settings["method"].replace("heads=", f"heads={mine}/"),
        "prompt": f"{mine}/prompt.yaml",
        "adapter": SHIPPED,
        "model": "smollm2-135m",
    }
    folder = write_spec(tmp_path / "a", **recorded)
    values = complete_resumed_spec({}, folder)
    assert (values["method"], values["prompt"]) == (recorded["method"], recorded["prompt"])
    (mine / "heads.json").unlink()
    values = complete_resumed_spec({}, folder)
    assert (values["method"] == recorded["method"], values["prompt"]) == (False, recorded["prompt"])


def test_a_method_that_is_not_the_adapters_own_is_kept(tmp_path: Path) -> None:
    recorded = {"method": "sliding,size=4", "prompt": "listwise", "adapter": SHIPPED, "model": "smollm2-135m"}
    values = complete_resumed_spec({}, write_spec(tmp_path / "a", **recorded))
    assert (values["method"], values["prompt"]) == ("sliding,size=4", "listwise")


def elsewhere(method: str) -> str:
    return method.replace("heads=", "heads=/elsewhere/adapter/")


COLLECTION = Path(__file__).parents[1] / "fixtures" / "v2d4cd24" / "inputs" / "collection"


class Stopped(BaseException):
    """As a kill is: nobody catches it."""


@pytest.mark.parametrize("at", range(8))
def test_stopped_at_any_file(lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    spec = lists(model="fake:stutter", method="sliding", window_size=4, stride=2)
    whole = run_experiment(spec, Execution(out=tmp_path / "whole"))
    replaced: list[str] = []
    replace = Path.replace

    def stopping(self: Path, target: str | Path) -> Path:
        if len(replaced) == at:
            raise Stopped
        replaced.append(Path(target).name)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopping)
        with pytest.raises(Stopped):
            run_experiment(spec, Execution(out=tmp_path / "run"))
    assert not (tmp_path / "run" / "summary.json").exists()
    again = run_experiment(spec, Execution(out=tmp_path / "run", resume=True))
    varying = {"folder", "reused_calls", "seconds"}
    assert {k: v for k, v in again.items() if k not in varying} == {k: v for k, v in whole.items() if k not in varying}
    assert again["reused_calls"] == (0 if at < 4 else whole["calls"])
    for name in ("run.trec", "first_stage.trec", "qrels.trec", "scores.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_backend_that_breaks_keeps_what_it_said(
    lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerank.backends.fake import Fake

    generate = Fake.generate

    def breaking(self: Fake, requests: Any) -> Any:
        if len(self.served) >= 2:
            raise BackendError("out of memory")
        return generate(self, requests)

    spec, place = lists(model="fake:reversed,batch_size=1"), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Fake, "generate", breaking)
        with pytest.raises(BackendError):
            run_experiment(spec, Execution(out=place))
    with raises(UsageError, "2", "--resume"):
        run_experiment(spec, Execution(out=place))
    again = run_experiment(spec, Execution(out=place, resume=True))
    assert (again["calls"], again["reused_calls"]) == (4, 2)


def test_requests_whose_text_a_later_version_changes_are_repeated_and_counted(
    lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the run had begun before marks of turns were escaped in passages."""
    spec = lists(model="fake:stutter,batch_size=1")  # which replies otherwise to another prompt
    file = tmp_path / "lists.jsonl"
    file.write_text(file.read_text().replace("of list 1", "of <|im_end|> 1"))
    with monkeypatch.context() as patch:
        patch.setattr("rerank.prompts.passages.escape_turn_marks", lambda text, own_marks: text)
        before = run_experiment(spec, Execution(out=tmp_path / "run"))
    (tmp_path / "run" / "summary.json").unlink()
    again = run_experiment(spec, Execution(out=tmp_path / "run", resume=True))
    assert "unmatched_calls" not in before
    assert (again["calls"], again["reused_calls"], again["unmatched_calls"]) == (4, 3, 1)
    folder = RunFolder.existing(tmp_path / "run")
    with folder.calls(readonly=True) as log:
        assert len(log) == 5
    assert verify_run_folder(folder) == []
    run_experiment(spec, Execution(out=tmp_path / "new"))
    assert (tmp_path / "run" / "run.trec").read_bytes() == (tmp_path / "new" / "run.trec").read_bytes()


def test_an_unfinished_folder_is_replayed_as_far_as_it_came(lists: Lists, tmp_path: Path) -> None:
    capped = run_experiment(
        lists(model="fake:reversed,batch_size=1"), Execution(out=tmp_path / "run", max_total_tokens=600)
    )
    folder = RunFolder.existing(tmp_path / "run")
    assert replay_and_rescore_run(folder)["windows"] == capped["windows"]
    assert {row["what"] for row in verify_run_folder(folder)} <= {
        "failures"
    }  # why a window was not asked is not recorded
    (tmp_path / "run" / "summary.json").unlink()
    with raises(MissingResourceError, "summary.json", "--resume"):
        verify_run_folder(folder)


def test_the_digest_is_of_what_a_reranker_sees(lists: Lists) -> None:
    same = [digest_run(prepare_run(lists(), Execution()).first_stage) for _ in range(2)]
    assert same[0] == same[1]
    assert digest_run(prepare_run(lists(depth=3), Execution()).first_stage) != same[0]


def test_identity_ignores_how_and_minds_what(lists: Lists) -> None:
    base = prepare_run(lists(), Execution()).identity()
    assert prepare_run(lists(measures=("AP",)), Execution(device="cpu", batch_size=1)).identity() == base
    assert prepare_run(lists(seed=1), Execution()).identity() == base  # greedy decoding has no seed
    warm = prepare_run(lists(temperature=0.5), Execution()).identity()
    assert prepare_run(lists(temperature=0.5, seed=1), Execution()).identity() != warm
    for change in ({"temperature": 0.5}, {"prompt": "listwise_multiturn"}, {"method": "sliding"}):
        assert prepare_run(lists(**change), Execution()).identity() != base, change


def test_queries_that_are_asked_for_must_be_there(lists: Lists) -> None:
    with raises(UnknownNameError, "Did you mean 'q1'"):
        prepare_run(lists().model_copy(update={"queries": ("q11",)}), Execution())


def test_the_demo_names_its_folders(tmp_path: Path) -> None:
    specs = specify_runs(model="some/where/model/")
    assert [spec.method for spec in specs] == list(METHODS)
    assert all((spec.depth, spec.model) == (DEPTH, "some/where/model/") for spec in specs)
    assert all(len(spec.queries) >= 12 for spec in specs)
    assert all(spec.queries == () for spec in specify_runs(model="m", everything=True))
    *_, adapted = specify_runs(model=BASE)
    assert (adapted.adapter, adapted.depth) == (ADAPTER, DEPTH)
    assert adapted.adapter in shipped_adapters()


def test_a_strategy_that_is_no_dataclass_is_refused(lists: Lists, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.strategies.strategies.get", lambda name: object)
    with raises(UsageError, "'full'", "dataclass"):
        prepare_run(lists(), Execution())


def test_the_environment_leaves_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[describe_environment.__module__]  # the package has a function of the same name
    monkeypatch.setattr(module, "_RECORDED", ("numpy", "no-such-distribution"))
    found = describe_environment()
    assert found["numpy"]
    assert found["started"].endswith("+00:00")
    assert "no-such-distribution" not in found


def test_verify_names_a_damaged_index_of_the_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = RunSpec.make({"collection": f"jsonl:{COLLECTION}", "model": "fake:perfect", "max_queries": 2, "depth": 5})
    folder = RunFolder(run_experiment(spec, Execution(out=tmp_path / "run"))["folder"])
    assert verify_run_folder(folder) == []
    (marker,) = (tmp_path / "cache").rglob("bm25-*/marker.json")
    file = next(path for path in sorted(marker.parent.iterdir()) if path != marker and path.stat().st_size)
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    assert [(row["file"], row["what"]) for row in verify_run_folder(folder)] == [(str(marker.parent), "index")]
