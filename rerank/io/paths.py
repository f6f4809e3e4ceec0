"""Functions for paths: errors for unusable paths, short names for messages, and the location of the cache folder."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Generator, Sequence
from pathlib import Path

from rerank.errors import MissingResourceError, error_repr

#: Error numbers for paths at which no file can exist or be accessed.
_PATH_ERRORS = {errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOTDIR}


@contextlib.contextmanager
def named_path_errors() -> Generator[None]:
    """Raise a `MissingResourceError` in place of an `OSError` about a user's path, such as a name that is too long."""
    try:
        yield
    except OSError as error:
        if error.errno not in _PATH_ERRORS:
            raise
        raise MissingResourceError(
            f"{error_repr(error.filename)} cannot be used: {error.strerror}", remedy="Check the path"
        ) from error


def cache_dir(*parts: str) -> Path:
    """Return a path in the cache folder, ``$XDG_CACHE_HOME/listrank`` or the system's default, without creating it."""
    import platformdirs  # imported here, so that commands without a cache start faster

    return platformdirs.user_cache_path("listrank").joinpath(*parts)


def shortest_distinguishing_suffixes(paths: Sequence[Path]) -> list[str]:
    """Return, for every path, the shortest suffix of whole path components with which no other path ends.

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
