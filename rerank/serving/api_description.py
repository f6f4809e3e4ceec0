"""Access rules of the endpoints (keys and host names) in the OpenAPI description."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from rerank.serving.key_check import OPEN_PATHS

#: Statuses of the errors of the key check and of the host check; a server makes only one of these checks.
_KEY_ERROR, _HOST_ERROR = "401", "421"


def describe_server_access(app: FastAPI, *, has_keys: bool) -> None:
    """State in the OpenAPI description that endpoints need a key or, without keys, that they check the host name.

    Args:
        app: The application with all its endpoints, whose documentation lists the errors of both checks.
        has_keys: Whether clients need a key, so that only the errors of the key check are documented.
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
