"""The server: rerank, score, decision and search endpoints for existing clients, an MCP server and a playground."""

from __future__ import annotations

from importlib.util import find_spec

from rerank.errors import MissingPrerequisiteError

__all__ = ["check_serve_extra"]

#: Packages of the extra `serve` that the server imports.
_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def check_serve_extra() -> None:
    """Check that the packages of the extra `serve` are installed.

    Raises:
        MissingPrerequisiteError: A package is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingPrerequisiteError(
            f"The server needs {', '.join(missing)}, and they are not installed",
            remedy="Run: pip install 'listrank[serve]'",
        )
