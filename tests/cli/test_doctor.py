from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from rerank.cli import tools
from rerank.installation import install_command
from rerank.models import MARKER, model_folder
from tests.cli.conftest import Cli
from tests.lm.configurations import QWEN3_8B


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Only the base: what the extras' modules do when they are imported is not asked here.
    monkeypatch.setattr(tools, "_PARTS", tuple(part for part in tools._PARTS if not part[2]))


def row(check: str) -> dict[str, str]:
    return next(row for row in tools.examine_installation() if row["check"] == check)


def test_the_base_is_all_right_here() -> None:
    rows = tools.examine_installation()
    assert [set(row) for row in rows] == [{"check", "state", "found", "remedy"}] * len(rows)
    assert {row["state"] for row in rows if not row["check"].startswith(("model ", "java"))} == {"ok"}
    assert row("python")["found"].startswith(".".join(map(str, sys.version_info[:2])))


def test_a_model_and_how_to_get_it() -> None:
    assert row("model smollm2-135m") == {
        "check": "model smollm2-135m",
        "state": "absent",
        "found": "",
        "remedy": "rerank models pull smollm2-135m",
    }
    folder = model_folder("smollm2-135m")
    folder.mkdir(parents=True)
    (folder / MARKER).write_text("{}")
    assert (row("model smollm2-135m")["state"], row("model smollm2-135m")["remedy"]) == ("ok", "")


@pytest.mark.parametrize(
    ("part", "state", "remedy"),
    [
        (("no-such-thing", "x", "hf"), "absent", ""),
        (("no-such-thing", "x", ""), "broken", "pip install --force-reinstall no-such-thing"),
    ],
)
def test_parts_that_are_not_installed(
    monkeypatch: pytest.MonkeyPatch, part: tuple[str, str, str], state: str, remedy: str
) -> None:
    monkeypatch.setattr(tools, "_PARTS", (part,))
    remedy = remedy or install_command("hf")
    assert (row("no-such-thing")["state"], row("no-such-thing")["remedy"]) == (state, remedy)


@pytest.mark.parametrize("error", [ImportError("undefined symbol"), OSError("libx.so: cannot open")])
def test_a_part_that_does_not_import(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(_: str) -> None:
        raise error

    monkeypatch.setattr("importlib.import_module", broken)
    found = row("scipy")
    assert found["state"] == "broken"
    assert str(error) in found["found"]


def test_a_version_that_cannot_be_found_is_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(tools, "version", gone)
    assert row("scipy")["state"] == "broken"


def test_a_cache_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    found = row("cache folder")
    assert found["state"] == "broken"
    assert "/cache/" in found["found"]
    assert "XDG_CACHE_HOME" in found["remedy"]


def test_java_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    found = row("java")
    assert found["state"] == "absent"
    assert str(tmp_path) in found["found"]
    assert "apt-get install openjdk-21-jdk-headless" in found["remedy"]
    (tmp_path / "release").write_text('JAVA_VERSION="21.0.5"\n')
    assert row("java") == {"check": "java", "state": "ok", "found": f"21.0.5 in {tmp_path}", "remedy": ""}


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """A folder that has only the configuration of Qwen3-8B."""
    pytest.importorskip("transformers")
    folder = tmp_path / "Qwen3-8B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3_8B))
    return folder


def test_the_memory_plan_of_a_model_on_named_gpus(cli: Cli, qwen: Path) -> None:
    done = cli("doctor", "--model", qwen, "--gpu", "24GB", "--gpu", "80", "--gpu", "8gb", "--format", "json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert (found["parameters"], found["context_size"], found["not_counted"]) == (8_190_735_360, 40960, [])
    card, large, small = found["devices"]
    assert [row["memory"] >> 30 for row in found["devices"]] == [24, 80, 8]
    assert (card["weights"], card["cache_per_1000_tokens"]) == (2 * 8_190_735_360, 147_456_000)
    assert (card["batch_rows"], card["batch_tokens"]) == (256, 26 * 1024)
    assert card["fits"]
    assert any("--context-size 32768" in change for change in card["change"])
    assert (large["longest_list"], large["change"]) == (40960, [])
    assert (small["fits"], small["longest_list"]) == (False, 0)
    assert any("5.68 GiB" in change for change in small["change"])  # the size of the 4-bit checkpoints on the hub
    text = cli("doctor", "--model", f"hf:{qwen}", "--gpu", "8gb")
    assert text.returncode == 0
    heads, row, advice = text.stdout.splitlines()
    assert heads.split("\t")[:2] == ["device", "memory"]
    assert row.split("\t") == ["8gb", "8 GiB", "bfloat16", "15.3 GiB", "0.137 GiB", "0", "0"]
    assert advice.startswith("8gb: the model does not fit; a checkpoint with 4 bits per weight")


def test_the_memory_plan_on_this_machine(cli: Cli, qwen: Path) -> None:
    done = cli("doctor", "--model", qwen, "--dtype", "float32", "--format", "json")
    assert done.returncode == 0
    row = json.loads(done.stdout)["devices"][-1]
    assert (row["device"], row["dtype"], row["weights"]) == ("cpu", "float32", 4 * 8_190_735_360)
    assert row["memory"] > 0
    assert row["batch_tokens"] is None


def test_a_report_has_no_paths_and_no_keys(cli: Cli, qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    gpu = SimpleNamespace(name="NVIDIA L4", total_memory=24 << 30, major=8, minor=9)
    for name, value in {"is_available": True, "device_count": 1, "get_device_properties": gpu}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    done = cli("doctor", "--report", "--model", qwen, "--gpu", "24GB")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["devices"] == [{"name": "NVIDIA L4", "memory": 24 << 30, "capability": "8.9", "cuda": "13.0"}]
    assert found["plan"]["model"] == "Qwen3-8B"
    assert "python" in found["versions"]
    for secret in (str(qwen.parent), str(Path.home()), "hf_secret"):
        assert secret not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "advice"),
    [
        (["--model", "{}", "--gpu", "24XB"], 2, "Write --gpu 24GB"),
        (["--gpu", "24GB"], 2, "Add --model NAME"),
        (["--report", "--gpu", "24GB"], 2, "Add --model NAME"),
        (["--model", "missing/folder/here", "--gpu", "24GB"], 4, "Check the path"),
        (["--model", "{}/..", "--gpu", "24GB"], 4, "has no config.json"),
        (["--model", "owner/name", "--gpu", "24GB"], 4, "or the id of a model on the hub that you may read"),
        (["--model", "openai:gpt", "--gpu", "24GB"], 2, "Name the folder or the hub id"),
    ],
)
def test_what_cannot_be_planned_is_one_line(cli: Cli, qwen: Path, arguments: list[str], code: int, advice: str) -> None:
    done = cli("doctor", *(argument.replace("{}", str(qwen)) for argument in arguments))
    assert (done.returncode, done.stdout) == (code, "")
    assert advice in done.stderr
    assert len(done.stderr.splitlines()) == 1
