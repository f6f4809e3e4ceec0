"""The MCP server, asked by the official SDK's client: in process, over standard input and output, and over HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rerank import Reranker
from rerank.collections import open_collection
from rerank.errors import MissingPrerequisiteError
from rerank.evaluation.baseline_tests import baseline_tests
from rerank.evaluation.significance import CORRECTIONS, tests
from rerank.experiment.execute import run_experiment
from rerank.experiment.spec import Execution, RunSpec
from rerank.serving import check_serving_extra
from tests.raising import raises

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from rerank.serving import file_roots
from rerank.serving.file_roots import FileRoots
from rerank.serving.mcp_server import create_mcp_http_app, create_mcp_server
from rerank.serving.ranking_service import create_ranking_service
from rerank.serving.search_routes import CollectionSearch
from rerank.serving.settings import ServerKeys, ServerSettings

DOCS = ["snow falls", {"text": "rain falls"}, "the sun shines"]
SECRET = "a secret text"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recorded run of one query: three documents in sliding windows of two."""
    base = tmp_path_factory.mktemp("record")
    rows = [{"_id": f"d{n}", "text": f"pears {n}"} for n in range(3)]
    (base / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (base / "queries.jsonl").write_text('{"_id": "q1", "text": "pears"}', encoding="utf-8")
    (base / "lists.trec").write_text("".join(f"q1 Q0 d{n} {n + 1} {9 - n} x\n" for n in range(3)), encoding="utf-8")
    spec = RunSpec(
        collection=f"jsonl:{base}",
        first_stage=f"run:{base}/lists.trec",
        model="fake:reversed",
        method="sliding,size=2,stride=1",
    )
    run_experiment(spec, Execution(out=base / "out"))
    return base / "out"


@pytest.fixture
def folder(tmp_path: Path, record: Path) -> Path:
    """A collection and a folder of two runs with their judgments, beside a file that nobody may read."""
    texts = ["snow falls", "rain falls", "the sun shines"]
    rows = [{"_id": f"d{n}", "text": text} for n, text in enumerate(texts)]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "outside.trec").write_text("q1 Q0 d0 1 1 outside\n", encoding="utf-8")
    runs = tmp_path / "runs"
    runs.mkdir()
    for name, order in (("a", "012"), ("b", "210")):
        lines = [f"q{q} Q0 d{d} {r} {3 - r} {name}" for q in range(6) for r, d in enumerate(order)]
        (runs / f"{name}.trec").write_text("\n".join(lines), encoding="utf-8")
    (runs / "qrels.txt").write_text("\n".join(f"q{q} 0 d{q % 2} 1" for q in range(6)), encoding="utf-8")
    (runs / "b.trec.gz").write_bytes(gzip.compress((runs / "b.trec").read_bytes()))
    (runs / "link.trec").symlink_to(tmp_path / "outside.trec")
    (runs / "up").symlink_to(tmp_path)
    (runs / "loop").symlink_to("loop")
    (runs / "inside").symlink_to(".")
    os.mkfifo(runs / "pipe")
    shutil.copytree(record, runs / "recorded")
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(record, tmp_path / "elsewhere" / "recorded")
    shutil.copytree(record, runs / "linked")
    (runs / "linked" / "calls.sqlite").unlink()
    (runs / "linked" / "calls.sqlite").symlink_to(tmp_path / "elsewhere" / "recorded" / "calls.sqlite")
    return tmp_path


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


async def use_all_tools(server: Any, tools: set[str]) -> None:
    async with Client(server) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == tools
        ranked = await client.call_tool("rerank", {"query": "q", "documents": DOCS, "top_n": 2})
        assert not ranked.is_error
        results = ranked.structured_content["results"]
        assert [row["index"] for row in results] == [2, 1]
        assert [row["document"]["text"] for row in results] == ["the sun shines", "rain falls"]
        found = await client.call_tool("search", {"query": "falls snow", "top_n": 2})
        assert [row["id"] for row in found.structured_content["results"]] == ["d1", "d0"]
        arguments = {"run_files": ["a.trec", "b.trec"], "qrels_file": "qrels.txt", "measures": ["RR@10"]}
        compared = await client.call_tool("compare_runs", arguments)
        assert not compared.is_error, compared.content
        assert "a.trec" in json.dumps(compared.structured_content)
        from_baseline = await client.call_tool("compare_runs", {**arguments, "test": "dunnett", "baseline": "a.trec"})
        assert from_baseline.structured_content["rows"][0]["run"] == "b.trec"
        evaluated = await client.call_tool("evaluate_runs", {**arguments, "run_files": ["b.trec.gz", "inside/b.trec"]})
        scores = [row["scores"]["RR@10"] for row in evaluated.structured_content["runs"]]
        assert scores == [pytest.approx(5 / 12)] * 2  # d0 is the third document, and d1 the second
        explained = await client.call_tool("explain_ranking", {"run_folder": "recorded", "query_id": "q1"})
        assert not explained.is_error, explained.content
        content = explained.structured_content
        assert [(row["id"], row["first_stage_rank"]) for row in content["documents"]] == [
            ("d2", 3),
            ("d0", 1),
            ("d1", 2),
        ]
        assert [(call["window"], call["order"]) for call in content["calls"]] == [
            (["d1", "d2"], ["d2", "d1"]),
            (["d0", "d2"], ["d2", "d0"]),
        ]
        listed = await client.call_tool("list_models", {"contains": "qwen3-reranker-0.6b"})
        row = next(row for row in listed.structured_content["models"] if row["name"] == "qwen3-reranker-0.6b")
        assert (row["licence"], row["parameters"], row["downloaded"]) == ("Apache-2.0", 596, False)
        assert row["method"].startswith("pointwise")


