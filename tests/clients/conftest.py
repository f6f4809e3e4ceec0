"""`rerank serve` over the fake model, for clients that are real packages; the versions that were used are printed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

#: Name and key of the served model.
MODEL, KEY = "fake", "key-of-a-client"
#: The fake model reverses them. The last one is not ASCII.
DOCS = ["one", "two", "drei ü 🙂"]

#: A document's position in `DOCS` and its score, for each result of a client.
Rows = list[tuple[int, float]]

_USED: dict[str, str] = {}


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Return a function that starts `rerank serve` with arguments and keys, and returns its address."""
    folder = tmp_path_factory.mktemp("server")
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, keys: str = "") -> str:
        command = [sys.executable, "-m", "rerank", "serve", "--port", "0", "--name", MODEL, *arguments]
        variables = os.environ | {"XDG_CACHE_HOME": str(folder)} | ({"RERANK_SERVER_KEYS": keys} if keys else {})
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=variables))
        stdout = started[-1].stdout
        assert stdout is not None
        return stdout.readline().strip()

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="session")
def url(start_server: Callable[..., str]) -> str:
    """The address of a server that requires `KEY` and reverses the documents."""
    return start_server("--model", "fake:reversed", keys=KEY)


@pytest.fixture(scope="session")
def open_url(start_server: Callable[..., str]) -> str:
    """The address of a server without keys that finds evidence spans by attention."""
    return start_server("--model", "fake:reversed", "--method", "icr")


@pytest.fixture(autouse=True)
def _quiet_clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep clients from sending usage data, from downloading prices, and from reading settings of this machine."""
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.setenv("HOME", str(tmp_path))


def note_version(distribution: str) -> None:
    _USED[distribution] = version(distribution)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _USED:
        used = ", ".join(f"{name} {_USED[name]}" for name in sorted(_USED))
        terminalreporter.write_line(f"clients: {used}")
