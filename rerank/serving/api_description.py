"""Who may use which endpoint, for the OpenAPI description."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from rerank.serving.key_check import OPEN_PATHS

#: Errors of the checks of keys and of host names, one of which a server makes.
_KEY_ERROR, _HOST_ERROR = "401", "421"


def describe_server_access(app: FastAPI, *, has_keys: bool) -> None:
    """Let the OpenAPI description say that endpoints need a key, or else that they refuse foreign host names.

    Args:
        app: The application with all its endpoints; they document the errors of both checks.
        has_keys: Whether clients need a key.
    """
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = describe()
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                operation["responses"].pop(_HOST_ERROR if has_keys else _KEY_ERROR, None)
                if has_keys and path in OPEN_PATHS:
                    operation["security"] = []
        if has_keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
