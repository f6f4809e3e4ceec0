from __future__ import annotations

from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError
from rerank.io.settings_files import read_json_object, read_toml_file


@pytest.mark.parametrize("text", ["[" * 100_000, "a = " + "9" * 5000, "a = [" * 5000, "a", "a = 1\na = 2"])
def test_what_is_not_toml_is_a_data_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(DataError):
        read_toml_file(tmp_path / "x", "recipe")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "[]", "null", '{"a": 1, "a": 2}', ""])
def test_what_is_not_a_json_object_is_a_data_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(DataError):
        read_json_object(tmp_path / "x", "file")


def test_files_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.io.settings_files._MAX_CHARACTERS", 10)
    (tmp_path / "x").write_text("a = 1" + " " * 10)
    with pytest.raises(DataError):
        read_toml_file(tmp_path / "x", "recipe")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        read_json_object(tmp_path / "x", "file")
