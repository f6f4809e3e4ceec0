from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from rerank.cli import tools
from rerank.installation import install_command
from rerank.models import MARKER, model_folder


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
