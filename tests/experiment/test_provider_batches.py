"""Runs through a provider's batch interface, against a server of ours whose batches end well or badly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.openai import batches
from rerank.errors import BackendError, DataError, UsageError
from rerank.experiment import estimate_run_cost, prepare_run, run_experiment, verify_run_folder
from rerank.experiment.spec import Execution, RunSpec
from rerank.models.prices import model_price_file
from rerank.store import RunFolder
from rerank.tasks.backends import BatchStatus
from tests.backends.batch_server import BatchServer, Ending, Line, all_answered, answered, completion, expired, refused
from tests.raising import raises

pytestmark = pytest.mark.enable_socket

QUERIES = 8
Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no prices and no cache of the user's; batches are looked at every hundredth of a second."""
    for name in ("RERANK_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("FIRST_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(batches, name, 0.01)
    monkeypatch.setattr("rerank.backends.base.connection.FIRST_WAIT", 0.01)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    rows = []
    for q in range(QUERIES):
        docs = [{"docid": f"d{q}-{n}", "doc": f"Fact {n} about plant {q}."} for n in range(6)]
        rows.append(json.dumps({"query": {"qid": f"q{q}", "text": f"what is plant {q}"}, "candidates": docs}))
    path = tmp_path / "lists.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def spec_of(lists: Path, server: BatchServer, **more: Any) -> RunSpec:
    values = {"collection": f"requests:{lists}", "first_stage": "candidates", "method": "fullrank", "model": "openai:m"}
    return RunSpec.make({**values, "base_url": server.url, **more})


@pytest.fixture
def run(lists: Path, tmp_path: Path) -> Run:
    """Runs a method over the lists with the batch interface of a server."""

    def start(server: BatchServer, *, out: str = "run", provider_batch: bool = True, **more: Any) -> dict[str, Any]:
        settings = {name: more.pop(name) for name in ("on_batch",) if name in more}
        options = {name: more.pop(name) for name in ("resume", "max_total_tokens") if name in more}
        execution = Execution(out=tmp_path / out, provider_batch=provider_batch, retries=1, **options)
        return run_experiment(spec_of(lists, server, **more), execution, **settings)

    return start


def digests(folder: Path) -> set[str]:
    with RunFolder(folder).calls(readonly=True) as log:
        return {row[0] for row in log.whole_rows()[0]}


@pytest.mark.parametrize("method", ["fullrank", "pointwise"])
def test_a_batch_gives_what_live_calls_give(run: Run, tmp_path: Path, method: str) -> None:
    with BatchServer() as server:
        seen: list[BatchStatus] = []
        summary = run(server, method=method, on_batch=seen.append)
        live = len(server.asked)
        plain = run(server, out="live", provider_batch=False, method=method)
    assert live == 1  # the request that is sent before the batch
    assert set(server.submitted.values()) == {1}
    assert summary["calls"] == plain["calls"] == len(server.submitted) + 1
    assert summary["batched"] == {
        "calls": len(server.submitted),
        "tokens_in": 100 * len(server.submitted),
        "tokens_out": 7 * len(server.submitted),
        "tokens_cached": 50 * len(server.submitted),
    }
    assert plain["batched"] == {}
    assert summary["cached_share"] == 0.5
    assert (tmp_path / "run/run.trec").read_text() == (tmp_path / "live/run.trec").read_text()
    assert digests(tmp_path / "run") == digests(tmp_path / "live")
    assert verify_run_folder(RunFolder(tmp_path / "run")) == []
    assert [seen[0].state, seen[-1].state, seen[-1].done] == ["in_progress", "completed", len(server.submitted)]


def test_the_cost_counts_the_discounts(run: Run) -> None:
    model_price_file().parent.mkdir(parents=True)
    model_price_file().write_text("[m]\ninput = 1\ncached = 0.5\noutput = 10\nbatch = 0.5\ndate = 2026-11-27\n")
    with BatchServer() as server:
        summary = run(server)
    one = (50 * 1 + 50 * 0.5 + 7 * 10) / 1e6
    assert summary["cost"] == pytest.approx(one + (QUERIES - 1) * one / 2)
    assert summary["prices"]["date"] == "2026-11-27"


def ending(*parts: Callable[[Line], Line | None], state: str = "completed") -> Ending:
    """Lines get the parts in turn; results with a reply go to the output file, others to the error file."""

    def end(lines: list[Line]) -> tuple[str, list[Line], list[Line]]:
        made = [result for at, line in enumerate(lines) if (result := parts[at % len(parts)](line))]
        fine = [line for line in made if (line.get("response") or {}).get("status_code") == 200]
        return state, fine, [line for line in made if line not in fine]

    return end


def twice(lines: list[Line]) -> tuple[str, list[Line], list[Line]]:
    """All results twice, one of an unknown request, and a line that is no JSON object."""
    state, output, errors = all_answered(lines)
    unknown: Any = {**output[0], "custom_id": "unknown"}
    return state, [*output, *output, unknown, [1]], errors


def empty(line: Line) -> Line:
    """A result without a text."""
    result = answered(line)
    result["response"]["body"]["choices"][0]["message"]["content"] = ""
    return result


@pytest.mark.parametrize(
    ("endings", "sizes", "live"),
    [
        ([ending(answered, expired, state="expired"), all_answered], [7, 2], 2),
        ([ending(answered, lambda line: None, state="expired"), all_answered], [7, 2], 2),
        ([ending(answered, refused)], [7], 4),
        ([ending(answered, lambda line: refused(line, 400))], [7], 4),
        ([ending(refused)], [7], 8),
        ([ending(answered, lambda line: None)], [7], 4),
        ([ending(answered, empty)], [7], 4),
        ([twice], [7], 1),
    ],
    ids=["expired", "expired, no lines", "500", "400", "all 500", "missing", "empty", "twice and unknown"],
)
def test_what_a_batch_does_not_answer_is_sent_again(
    run: Run, tmp_path: Path, endings: list[Ending], sizes: list[int], live: int
) -> None:
    with BatchServer(endings) as server, pytest.warns(UserWarning, match="Batch batch_0 ended"):
        summary = run(server)
    assert [batch["request_counts"]["total"] for batch in server.batches.values()] == sizes
    assert len(server.asked) == live
    assert summary["complete"]
    assert summary["windows"]["ok"] == summary["calls"] == QUERIES
    assert verify_run_folder(RunFolder(tmp_path / "run")) == []


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        (ending(expired, state="expired"), 1),
        (lambda lines: ("failed", [], []), 1),
        (ending(answered, lambda line: None, state="cancelled"), 5),
    ],
    ids=["expired", "failed", "cancelled"],
)
def test_a_batch_that_was_stopped_is_an_error_and_keeps_its_replies(
    run: Run, tmp_path: Path, end: Ending, kept: int
) -> None:
    with BatchServer([end, all_answered]) as server:
        with pytest.warns(UserWarning, match="ended as"), raises(BackendError, "batch_0"):
            run(server)
        assert len(digests(tmp_path / "run")) == kept
        summary = run(server, resume=True, provider_batch=False)
    assert len(server.batches) == 1
    assert summary["complete"]