TOOLS = {"rerank", "list_models", "search", "evaluate_runs", "compare_runs", "explain_ranking"}


def make_server(folder: Path, model: str = "fake:reversed", **settings: Any) -> Any:
    service = create_ranking_service(Reranker.from_pretrained(model), ServerSettings(**settings))
    search = CollectionSearch.open(open_collection(f"jsonl:{folder}/docs.jsonl"), "bm25")
    return create_mcp_server(service, search=search, roots=FileRoots([folder / "runs"]))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_all_tools_in_process(folder: Path) -> None:
    run(use_all_tools(make_server(folder), TOOLS))


def test_tools_that_need_an_option_name_it() -> None:
    async def names(server: Any) -> tuple[set[str], str]:
        async with Client(server) as client:
            return {tool.name for tool in (await client.list_tools()).tools}, client.instructions or ""

    server = create_mcp_server(create_ranking_service(Reranker.from_pretrained("fake:reversed")))
    listed, instructions = run(names(server))
    assert listed == {"rerank", "list_models"}
    needs = {"search": "--collection NAME"} | dict.fromkeys(TOOLS - listed - {"search"}, "--root FOLDER")
    messages = run(errors(server, [(name, {}) for name in needs]))
    for (name, option), message in zip(needs.items(), messages, strict=True):
        assert f"{name} needs {option}" in instructions
        assert f"start rerank mcp with {option}" in message


def test_schemas_of_the_tools(folder: Path) -> None:
    async def tools() -> dict[str, Any]:
        async with Client(make_server(folder)) as client:
            return {tool.name: tool for tool in (await client.list_tools()).tools}

    found = run(tools())
    arguments = {
        "rerank": "query documents top_n return_documents",
        "list_models": "contains downloaded",
        "search": "query top_n depth",
        "evaluate_runs": "run_files qrels_file measures per_query",
        "compare_runs": "run_files qrels_file measures test permutations correction baseline",
        "explain_ranking": "run_folder query_id max_documents max_calls",
    }
    assert {name: " ".join(tool.input_schema["properties"]) for name, tool in found.items()} == arguments
    for tool in found.values():
        assert tool.annotations.read_only_hint
        assert tool.output_schema["type"] == "object"
        assert all("description" in schema for schema in tool.input_schema["properties"].values())
    properties = found["compare_runs"].input_schema["properties"]
    names = (*tests.names(), *baseline_tests.names())
    assert set(properties["test"]["enum"]) == {name.replace("_", "-") for name in names}
    assert set(properties["correction"]["enum"]) == {"auto", *CORRECTIONS}
    assert properties["permutations"]["anyOf"][0]["maximum"] == 100_000
    assert "at most 1,000 documents" in found["rerank"].description


async def errors(server: Any, calls: list[tuple[str, dict[str, Any]]]) -> list[str]:
    async with Client(server) as client:
        results = [await client.call_tool(name, arguments) for name, arguments in calls]
    assert [call for call, result in zip(calls, results, strict=True) if not result.is_error] == []
    return [str(result.content[0].model_dump()["text"]) for result in results]


ATTACKS = [
    *("../outside.trec", "/etc/passwd", "link.trec", "missing.trec", ".", "", "a.trec\0", "\0", "x" * 4000),
    *("a.trec/../../outside.trec", "inside/../../outside.trec", "up/outside.trec", "inside/up/outside.trec", "loop"),
    *("~", "~/outside.trec", "~root/x", "C:\\runs\\a.trec", "c:a.trec", "\\\\host\\share\\a.trec", "..\\outside.trec"),
    *("/proc/self/environ", "/proc/self/fd/0", "/dev/stdin", "/dev/zero", "a.trec/x", "%2e%2e/outside.trec"),
    *("file:///etc/passwd", "recorded/../../elsewhere/recorded/run.trec", "pipe", "recorded", "inside/pipe"),
]


