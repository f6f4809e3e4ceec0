"""Settings that are read from files: run specifications, spec.json of run folders, suites and recipes.

A file may come from somebody else. It may choose the model and the server of a run, but it cannot grant permissions
that only the user can grant: to send an API key to its server, and to run Python code that comes with a model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerank.errors import UsageError
from rerank.tasks import FileAddress

#: The option of first stages that permits remote code, unless pydantic parses its value as false.
_TRUST_IN_SELECTOR = re.compile(r"trust[-_]remote[-_]code=(?!(?:false|f|no|n|off|0)(?:[,)]|$))", re.I)


def settings_from_file(values: Any, file: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Return the settings of a file, after checking that they grant no permission in the user's place.

    Server addresses, at all levels of nesting, become `FileAddress` objects, which record that the file set them.

    Args:
        values: The parsed content of the file, or a part of it.
        file: Path of the file, for error messages and addresses.
        trust_remote_code: Whether the user permits remote code, on the command line or in Python.
    """
    if isinstance(values, Mapping):
        return {key: _setting_from_file(str(key), value, file, trust_remote_code) for key, value in values.items()}
    if isinstance(values, list):
        return [settings_from_file(value, file, trust_remote_code=trust_remote_code) for value in values]
    if isinstance(values, str) and _TRUST_IN_SELECTOR.search(values) and not trust_remote_code:
        raise _file_permits_remote_code_error(values, file)
    return values


def _setting_from_file(key: str, value: Any, file: str | Path, trusts: bool) -> Any:
    name = key.replace("-", "_")
    if name == "trust_remote_code" and value not in (False, None) and not trusts:
        raise _file_permits_remote_code_error(f"{key} = {value!r}", file)
    if name == "base_url" and isinstance(value, str):
        return FileAddress(value, str(file))
    if name == "base_url" and isinstance(value, list | tuple):
        return [_setting_from_file(key, address, file, trusts) for address in value]
    return settings_from_file(value, file, trust_remote_code=trusts)


def _file_permits_remote_code_error(setting: str, file: str | Path) -> UsageError:
    return UsageError(
        f"{str(file)!r} contains {setting}",
        expected="no permission to run code that comes with a model, since the file may come from somebody else",
        remedy="If you trust the model, pass --trust-remote-code or this option on the command line, or "
        "trust_remote_code=True in Python",
    )
