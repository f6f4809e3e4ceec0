"""Every repository of the table ranks, or is refused in one line: by the command, in Python and by the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("peft")
pytest.importorskip("uvicorn")

from rerank.assemble import assemble_ranker
from rerank.lm.loading import quiet_transformers
from rerank.models.presets import recognise_reranker, reranker_presets
from tests.hub_server import HubServer
from tests.models import hub_outcomes
from tests.models.hub_repositories import HELPERS, REPOSITORIES, Repository

NAMES = [entry.name for entry in REPOSITORIES]
#: Files that nobody needs to rank, and the pull requests that transformers reads for pickled weights.
UNNEEDED = (".bin", ".onnx", ".msgpack", ".md", ".gguf", "/discussions", "refs%2Fpr")
Outcomes = dict[str, dict[str, Any]]


def fill(hub: HubServer, folder: Path, entries: Sequence[Repository]) -> dict[str, str]:
    """Write the repositories into numbered folders, upload them, and return the commit that is ranked with."""
    commits = {}
    needed = {name for entry in entries for name in entry.others}
    makers = {entry.name: entry.make for entry in REPOSITORIES} | HELPERS
    for number, name in enumerate([*needed, *(entry.name for entry in entries)]):
        own = folder / str(number)
        own.mkdir()
        with quiet_transformers():
            makers[name](own)
        if any(own.iterdir()):
            commits[name] = hub.commit(name, own)
    for entry in entries:
        if revision := entry.settings.get("revision"):
            hub.tag(entry.name, revision, commits[entry.name])
            hub.commit(entry.name, {"config.json": b"{}"})
        if entry.token:
            (hub.hide if entry.is_private else hub.require_token)(entry.name, entry.token)
    return commits


def try_all(hub: HubServer, home: Path, entries: Iterable[Repository], *ways: str, **env: str) -> Outcomes:
    """Return the outcomes of the ways by model, each in a process of its own."""
    cases = [
        {"model": e.name, "settings": dict(e.settings), "env": {"HF_TOKEN": e.sends}, "ways": ways} for e in entries
    ]
    environment = os.environ | hub.environment(home) | {"XDG_CACHE_HOME": str(home / "xdg")} | env
    environment.pop("SENTENCE_TRANSFORMERS_HOME", None)
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_ETAG_TIMEOUT": "60"}  # a busy machine downloads slowly
    done = subprocess.run(
        [sys.executable, hub_outcomes.__file__],
        input=json.dumps(cases),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {row["model"]: row for row in map(json.loads, done.stdout.splitlines())}


def differences(entry: Repository, outcome: dict[str, Any], commit: str) -> list[str]:
    """Return what differs from the table."""
    wrong = []

    def check(way: str, found: object, expected: object) -> None:
        if found != expected:
            wrong.append(f"{way}: {found!r} instead of {expected!r}")

    for way in [way for way in hub_outcomes.WAYS if way in outcome]:
        told = outcome[way]
        lines = told["stderr"].strip().splitlines()
        if "Traceback" in told["stderr"]:
            wrong.append(f"{way}: {told['stderr'][-500:]}")
        elif entry.refused:
            check(way, (told["code"] in (2, 3, 4, 5), len(lines)), (True, 1))
            wrong += [f"{way}: no {word!r} in {lines}" for word in entry.refused if word not in " ".join(lines)]
        elif told["code"] not in (0, -15) or "order" not in told:  # a server that gets a signal ends with it
            wrong.append(f"{way}: exit code {told['code']}: {lines}")
        else:
            check(way, sorted(told["order"]), list(range(len(hub_outcomes.TEXTS))))
            check(way, told["order"][0], told["order"][0] if entry.best is None else entry.best)
            if way != "serve":
                check(way, told["method"].partition(",")[0], entry.method)
                check(way, told["identity"]["revision"], commit)
            if way != "run":
                check(way, len(lines), 1 if entry.warned else 0)
                wrong += [f"{way}: {line}" for line in lines if entry.warned not in line]
                check(way, told["order"], outcome["python"]["order"])
            if way == "python":
                check(way, len(told["loads"]), 1)  # the weights are read once
                check(way, [note for note in told["notes"] if "first-stage" not in note], [])
    return wrong


@pytest.mark.parametrize("entry", REPOSITORIES, ids=NAMES)
def test_the_preset_is_found_by_the_name(entry: Repository) -> None:
    preset = recognise_reranker(entry.name)
    assert (preset.name if preset else "") == (entry.preset if entry.preset in reranker_presets() else "")


def test_at_least_twenty_layouts_are_tried() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 25
    assert all(bool(entry.method) != bool(entry.refused) for entry in REPOSITORIES)


@pytest.mark.full
@pytest.mark.enable_socket
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("part", [0, 1])
def test_the_outcomes_are_those_of_the_table(part: int, tmp_path: Path) -> None:
    entries = REPOSITORIES[part::2]
    (tmp_path / "files").mkdir()
    with HubServer(page_size=5) as hub:
        commits = fill(hub, tmp_path / "files", entries)
        first = try_all(hub, tmp_path / "home", entries, *hub_outcomes.WAYS)
        asked = [path for _, path in hub.requests]
    found = {entry.name: differences(entry, first[entry.name], commits.get(entry.name, "")) for entry in entries}
    assert not any(found.values()), json.dumps({name: wrong for name, wrong in found.items() if wrong}, indent=1)
    assert [path for path in asked if any(name in path.partition("?")[0] for name in UNNEEDED)] == []

    # The hub has stopped. One part is told that it is offline, the other finds out, and says so.
    ranking = [entry for entry in entries if entry.method]
    again = try_all(hub, tmp_path / "home", ranking, "python", HF_HUB_OFFLINE=str(part))
    warned = {entry.name: entry.warned for entry in entries if entry.warned}
    for name, told in again.items():
        lines = told["python"]["stderr"].splitlines()
        lines = [line for line in lines if name not in warned or warned[name] not in line]
        assert [told["python"].get(key) for key in ("order", "identity")] == [
            first[name]["python"][key] for key in ("order", "identity")
        ], lines
        assert all("in the cache is used" in line for line in lines), lines
        assert bool(lines) == (part == 0)


@pytest.mark.full
@pytest.mark.parametrize("entry", [entry for entry in REPOSITORIES if entry.renamed], ids=lambda entry: entry.name)
def test_files_under_another_name_have_the_method_of_their_class(entry: Repository, tmp_path: Path) -> None:
    folder = tmp_path / "0"
    folder.mkdir()
    with quiet_transformers():
        entry.make(folder)
    preset = recognise_reranker(folder)
    assert (preset.name if preset else "") == entry.by_files
    assert assemble_ranker({"model": str(folder)}).method.name == entry.renamed
