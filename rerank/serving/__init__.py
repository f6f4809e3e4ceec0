"""HTTP server with rerank, score, decision and search endpoints, an MCP server, and a playground."""

from importlib.util import find_spec

from rerank.errors import MissingPrerequisiteError
from rerank.installation import install_command

__all__ = ["check_serving_extra"]

#: Extra -> packages that it installs and that its server imports.
_PACKAGES = {
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "mcp": ("fastapi", "uvicorn", "prometheus_client", "mcp"),
}


def check_serving_extra(extra: str) -> None:
    """Check that the packages of an extra are installed."""
    missing = [name for name in _PACKAGES[extra] if find_spec(name) is None]
    if missing:
        raise MissingPrerequisiteError(
            f"Packages that the server needs are not installed: {', '.join(missing)}",
            remedy=f"Run: {install_command(extra)}",
        )
