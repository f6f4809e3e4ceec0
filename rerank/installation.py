"""The command that adds an extra to this installation, and the errors that name it.

The distribution is on no package index, and one day somebody else's may have its name there. So the command names the
place that this installation is from, which installers record in ``direct_url.json`` (PEP 610).
"""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rerank.errors import MissingPrerequisiteError

_NAME = "listrank"
_PACKAGE = Path(__file__).resolve().parent


def install_command(extra: str, *more: str) -> str:
    """Return a command of the shell that adds extras, and with them what is missing, to this installation.

    For example ``pip install '.[hf]'`` in the folder of a checkout, and with the path of the checkout elsewhere.
    """
    extras = f"[{','.join((extra, *more))}]"
    records = [(found, _origin(found.read_text("direct_url.json"))) for found in distributions(name=_NAME)]
    if _is_checkout(_PACKAGE.parent):
        is_editable = any(is_editable and path == _PACKAGE.parent for _, (path, _, is_editable) in records)
        return f"pip install {'-e ' * is_editable}{_quote(_shown(_PACKAGE.parent) + extras)}"
    for found, (path, url, _) in records:
        if Path(str(found.locate_file(_PACKAGE.name))).resolve() == _PACKAGE:
            if path and path.exists():
                return f"pip install {_quote(_shown(path) + extras)}"
            if url:
                return f"pip install {_quote(f'{_NAME}{extras} @ {url}')}"
            # From an index, or from a folder that is gone. This environment's pip takes the version that it has.
            return f"{_quote(sys.executable)} -m pip install {_quote(f'{_NAME}{extras}=={found.version}')}"
    return f"pip install {_quote(f'.{extras}')} in a checkout of {_NAME}"  # a copy without metadata


@contextmanager
def importing(need: str, *extras: str) -> Iterator[None]:
    """Name the extras to install if an import in the block fails; ``need`` is such as ``Plots need matplotlib``."""
    try:
        yield
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"{need}, and importing it failed: {error}", remedy=f"Run: {install_command(*extras)}"
        ) from error


def check_modules(what: str, modules: tuple[str, ...], *extras: str) -> None:
    """Check that modules can be found, without importing them; ``what`` is the subject of the message."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise MissingPrerequisiteError(
            f"{what} needs packages that are not installed: {' and '.join(missing)}",
            remedy=f"Run: {install_command(*extras)}",
        )


def _is_checkout(folder: Path) -> bool:
    try:
        return f'name = "{_NAME}"' in (folder / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return False


def _origin(text: str | None) -> tuple[Path | None, str, bool]:
    """Return the folder or file of a ``direct_url.json``, otherwise its URL, and whether it is an editable folder."""
    origin: dict[str, Any] = json.loads(text or "{}")
    url, folder, vcs = origin.get("url", ""), origin.get("subdirectory", ""), origin.get("vcs_info")
    if url.startswith("file:") and not vcs:
        path = Path(url2pathname(urlsplit(url).path), folder).resolve()
        return path, "", bool(origin.get("dir_info", {}).get("editable"))
    parts = urlsplit(url)
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password or a token
    if vcs:
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return None, f"{url}#subdirectory={folder}" if folder else url, False


def _shown(path: Path) -> str:
    return "." if path.is_dir() and path.samefile(os.curdir) else str(path)


def _quote(word: str) -> str:
    """Quote a word for a POSIX shell, or on Windows for both of its shells."""
    return f'"{word}"' if sys.platform == "win32" else shlex.quote(word)
