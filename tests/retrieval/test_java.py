from __future__ import annotations

from pathlib import Path

import pytest

from rerank.errors import MissingPrerequisiteError
from rerank.retrieval.lucene import find_java
from tests.raising import raises


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("JAVA_HOME", "JDK_HOME", "JRE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))


def jdk(home: Path, version: str) -> Path:
    (home / "bin").mkdir(parents=True)
    (home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    javac = home / "bin" / "javac"
    javac.write_text("#!/bin/sh\n")
    javac.chmod(0o755)
    return home


def test_by_the_variable_that_pyjnius_looks_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDK_HOME", str(jdk(tmp_path / "other", "25")))
    monkeypatch.setenv("JAVA_HOME", str(jdk(tmp_path / "jdk", "21.0.5")))
    assert find_java() == (tmp_path / "jdk", "21.0.5")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk" / "bin"))
    assert find_java() == (tmp_path / "jdk", "21.0.5")


def test_by_javac_on_the_path(tmp_path: Path) -> None:
    home = jdk(tmp_path / "jdk", "22")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "javac").symlink_to(home / "bin" / "javac")
    assert find_java() == (home, "22")


def test_a_home_without_a_release_file_is_asked_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\" 2023' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java() == (tmp_path, "21.0.1")


@pytest.mark.parametrize(("version", "shown"), [("17.0.9", "17.0.9"), ("1.8.0_392", "8.0_392")])
def test_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, shown: str) -> None:
    monkeypatch.setenv("JAVA_HOME", str(jdk(tmp_path / "jdk", version)))
    with pytest.raises(
        MissingPrerequisiteError, match=f"Java {shown} in .*expected 21 or newer.*openjdk-21-jdk-headless"
    ):
        find_java()


def test_none_at_all_and_a_variable_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises(MissingPrerequisiteError, "openjdk-21-jdk-headless"):
        find_java()
    monkeypatch.setenv("JRE_HOME", str(tmp_path / "gone"))
    with raises(MissingPrerequisiteError, "JRE_HOME"):
        find_java()