def test_only_files_below_the_roots_are_read(folder: Path) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    for name in ATTACKS:
        calls += [
            ("compare_runs", {"run_files": ["a.trec", name], "qrels_file": "qrels.txt"}),
            ("evaluate_runs", {"run_files": ["a.trec"], "qrels_file": name}),
            ("explain_ranking", {"run_folder": name.replace("recorded", "linked"), "query_id": "q1"}),
        ]
    before = sorted((folder / "runs").rglob("*"))
    for (tool, arguments), message in zip(calls, run(errors(make_server(folder), calls)), strict=True):
        if arguments.get("run_folder") == "linked":  # the call log is a link that leads out
            assert "calls.sqlite' does not exist" in message
        elif tool == "explain_ranking":
            assert "is not a run folder" in message, arguments
        else:
            assert "is not a file in the folders of this server" in message or "not a regular file" in message, (
                arguments
            )
        assert "\n" not in message
        assert str(folder / "outside") not in message
        assert "rerank-mcp-" not in message
        assert len(message) < 1000
    assert sorted((folder / "runs").rglob("*")) == before


def test_a_link_that_appears_after_the_check_is_not_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = Path.resolve

    def resolve_then_swap(path: Path, strict: bool = False) -> Path:
        found = resolve(path, strict)
        if path.name == "a.trec":
            (folder / "runs/a.trec").unlink()
            (folder / "runs/a.trec").symlink_to(folder / "outside.trec")
        return found

    server = make_server(folder)
    monkeypatch.setattr(Path, "resolve", resolve_then_swap)
    (message,) = run(errors(server, [("evaluate_runs", {"run_files": ["a.trec"], "qrels_file": "qrels.txt"})]))
    assert "'a.trec' is not a file in the folders" in message


def test_large_files_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_server(folder)
    monkeypatch.setattr(file_roots, "MAX_FILE_BYTES", 200)
    (folder / "runs/long.gz").write_bytes(gzip.compress(b"q1 Q0 d0 1 1 x\n" * 100))
    assert (folder / "runs/long.gz").stat().st_size < 200 < (folder / "runs/a.trec").stat().st_size
    calls: list[tuple[str, dict[str, Any]]] = [
        ("evaluate_runs", {"run_files": [name], "qrels_file": "qrels.txt"}) for name in ("a.trec", "long.gz")
    ]
    calls.append(("explain_ranking", {"run_folder": "recorded", "query_id": "q1"}))
    for message in run(errors(server, calls)):
        assert "is too large; expected at most" in message


def test_a_compressed_record_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = folder / "runs/recorded/run.trec"
    monkeypatch.setattr(file_roots, "MAX_FILE_BYTES", 50_000)
    record.write_bytes(gzip.compress(b"q1 Q0 d0 1 1 x\n" * 10_000))
    assert record.stat().st_size < 50_000
    (message,) = run(errors(make_server(folder), [("explain_ranking", {"run_folder": "recorded", "query_id": "q1"})]))
    assert "'recorded/run.trec' is too large" in message


def test_the_work_of_a_comparison_is_limited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.serving.mcp_server._MAX_RESAMPLED", 10)
    calls = [("compare_runs", {**COMPARED, "test": "permutation", "permutations": 11})]
    (message,) = run(errors(make_server(folder), calls))
    assert "values would be drawn; expected at most 10: fewer runs" in message


COMPARED = {"run_files": ["a.trec", "b.trec"], "qrels_file": "qrels.txt"}