def test_large_runs_are_divided(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_REQUESTS", 3)
    with BatchServer() as server:
        assert run(server)["complete"]
    assert [batch["request_counts"]["total"] for batch in server.batches.values()] == [3, 3, 1]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "faults", [{"before_create": [429]}, {"before_create": [500]}, {"created_unseen": 1}], ids=["429", "500", "unseen"]
)
def test_submission_is_repeated_but_never_done_twice(run: Run, faults: dict[str, Any]) -> None:
    with BatchServer(**faults) as server:
        assert run(server)["complete"]
    assert len(server.batches) == 1
    assert len(server.asked) == 1


def test_a_submission_that_is_refused_is_an_error(run: Run) -> None:
    with BatchServer(before_create=[429] * 9) as server:
        with raises(BackendError, "not now"):
            run(server)
        server.refusals = []
        assert run(server, resume=True)["complete"]
    assert len(server.batches) == 1


class Killed(BaseException):
    """As a kill is: nobody catches it."""


def stop(*_: object) -> Any:
    raise Killed


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (batches.OpenaiBatches, "submit"),
        (batches.OpenaiBatches, "wait"),
        (batches.OpenaiBatches, "collect"),
        ("rerank.store.run_folder.BatchRecord", "unfinished"),
    ],
    ids=["before submission", "while waiting", "before collection", "at the start"],
)
@pytest.mark.parametrize("provider_batch", [True, False])
def test_a_killed_run_takes_its_batches_when_it_is_resumed(
    run: Run, target: Any, name: str, provider_batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BatchServer() as server:
        with monkeypatch.context() as patched:
            patched.setattr(*((f"{target}.{name}", stop) if isinstance(target, str) else (target, name, stop)))
            with pytest.raises(Killed):
                run(server)
        summary = run(server, resume=True, provider_batch=provider_batch)
    submitted = name in ("wait", "collect")
    live = 2 if name == "submit" else 1  # before every submission that is tried, one request is sent live
    assert summary["complete"]
    assert len(server.batches) == (submitted or provider_batch)
    assert set(server.submitted.values()) <= {1}
    assert len(server.asked) == (live if submitted or provider_batch else QUERIES)


def test_a_run_that_was_killed_after_the_submission_finds_its_batch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = batches.OpenaiBatches.submit

    def submit_and_stop(self: Any, requests: Any, key: str) -> Any:
        submit(self, requests, key)
        raise Killed

    with BatchServer() as server:
        with monkeypatch.context() as patched:
            patched.setattr(batches.OpenaiBatches, "submit", submit_and_stop)
            with pytest.raises(Killed):
                run(server)
        for at in range(5):  # later batches of others, on several pages of the list
            server.batches[f"other_{at}"] = {"id": f"other_{at}", "status": "completed", "metadata": None}
        assert run(server, resume=True)["complete"]
        assert [name for name in server.batches if name.startswith("batch")] == ["batch_0"]
    assert len(server.asked) == 1


def test_sigkill_while_waiting(lists: Path, tmp_path: Path) -> None:
    with BatchServer(polls=10_000) as server:
        command = [sys.executable, "-m", "rerank", "run", "--collection", f"requests:{lists}"]
        command += [
            "--first-stage",
            "candidates",
            "--method",
            "fullrank",
            "--model",
            "openai:m",
            "--base-url",
            server.url,
        ]
        command += ["--provider-batch", "--out", str(tmp_path / "killed")]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()}, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not server.looks and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.polls = 0
        summary = run_experiment(
            spec_of(lists, server), Execution(out=tmp_path / "killed", resume=True, provider_batch=True)
        )
    assert summary["complete"]
    assert len(server.batches) == len(server.asked) == 1
    assert verify_run_folder(RunFolder(tmp_path / "killed")) == []


