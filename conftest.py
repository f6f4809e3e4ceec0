"""What pytest collects where: modules that need torch are left alone where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = (
    [] if find_spec("torch") else [f"rerank/backends/{name}.py" for name in ("_attention", "_cache", "_decoding")]
)
