"""Where this package keeps what it can make again. Knows no file in it and creates nothing."""

from __future__ import annotations

from pathlib import Path


def cache_dir(*parts: str) -> Path:
    """The user's cache folder of this package (``$XDG_CACHE_HOME/listrank`` where that is set), or a path in it.

    Args:
        parts: Folder names below it, e.g. ``"indexes"``. The folder may not exist yet.
    """
    import platformdirs  # here, so that commands that keep nothing do not pay for it

    return platformdirs.user_cache_path("listrank").joinpath(*parts)
