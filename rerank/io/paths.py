"""The cache folder of this package, and short names of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def cache_dir(*parts: str) -> Path:
    """Return the user's cache folder of this package (``$XDG_CACHE_HOME/listrank`` if set), or a path in it.

    Args:
        parts: Names of the sub-folders of the path, e.g. ``"indexes"``. The folder is not created.
    """
    import platformdirs  # imported here, so that commands without a cache start faster

    return platformdirs.user_cache_path("listrank").joinpath(*parts)


def shortest_distinguishing_suffixes(paths: Sequence[Path]) -> list[str]:
    """Return, for every path, its shortest suffix of whole parts that no other path ends with.

    >>> shortest_distinguishing_suffixes([Path("runs/a/run.trec"), Path("runs/b/run.trec"), Path("bm25.trec")])
    ['a/run.trec', 'b/run.trec', 'bm25.trec']
    """
    names = []
    for path in paths:
        others = [other.parts for other in paths if other != path]
        counts = range(1, len(path.parts))
        count = next(
            (n for n in counts if all(other[-n:] != path.parts[-n:] for other in others)), max(1, len(path.parts))
        )
        names.append(str(Path(*path.parts[-count:])))
    return names