def test_fields_that_the_server_refuses_are_found_before_the_batch(run: Run) -> None:
    def live(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "max_tokens" in body:
            return 400, {"error": {"message": "Use max_completion_tokens", "param": "max_tokens"}}
        return 200, completion(body)

    with BatchServer(live=live) as server:
        assert run(server)["complete"]
    bodies = [line["body"] for line in server.lines("file-0")]
    assert all("max_completion_tokens" in body for body in bodies)
    assert server.batches["batch_0"]["metadata"]["omitted_fields"] == "max_tokens"


def test_a_server_that_answers_nothing_gets_no_batch(run: Run) -> None:
    with BatchServer(live=lambda body: (400, {"error": {"message": "never"}})) as server, raises(BackendError, "never"):
        run(server)
    assert not server.batches
    assert len(server.asked) == 3


def test_a_server_without_a_batch_interface(run: Run) -> None:
    with BatchServer(has_batches=False) as server, raises(BackendError, "no batch interface"):
        run(server)


def test_the_cap_on_tokens_applies_to_batches(run: Run) -> None:
    with BatchServer() as server:
        summary = run(server, max_total_tokens=2000, max_failure_rate=1.0)
    assert 0 < sum(server.submitted.values()) < QUERIES - 1
    assert not summary["complete"]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"method": "sliding,size=4,stride=2"}, "several rounds"),
        ({"method": "tourrank"}, "several rounds"),
        ({"model": "fake:perfect", "base_url": None}, "fake:perfect"),
        ({"context_size": 260}, "in parts"),
    ],
    ids=["sliding", "tourrank", "another backend", "too long"],
)
def test_methods_whose_calls_depend_on_each_other_are_refused(
    run: Run, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    with BatchServer() as server, raises(UsageError, words):
        run(server, **more)
    assert not server.asked
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lost", ["files", "batches"])
def test_results_that_the_provider_has_deleted(run: Run, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    with BatchServer() as server:
        with monkeypatch.context() as patched:
            patched.setattr(batches.OpenaiBatches, "collect" if lost == "files" else "wait", stop)
            with pytest.raises(Killed):
                run(server)
        getattr(server, lost).clear()
        if lost == "batches":
            with raises(BackendError, "batch_0", "batches.json"):
                run(server, resume=True)
        else:
            with pytest.warns(UserWarning, match="0 of 7 replies"):
                assert run(server, resume=True)["complete"]
            assert len(server.asked) == QUERIES


def test_the_estimate_counts_the_discount(lists: Path) -> None:
    model_price_file().parent.mkdir(parents=True)
    model_price_file().write_text("[m]\ninput = 1\noutput = 10\nbatch = 0.5\n")
    with BatchServer() as server:
        prepared = prepare_run(spec_of(lists, server), Execution())
        plain, half = estimate_run_cost(prepared), estimate_run_cost(prepared, in_batches=True)
    assert half == {**plain, "cost": pytest.approx(plain["cost"] / 2)}


def test_a_damaged_record(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BatchServer() as server:
        with monkeypatch.context() as patched:
            patched.setattr(batches.OpenaiBatches, "wait", stop)
            with pytest.raises(Killed):
                run(server)
        (tmp_path / "run/batches.json").write_text('{"batches": [{"key": 1}]}')
        with raises(DataError, "batches.json"):
            run(server, resume=True)


def test_an_overwritten_run_has_no_batches(run: Run, tmp_path: Path, lists: Path) -> None:
    with BatchServer() as server:
        run(server)
        assert len(json.loads((tmp_path / "run/batches.json").read_text())["batches"]) == 1
        run_experiment(spec_of(lists, server), Execution(out=tmp_path / "run", overwrite=True))
    assert not (tmp_path / "run/batches.json").exists()
