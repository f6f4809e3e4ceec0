"""Paths that users name, and the cache folder of this package, for files that can be recreated."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Generator
from pathlib import Path

from rerank.errors import MissingResourceError, error_repr

#: Errors of paths at which nothing can exist or be seen.
_PATH_ERRORS = {errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOTDIR}


@contextlib.contextmanager
def named_path_errors() -> Generator[None]:
    """Turn an `OSError` about a path that a user named, such as a name that is too long, into a typed error.

    Raises:
        MissingResourceError: A path in the block cannot be looked up.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _PATH_ERRORS:
            raise
        raise MissingResourceError(
            f"{error_repr(error.filename)} cannot be read: {error.strerror}", remedy="Check the path"
        ) from error


def cache_dir(*parts: str) -> Path:
    """Return the user's cache folder of this package (``$XDG_CACHE_HOME/listrank`` if set), or a path in it.

    Args:
        parts: Names of the sub-folders of the path, e.g. ``"indexes"``. The folder is not created.
    """
    import platformdirs  # imported here, so that commands without a cache start faster

    return platformdirs.user_cache_path("listrank").joinpath(*parts)
