"""Functions for paths: errors for unusable paths, short names for messages, and the location of the cache folder."""

import contextlib
import errno
import re
from collections.abc import Generator, Sequence
from pathlib import Path

from rerank.errors import MissingResourceError, error_repr

#: Error numbers for paths at which no file can exist or be accessed.
_PATH_ERRORS = {errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EINVAL}
_PATH = re.compile(r"[.~/]|[A-Za-z]:[\\/]|.*\\")
_NOT_PORTABLE = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
#: Names of devices on Windows, with any extension.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9\u00b9\u00b2\u00b3]) *(?:\.|$)", re.IGNORECASE)


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


def is_path_like(text: str) -> bool:
    r"""Return whether a text can only be a path, not the name of something or an id on the hub.

    >>> [is_path_like(text) for text in ("./m", "/m", "~/m", "C:/m", r"C:\m", r"models\m", "org/m", "openai:m")]
    [True, True, True, True, True, True, False, False]
    """
    return _PATH.match(text) is not None


def last_component(text: str) -> str:
    r"""Return the last component of a path of any system, or of an id on the hub.

    >>> [last_component(text) for text in ("org/m", "/models/m/", "C:\\models\\m", "m")]
    ['m', 'm', 'm', 'm']
    """
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def portable_name(name: str) -> str:
    """Return a name of a file or folder that is valid on all systems; most names are returned unchanged.

    >>> [portable_name(name) for name in ("a.b", "llama3:8b", "what?", "aux.json", "end. ")]
    ['a.b', 'llama3-8b', 'what-', 'aux-.json', 'end.-']
    """
    name = _NOT_PORTABLE.sub("-", name)
    name = f"{name[:-1]}-" if name.endswith((".", " ")) else name
    if _DEVICE.match(name):
        stem, dot, suffix = name.partition(".")
        return f"{stem.rstrip()}-{dot}{suffix}"
    return name


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
