"""Reading of settings files in TOML and JSON, with a size limit and with this package's errors for invalid content."""

import json
import tomllib
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError
from rerank.io.json_records import parse_json
from rerank.io.text_files import open_text_file

_MAX_CHARACTERS = 64 << 20  #: Maximum number of characters in a settings file.


def read_settings_text(path: str | Path, what: str, *, expected: str = "") -> str:
    """Return the whole text of a settings file, which messages call ``what``, such as ``recipe`` or ``suite``."""
    try:
        with open_text_file(path) as file:
            text = file.read(_MAX_CHARACTERS + 1)
    except MissingResourceError as error:
        raise MissingResourceError(
            f"The {what} is missing: {error.found}", expected=expected, remedy=error.remedy
        ) from error
    except DataError as error:
        raise DataError(error.found, expected=expected or error.expected, remedy=error.remedy) from error
    if len(text) > _MAX_CHARACTERS:
        raise DataError(f"The {what} {str(path)!r} is larger than {_MAX_CHARACTERS >> 20} MB", expected=expected)
    return text


def read_toml_file(path: str | Path, what: str) -> dict[str, Any]:
    """Return the content of a TOML file, which messages call ``what``, as nested dictionaries."""
    return parse_toml(read_settings_text(path, what, expected="a TOML file"), f"The {what} {str(path)!r}")


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse a text in TOML into nested dictionaries; messages begin with ``where``, such as ``The recipe 'a.toml'``."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not TOML: {error}", expected='lines such as name = "..."') from error


def read_json_object(path: str | Path, what: str, *, expected: str = "a JSON object") -> dict[str, Any]:
    """Return the JSON object in a file, which messages call ``what``, such as ``head list``."""
    text, where = read_settings_text(path, what, expected=expected), f"The {what} {str(path)!r}"
    try:
        content = parse_json(text, where)
    except DataError as error:
        raise DataError(error.found, expected=expected, remedy=error.remedy) from error
    if not isinstance(content, dict):
        raise DataError(f"{where} has a {type(content).__name__} at the top level", expected=expected)
    return content


def try_read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none, in which case whoever needs the file reports it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
