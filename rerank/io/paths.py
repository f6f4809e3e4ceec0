"""The cache folder of this package, for files that can be recreated."""

from __future__ import annotations

from pathlib import Path


def cache_dir(*parts: str) -> Path:
    """Return the user's cache folder of this package (``$XDG_CACHE_HOME/listrank`` if set), or a path in it.

    Args:
        parts: Names of the sub-folders of the path, e.g. ``"indexes"``. The folder is not created.
    """
    import platformdirs  # imported here, so that commands without a cache start faster

    return platformdirs.user_cache_path("listrank").joinpath(*parts)
