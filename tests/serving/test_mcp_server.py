"""The MCP server, asked by the official SDK's client: in process, over standard input and output, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import os
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
from rerank.serving import check_serving_extra
from tests.raising import raises

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from rerank.serving.mcp_server import RunFolders, create_mcp_http_app, create_mcp_server
from rerank.serving.ranking_service import create_ranking_service
from rerank.serving.search_routes import CollectionSearch
from rerank.serving.settings import ServerKeys, ServerSettings

DOCS = ["snow falls", {"text": "rain falls"}, "the sun shines"]
SECRET = "a secret text"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
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
    (runs / "link.trec").symlink_to(tmp_path / "outside.trec")
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


TOOLS = {"rerank", "search", "compare_runs"}


def make_server(folder: Path, model: str = "fake:reversed", **settings: Any) -> Any:
    service = create_ranking_service(Reranker.from_pretrained(model), ServerSettings(**settings))
    search = CollectionSearch.open(open_collection(f"jsonl:{folder}/docs.jsonl"), "bm25")
    return create_mcp_server(service, search=search, runs=RunFolders([folder / "runs"]))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_all_tools_in_process(folder: Path) -> None:
    run(use_all_tools(make_server(folder), TOOLS))


def test_tools_without_a_collection_or_runs() -> None:
    async def names() -> set[str]:
        service = create_ranking_service(Reranker.from_pretrained("fake:reversed"))
        async with Client(create_mcp_server(service)) as client:
            return {tool.name for tool in (await client.list_tools()).tools}

    assert run(names()) == {"rerank"}


async def errors(server: Any, calls: list[tuple[str, dict[str, Any]]]) -> list[str]:
    async with Client(server) as client:
        results = [await client.call_tool(name, arguments) for name, arguments in calls]
    assert all(result.is_error for result in results)
    return [str(result.content[0].model_dump()["text"]) for result in results]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.trec",
        "/etc/passwd",
        "link.trec",
        "missing.trec",
        ".",
        "",
        "a.trec\0",
        "a.trec/../../outside.trec",
        "x" * 5000,
    ],
)
def test_only_files_in_the_folders_are_read(folder: Path, name: str) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("compare_runs", {"run_files": ["a.trec", name], "qrels_file": "qrels.txt"}),
        ("compare_runs", {"run_files": ["a.trec", "b.trec"], "qrels_file": name}),
    ]
    for message in run(errors(make_server(folder), calls)):
        assert "is not a file in the folders of this server" in message


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
        ("compare_runs", {**COMPARED, "test": "permutation,permutations=1000000000000"}),
        ("compare_runs", {**COMPARED, "test": "tukey_randomised,permutations=100001"}),
        ("compare_runs", {**COMPARED, "measures": [f"nDCG@{cutoff}" for cutoff in range(1, 22)]}),
        ("compare_runs", {**COMPARED, "run_files": ["a.trec"] * 20, "measures": ["AP"] * 20}),
        ("compare_runs", {**COMPARED, "run_files": ["x" * 100_000, "b.trec"]}),
        ("rerank", {"query": "q", "documents": [1] * 50_000}),
        ("rerank", {"query": "q", "documents": ["a"] * 100_001}),
    ]
    found = run(errors(make_server(folder, max_documents=2), calls))
    limits = ["at most 10,000,000", "at most 100000", "20 items", "at most 200", "not a file", "documents"]
    limits += ["100000 items"]
    parts = ["at most 2", "no text", "documents", "top_n", "4 columns", "nonsense", "nonsense", *limits]
    for message, part in zip(found, parts, strict=True):
        assert part in message
        assert len(message) < 5000
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
    return [sys.executable, "-m", "rerank", "mcp", *arguments, "--runs-folder", str(folder / "runs")]


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
        async with httpx2.AsyncClient(headers={"Authorization": "Bearer key"}) as http:
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
    [(("--runs-folder", "missing"), 4), (("--model", "fake:nosuch"), 2), (("--keys-file", "missing"), 4)],
)
def test_wrong_options(arguments: tuple[str, ...], code: int) -> None:
    program = [sys.executable, "-m", "rerank", "mcp", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