def test_errors_say_what_was_expected(folder: Path) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("rerank", {"query": "q", "documents": DOCS}),
        ("rerank", {"query": "q", "documents": [{}]}),
        ("rerank", {"query": "q"}),
        ("search", {"query": "q", "top_n": 0}),
        ("compare_runs", {"run_files": ["a.trec", "b.trec"], "qrels_file": "a.trec"}),
        ("compare_runs", {"run_files": ["a.trec", "b.trec"], "qrels_file": "qrels.txt", "measures": ["nonsense"]}),
        ("compare_runs", {"run_files": ["a.trec", "b.trec"], "qrels_file": "qrels.txt", "test": "nonsense"}),
        ("compare_runs", {**COMPARED, "test": "permutation", "permutations": 1000000000000}),
        ("compare_runs", {**COMPARED, "test": "t", "permutations": 5}),
        ("compare_runs", {**COMPARED, "test": "dunnett"}),
        ("compare_runs", {**COMPARED, "baseline": "c.trec"}),
        ("rerank", {"query": "q", "documents": ["a"], "top": 1}),
        ("explain_ranking", {"run_folder": "recorded", "query_id": "q9"}),
        ("compare_runs", {**COMPARED, "measures": [f"nDCG@{cutoff}" for cutoff in range(1, 22)]}),
        ("compare_runs", {**COMPARED, "run_files": ["a.trec"] * 20, "measures": ["AP"] * 20}),
        ("compare_runs", {**COMPARED, "run_files": ["a.trec", "a.trec"]}),
        ("compare_runs", {**COMPARED, "run_files": ["x" * 100_000, "b.trec"]}),
        ("rerank", {"query": "q", "documents": [1] * 50_000}),
        ("rerank", {"query": "q", "documents": ["a"] * 100_001}),
    ]
    found = run(errors(make_server(folder, max_documents=2), calls))
    limits = ["at most 100000", "no option 'permutations'", "without a baseline", "c.trec", "no argument 'top'"]
    limits += ["Unknown query 'q9'", "20 items", "at most 200", "a file twice", "4096 characters"]
    limits += ["documents", "100000 items"]
    parts = ["at most 2", "no text", "documents", "top_n", "4 columns", "nonsense", "nonsense", *limits]
    for message, part in zip(found, parts, strict=True):
        assert part in message
        assert len(message) < 1000
        assert "\n" not in message
        assert "Traceback" not in message


def test_tools_end_in_time(folder: Path) -> None:
    server = make_server(folder, model="fake-server:reversed,delay=30", timeout=0.3)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("rerank", {"query": "q", "documents": DOCS}),
        ("search", {"query": "falls"}),
    ]
    for message in run(errors(server, calls)):
        assert "in time" in message


def test_texts_are_not_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("rerank", {"query": SECRET, "documents": [SECRET, SECRET]}),
        ("rerank", {"query": SECRET, "documents": SECRET}),
        ("rerank", {"query": SECRET, "documents": [{SECRET: None}]}),
    ]
    with caplog.at_level(logging.WARNING):
        run(errors(make_server(folder, model="fake:fail"), calls))
    assert SECRET not in caplog.text


@pytest.fixture
def command(folder: Path) -> list[str]:
    arguments = ["--model", "fake:reversed", "--collection", f"jsonl:{folder}/docs.jsonl"]
    return [sys.executable, "-m", "rerank", "mcp", *arguments, "--root", str(folder / "runs")]


def test_all_tools_over_standard_input_and_output(command: list[str], folder: Path) -> None:
    environment = {name: os.environ[name] for name in ("XDG_CACHE_HOME", "PYTHONPATH") if name in os.environ}
    program, *arguments = command
    parameters = StdioServerParameters(command=program, args=arguments, env=environment, cwd=folder)
    run(use_all_tools(parameters, TOOLS))


@pytest.fixture
def http_address(command: list[str], folder: Path) -> Iterator[Callable[[], str]]:
    process = subprocess.Popen(
        [*command, "--http", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"RERANK_SERVER_KEYS": "key"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    yield process.stdout.readline().strip
    process.terminate()
    process.wait(timeout=20)
    assert "Traceback" not in process.stderr.read()
    process.stdout.close()
    process.stderr.close()


@pytest.mark.enable_socket
def test_all_tools_over_http(http_address: Callable[[], str]) -> None:
    url = http_address()
    assert url.endswith("/mcp")

    async def use() -> None:
        async with httpx2.AsyncClient(headers={"Authorization": "Bearer key"}, timeout=60) as http:
            await use_all_tools(streamable_http_client(url, http_client=http), TOOLS)

    run(use())
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert httpx2.post(url, json=message).status_code == 401


@pytest.mark.enable_socket
def test_http_without_keys_refuses_foreign_host_names(address: Callable[..., str]) -> None:
    server = create_mcp_server(create_ranking_service(Reranker.from_pretrained("fake:reversed")))
    app = create_mcp_http_app(server, ServerKeys(), ServerSettings(allowed_hosts=("rerank.example",)))
    url = f"{address(app)}/mcp"
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for host, status in (("evil.example", 421), ("rerank.example", 200), ("localhost", 200)):
        headers = {"Host": host, "Accept": "application/json, text/event-stream"}
        assert httpx2.post(url, json=message, headers=headers).status_code == status


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.serving.find_spec", lambda name: None if name == "mcp" else name)
    with raises(MissingPrerequisiteError, "not installed: mcp", "[mcp]'"):
        check_serving_extra("mcp")
    check_serving_extra("serve")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--root", "missing"), 4), (("--model", "fake:nosuch"), 2), (("--keys-file", "missing"), 4)],
)
def test_wrong_options(arguments: tuple[str, ...], code: int) -> None:
    program = [sys.executable, "-m", "rerank", "mcp", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
