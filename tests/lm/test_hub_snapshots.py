"""Downloads of models from a stand-in of the hub: the cache first, limits of time, progress, and errors in one line."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError, RerankError, StorageError
from rerank.lm import hub_snapshots
from rerank.lm.hub_snapshots import fetch_snapshot
from rerank.lm.model_files import locate_model
from tests.hub_server import Fault, HubServer, use_in_process
from tests.raising import raises

huggingface_hub = pytest.importorskip("huggingface_hub")

pytestmark = pytest.mark.enable_socket
FILES = {"config.json": b"{}", "tokenizer.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 40}
ALL = ["*.json", "*.safetensors"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(hub_snapshots, "_unanswered", {})
    monkeypatch.setattr(hub_snapshots, "_listings", {})
    monkeypatch.setattr(hub_snapshots, "ANSWER_LIMITS", (0.3, 0.6))
    with HubServer() as server:
        use_in_process(server, tmp_path / "home", monkeypatch)
        server.commit("acme/tiny", FILES)
        yield server


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads show their progress at once."""
    monkeypatch.setattr(hub_snapshots, "_QUIET_BYTES", 0)
    monkeypatch.setattr("rerank.progress._INTERVAL", 0.1)


def read(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_download_is_used_again_and_the_hub_is_asked_once(hub: HubServer) -> None:
    snapshot = fetch_snapshot("acme/tiny", "", ALL)
    assert read(snapshot.folder) == FILES
    assert snapshot.listed == set(FILES)
    hub.requests.clear()
    assert fetch_snapshot("acme/tiny", "", ALL) == snapshot
    assert [path for _, path in hub.requests] == ["/api/models/acme/tiny/revision/main?blobs=true"]


def test_only_what_is_missing_is_downloaded(hub: HubServer) -> None:
    folder = fetch_snapshot("acme/tiny", "", ["*.json"]).folder
    assert set(read(folder)) == {"config.json", "tokenizer.json"}
    hub.requests.clear()
    assert read(fetch_snapshot("acme/tiny", folder.name, ALL).folder) == FILES
    assert not [path for _, path in hub.requests if path.endswith(".json")]


def test_a_commit_in_the_cache_needs_no_hub(hub: HubServer) -> None:
    snapshot = fetch_snapshot("acme/tiny", "", ALL)
    hub.requests.clear()
    assert fetch_snapshot("acme/tiny", snapshot.commit, ALL) == snapshot
    assert hub.requests == []


def test_a_branch_that_moved_is_loaded_anew(hub: HubServer) -> None:
    first = fetch_snapshot("acme/tiny", "", ALL).commit
    second = hub.commit("acme/tiny", FILES | {"config.json": b'{"changed": true}'})
    snapshot = fetch_snapshot("acme/tiny", "", ALL)
    assert (snapshot.commit, read(snapshot.folder)["config.json"]) == (second, b'{"changed": true}')
    assert first != second


def test_a_branch_that_moves_during_a_download_is_loaded_as_one_commit(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = hub_snapshots._Request.download

    def move(request: Any, listing: Any) -> Any:
        monkeypatch.setattr(hub_snapshots._Request, "download", download)
        hub.commit("acme/tiny", FILES | {"config.json": b'{"changed": true}', "new.json": b"{}"})
        return request.download(listing)

    monkeypatch.setattr(hub_snapshots._Request, "download", move)
    assert read(fetch_snapshot("acme/tiny", "", ALL).folder) == FILES | {
        "config.json": b'{"changed": true}',
        "new.json": b"{}",
    }


@pytest.mark.parametrize("state", ["refused", "silent", "error", "private", "no hub"])
def test_a_model_in_the_cache_waits_only_for_the_limit(
    hub: HubServer, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    snapshot = fetch_snapshot("acme/tiny", "", ALL)
    if state == "refused":
        hub.stop()
    elif state == "private":
        hub.hide("acme/tiny", "secret")
    else:
        hub.faults = [Fault(is_silent=state == "silent", status={"error": 503, "no hub": 204}.get(state))]
    started = time.monotonic()
    for _ in range(3):
        assert fetch_snapshot("acme/tiny", "", ALL) == snapshot
    assert time.monotonic() - started < 3
    assert caplog.messages[0].startswith("acme/tiny: ")
    assert caplog.messages[0].endswith(f"; commit {snapshot.commit[:12]} in the cache is used")
    assert len(caplog.messages) == (1 if state in ("refused", "silent") else 3), "a dead hub is not asked again"
    if state == "refused":
        hub.start()


def test_a_cache_that_another_program_filled_is_used(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    """File by file, as transformers does: the client then does not know whether something is missing."""
    for name in FILES:
        huggingface_hub.hf_hub_download("acme/tiny", name)
    hub.faults = [Fault(is_silent=True)]
    assert read(fetch_snapshot("acme/tiny", "", ALL).folder) == FILES
    hub.faults, hub_snapshots._unanswered = [], {}
    hub.requests.clear()
    assert read(fetch_snapshot("acme/tiny", "", ALL).folder) == FILES
    assert not [path for _, path in hub.requests if "/resolve/" in path or "/storage/" in path]


def test_without_a_network_the_cache_is_used_and_an_interrupted_download_is_noticed(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_snapshot("acme/tiny", "", ["*.json"])
    hub.faults = [Fault(path="/storage/", status=404)]
    with raises(MissingResourceError, "acme/tiny"):
        fetch_snapshot("acme/tiny", "", ALL)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()
    with raises(MissingResourceError, "HF_HUB_OFFLINE", "a part of it", "rerank models pull acme/tiny"):
        fetch_snapshot("acme/tiny", "", ALL)
    assert set(read(fetch_snapshot("acme/tiny", "", ["*.json"]).folder)) == {"config.json", "tokenizer.json"}
    with raises(MissingResourceError, "HF_HUB_OFFLINE", "'acme/other' at v1"):
        fetch_snapshot("acme/other", "v1", ALL)
    assert hub.requests == []


@pytest.mark.usefixtures("at_once")
def test_a_log_gets_the_size_and_lines(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    hub.faults = [Fault(path="/storage/", bytes_per_second=10_000)]
    commit = fetch_snapshot("acme/tiny", "", ALL).commit
    lines = [line for line in capsys.readouterr().err.splitlines() if "0.010 MB" in line or "done" in line]
    assert f"Downloading acme/tiny ({commit[:12]}), 0.010 MB, to {huggingface_hub.constants.HF_HUB_CACHE}" in lines[0]
    assert lines[1].startswith("Downloading acme/tiny: 0.0")
    assert lines[1].endswith(" of 0.010 MB")
    assert lines[-1].startswith("Downloading acme/tiny: done in ")


@pytest.mark.usefixtures("at_once")
def test_a_terminal_gets_the_bar_of_the_client(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    hub.faults = [Fault(path="/storage/", bytes_per_second=20_000)]
    fetch_snapshot("acme/tiny", "", ALL)
    assert "0.010 MB" in stream.getvalue()
    assert "Downloading acme/tiny: 100%|" in stream.getvalue().rpartition("\r")[2]


@pytest.mark.usefixtures("at_once")
def test_the_switch_of_the_client_turns_progress_off(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    with huggingface_hub.utils.disable_progress_bars():
        fetch_snapshot("acme/tiny", "", ALL)
    assert capsys.readouterr().err == ""


def test_a_small_download_shows_nothing(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    fetch_snapshot("acme/tiny", "", ALL)
    assert capfd.readouterr() == ("", "")


def test_a_connection_that_breaks_is_continued(hub: HubServer) -> None:
    hub.faults = [Fault(path="/storage/", cut_at=100, times=3)]
    assert read(fetch_snapshot("acme/tiny", "", ALL).folder) == FILES


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (Fault(is_silent=True), ("does not answer", "HF_ENDPOINT")),
        (Fault(path="/tree/", is_silent=True), ("does not answer",)),
        (Fault(path="/storage/", is_silent=True), ("no response for 0.5 s",)),
        (Fault(path="/resolve/", is_silent=True), ("no response for 0.5 s",)),
        (Fault(path="/storage/", cut_at=0), ("the connection broke", "files that are complete are kept")),
        (Fault(path="/api/", status=503), ("reports an error", "503", "Try again later")),
        (Fault(path="/api/", status=429), ("too many requests", "HF_TOKEN")),
        (Fault(path="/api/", status=403), ("refuses", "HF_TOKEN")),
        (Fault(path="/api/", status=204), ("is not a hub", "HF_ENDPOINT")),
    ],
    ids=str,
)
def test_a_hub_that_fails(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, fault: Fault, named: tuple[str, ...]
) -> None:
    monkeypatch.setattr(hub_snapshots, "STALL_LIMIT", 0.5)
    hub.faults = [fault]
    started = time.monotonic()
    with raises(MissingResourceError, "'acme/tiny' cannot be downloaded", *named) as caught:
        fetch_snapshot("acme/tiny", "", ALL)
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)
    hub.faults = []
    hub.stop()  # ends the requests that are still open, whose files are locked
    hub.start()
    assert read(fetch_snapshot("acme/tiny", "", ALL).folder) == FILES


INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()


@pytest.mark.parametrize(
    ("prepare", "error", "named"),
    [
        (lambda hub: None, MissingResourceError, ("no such repository", "Check the name")),
        (lambda hub: hub.refuse("acme/m", 401), MissingResourceError, ("terms", "/acme/m", "HF_TOKEN")),
        (lambda hub: hub.refuse("acme/m", 403), MissingResourceError, ("terms", "/acme/m", "HF_TOKEN")),
        (lambda hub: hub.hide("acme/m", "secret"), MissingResourceError, ("private", "HF_TOKEN")),
        ({"config.json": b"{}", "pytorch_model.bin": b"1"}, DataError, ("only pickled weights (pytorch_model.bin)",)),
        ({"README.md": b"", "m-Q4_K_M.gguf": b"1"}, DataError, ("only GGUF files (m-Q4_K_M.gguf)", "--base-url")),
        ({"README.md": b"text"}, MissingResourceError, ("has no weights", "Check the name")),
        ({"lora.safetensors": b"1"}, MissingResourceError, ("has no config.json",)),
        (
            {"config.json": b"{}", "model.safetensors.index.json": INDEX, "model-1.safetensors": b"1"},
            DataError,
            ("lacks 1 of the 2 files", "model-2.safetensors", "--revision"),
        ),
    ],
)
@pytest.mark.parametrize("weights", [False, True])
def test_what_is_no_usable_model_is_refused_with_its_remedy(
    hub: HubServer, prepare: Any, error: type[RerankError], named: tuple[str, ...], weights: bool
) -> None:
    """Before the weights are downloaded."""
    if isinstance(prepare, dict):
        hub.commit("acme/m", prepare)
    elif named[0] != "no such repository":
        hub.commit("acme/m", FILES)
        prepare(hub)
    with raises(error, "acme/m", *named) as caught:
        locate_model("acme/m", weights=weights)
    assert "\n" not in str(caught.value)
    assert not [path for method, path in hub.requests if method == "GET" and "/storage/" in path]


def test_a_revision_that_does_not_exist(hub: HubServer) -> None:
    locate_model("acme/tiny")
    with raises(MissingResourceError, "'acme/tiny' at v7", "no such revision", "/acme/tiny"):
        locate_model("acme/tiny", "v7")


def test_a_token_opens_a_private_model_and_is_not_shown(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.hide("acme/tiny", "hf_secret")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with raises(MissingResourceError, "private") as caught:
        locate_model("acme/tiny")
    assert "hf_" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert read(locate_model("acme/tiny").folder) == FILES


def test_a_socks_proxy_needs_a_package(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    huggingface_hub.close_session()
    with raises(MissingPrerequisiteError, "SOCKS", "ALL_PROXY", "pip install socksio") as caught:
        fetch_snapshot("acme/tiny", "", ALL)
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("ALL_PROXY")
    huggingface_hub.close_session()
    assert read(fetch_snapshot("acme/tiny", "", ALL).folder) == FILES


def test_a_cache_that_cannot_be_written(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "/cache")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with raises(StorageError, "Permission denied", "HF_HOME"):
        fetch_snapshot("acme/tiny", "", ALL)


def test_an_interrupted_process_ends_at_once(hub: HubServer, tmp_path: Path) -> None:
    """The client's own threads would download their files to the end."""
    hub.faults = [Fault(path="/storage/", bytes_per_second=500)]  # 20 s
    code = "from rerank.lm.model_files import locate_model; locate_model('acme/tiny')"
    environment = os.environ | hub.environment(tmp_path / "home of its own")
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not any("/storage/" in path for _, path in hub.requests):
                assert process.poll() is None
                time.sleep(0.05)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, output = process.communicate(timeout=15)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in output
    assert time.monotonic() - started < 10


def test_a_model_that_another_program_has_cached_in_part_says_how_to_get_the_rest(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub.hf_hub_download("acme/tiny", "config.json")  # as transformers does for a tokenizer alone
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with raises(MissingResourceError, "acme/tiny", "rerank models pull acme/tiny", "HF_HUB_OFFLINE"):
        locate_model("acme/tiny")
