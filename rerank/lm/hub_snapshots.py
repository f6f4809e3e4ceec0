"""Snapshots of models on the hub: the cache of the hub's client first, limits in seconds, progress on stderr.

The client (``huggingface_hub``) decides where files are and checks them; ``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT`` and
its other variables apply. Alone, it would wait without a limit for a hub that accepts connections and is silent, and
an interrupted process would wait for the downloads of its threads.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from glob import escape
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from rerank.errors import MissingPrerequisiteError, MissingResourceError, RerankError, StorageError
from rerank.installation import importing
from rerank.progress import line_writer, write_note_to_stderr

T = TypeVar("T")

#: Seconds to wait for an answer of the hub about a model that is in the cache, and about one that is not. The client's
#: variable HF_HUB_ETAG_TIMEOUT replaces both.
ANSWER_LIMITS = (5.0, 20.0)
#: Seconds without a response after which a download fails. While a file is received, the limits of the client apply,
#: which counts its bytes in steps of 10 MB.
STALL_LIMIT = 60.0
_PAUSE = 60.0  #: Seconds after a failed request in which the hub is not asked about models in the cache.
_THREADS = 8  #: Number of files that are downloaded at the same time, as by the client.
_QUIET_SECONDS, _QUIET_BYTES = 2.0, 10_000_000  #: A download that is smaller and faster than this shows nothing.

_log = logging.getLogger(__name__)
#: Time (`time.monotonic`) of the last request that was not answered, by address of the hub.
_unanswered: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a commit, and their sizes in bytes."""

    commit: str
    sizes: Mapping[str, int]


#: Listings by address of the hub, name and commit. A commit never changes.
_listings: dict[tuple[str, str, str], Listing] = {}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files of a commit in the cache of the client."""

    folder: Path
    listed: frozenset[str] = frozenset()  # names of all files of the commit; empty if they are not known

    @property
    def commit(self) -> str:
        return self.folder.name


def fetch_snapshot(name: str, revision: str, patterns: Sequence[str], ignored: Sequence[str] = ()) -> Snapshot:
    """Return the files of a model on the hub that match, after downloading those that are missing.

    A commit that is in the cache is used without the network. For a branch or a tag, the hub is asked for its
    commit; if there is no answer within seconds, the commit in the cache is used, with a warning.

    Args:
        name: Id of the model on the hub.
        revision: Branch, tag or commit; empty for ``main``.
        patterns: Patterns of the files that are needed, as in `fnmatch`.
        ignored: Patterns of files that are not needed.
    """
    with importing(f"Model {name!r} is on the hub, which needs huggingface_hub", "hf"):
        import huggingface_hub as client
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    try:
        return _Request(client, name, revision, tuple(patterns), tuple(ignored)).fetch()
    except RerankError:
        raise
    except Exception as error:
        raise _explain(error, name, revision, str(client.constants.ENDPOINT)) from error


@dataclass(frozen=True)
class _Request:
    client: ModuleType | Any
    name: str
    revision: str
    patterns: tuple[str, ...]
    ignored: tuple[str, ...]

    def fetch(self) -> Snapshot:
        cached, endpoint = self.cached(), self.client.constants.ENDPOINT
        is_paused = time.monotonic() - _unanswered.get(endpoint, -_PAUSE) < _PAUSE
        is_offline = self.client.constants.HF_HUB_OFFLINE
        if cached and (is_offline or is_paused or (cached.listed and cached.commit == self.revision)):
            return cached
        if is_offline:
            raise MissingResourceError(
                f"Model {self} cannot be downloaded, because HF_HUB_OFFLINE is set, and the cache "
                f"{self.client.constants.HF_HUB_CACHE} lacks it or a part of it",
                remedy=f"Download it before: rerank models pull {self.name}; or unset HF_HUB_OFFLINE",
            )
        try:
            listing = self.ask(ANSWER_LIMITS[not cached])
        except Exception as error:
            if _has_kind(error, "TransportError", "TimeoutError"):
                _unanswered[endpoint] = time.monotonic()
            if not cached or (_has_kind(error, "RevisionNotFoundError") and cached.commit != self.revision):
                raise
            why = _explain(error, self.name, self.revision, endpoint).found.partition(" cannot be downloaded: ")[2]
            _log.warning("%s: %s; commit %s in the cache is used", self.name, why, cached.commit[:12])
            return cached
        if cached and cached.commit == listing.commit and cached.listed and not self.missing(listing):
            return cached
        return self.download(listing)

    @property
    def filters(self) -> dict[str, list[str]]:
        return {"allow_patterns": list(self.patterns), "ignore_patterns": list(self.ignored)}

    def cached(self) -> Snapshot | None:
        """Return the files in the cache; None if there are none, or some are known to be missing."""
        options = {"revision": self.revision or None, "local_files_only": True, **self.filters}
        try:
            folder = Path(self.client.snapshot_download(self.name, **options))
        except self.client.errors.LocalEntryNotFoundError:
            return None
        try:
            tree = self.client.get_cached_repo_tree(self.name, revision=folder.name)
        except self.client.errors.CachedRepoTreeNotFoundError:  # downloaded file by file, as by transformers
            return Snapshot(folder)
        return Snapshot(folder, frozenset(file.path for file in tree))

    def ask(self, limit: float) -> Listing:
        """Ask the hub which commit the revision is, and for its files."""
        known = _listings.get((self.client.constants.ENDPOINT, self.name, self.revision))
        if known is not None:
            return known
        limit = self.limit(limit)
        options = {"revision": self.revision or "main", "files_metadata": True, "timeout": limit}
        # The client's limit applies to each step of a request, and not to the resolution of the hub's name.
        request = _start(lambda: self.client.HfApi().model_info(self.name, **options))
        try:
            info = request.result(limit + 1)
        except TimeoutError:
            raise TimeoutError(f"no answer within {limit:g} s") from None
        listing = Listing(info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()})
        _listings[self.client.constants.ENDPOINT, self.name, listing.commit] = listing
        return listing

    def limit(self, seconds: float) -> float:
        """Return the seconds to wait for an answer; the client's own variable has precedence."""
        stated = float(self.client.constants.HF_HUB_ETAG_TIMEOUT)
        return stated if os.environ.get("HF_HUB_ETAG_TIMEOUT") else seconds

    def needed(self, listing: Listing) -> list[str]:
        """Return the files that match the patterns, the smallest first."""
        needed = self.client.utils.filter_repo_objects(listing.sizes, **self.filters)
        return sorted(needed, key=listing.sizes.__getitem__)

    def missing(self, listing: Listing) -> list[str]:
        find = self.client.try_to_load_from_cache
        return [
            file for file in self.needed(listing) if not isinstance(find(self.name, file, revision=listing.commit), str)
        ]

    def download(self, listing: Listing) -> Snapshot:
        """Download the files of a commit that are missing, and note its revision and its files in the cache."""
        missing, first = self.missing(listing), self.needed(listing)[:1]
        self.download_files(listing, [file for file in missing if file in first])
        folder = self.repository / "snapshots" / listing.commit
        if first:
            # The client notes the revision and the files of the commit, so that it knows an interrupted download. It
            # has nothing to download, unless the branch has moved.
            options: dict[str, Any] = {"revision": self.revision or None, "allow_patterns": [escape(first[0])]}
            options["tqdm_class"] = partial(self.client.utils.tqdm, disable=True)
            noted = _start(lambda: str(self.client.snapshot_download(self.name, **options)))
            try:
                folder = Path(noted.result(self.limit(ANSWER_LIMITS[1])))
            except TimeoutError:
                if self.missing(listing):
                    raise TimeoutError(f"no answer within {self.limit(ANSWER_LIMITS[1]):g} s") from None
        if folder.name != listing.commit:
            return replace(self, revision=folder.name).fetch()
        self.download_files(listing, [file for file in missing if file not in first])
        return Snapshot(folder, frozenset(listing.sizes))

    @property
    def repository(self) -> Path:
        return Path(self.client.constants.HF_HUB_CACHE) / f"models--{self.name.replace('/', '--')}"

    def download_files(self, listing: Listing, files: Sequence[str]) -> None:
        """Download files, the smallest first, in threads that end with the process."""
        tally, queue = _Tally(), deque(files)
        bar = type("Bar", (_Bar,), {"tally": tally})

        def work() -> None:
            while queue and not tally.is_stopped:
                with tally.lock:
                    file = queue.popleft() if queue else ""
                if file:
                    self.client.hf_hub_download(self.name, file, revision=listing.commit, tqdm_class=bar)

        workers = [_start(work) for _ in range(min(_THREADS, len(files)))]
        started, total = time.monotonic(), sum(listing.sizes[file] for file in files)
        with ExitStack() as stack:
            show: Callable[[int], None] | None = None
            try:
                while (state := wait(workers, 0.2, FIRST_EXCEPTION)).not_done:
                    if any(worker.exception() for worker in state.done):
                        break
                    if not show and (total >= _QUIET_BYTES or time.monotonic() - started > _QUIET_SECONDS):
                        title = f"Downloading {self.name}"
                        note = f"{title} ({listing.commit[:12]}), {format_size(total)}, to {self.repository}"
                        show = stack.enter_context(_show_bytes(self.client, note, title, total))
                    if show:
                        show(tally.bytes)
                    is_idle = not tally.receiving and time.monotonic() - tally.changed > STALL_LIMIT
                    if is_idle and not _grows(self.repository / "blobs"):
                        raise TimeoutError(f"no response for {STALL_LIMIT:g} s")
                for worker in state.done:
                    worker.result()
                if show:
                    show(total)
            finally:
                tally.is_stopped = True
                wait(workers, 2)  # threads that end by themselves remove the parts of files that they have received

    def __str__(self) -> str:
        return f"{self.name!r}{f' at {self.revision}' if self.revision else ''}"


def _start(function: Callable[[], T]) -> Future[T]:
    """Run a function in a thread of its own, for which the end of the process does not wait."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 - raised where the result is read
            future.set_exception(error)

    threading.Thread(target=run, name="hub", daemon=True).start()
    return future


def _grows(blobs: Path) -> bool:
    """Return whether another process, for which this one waits, downloads a file of the same model."""
    for path in blobs.glob("*.incomplete"):
        with suppress(FileNotFoundError):  # the other process has just renamed it
            if time.time() - path.stat().st_mtime < STALL_LIMIT:
                return True
    return False


@dataclass
class _Tally:
    """The bytes that all files of a download have received."""

    bytes: int = 0
    receiving: int = 0  # number of files that are being received
    changed: float = field(default_factory=time.monotonic)
    is_stopped: bool = False  # ends the threads at the next byte
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, more: float, files: int = 0) -> None:
        if self.is_stopped and not files:
            raise InterruptedError("the download was stopped")
        with self.lock:
            self.bytes, self.changed, self.receiving = self.bytes + int(more), time.monotonic(), self.receiving + files


class _Bar:
    """What the client needs of the progress bar of a file. It exists while the file is received."""

    tally: ClassVar[_Tally]

    def __init__(self, *_: Any, initial: float = 0, **__: Any) -> None:
        self.is_open = True
        self.tally.add(initial, files=1)

    def update(self, more: float | None = 1) -> None:
        self.tally.add(more or 0)

    def update_transfer(self, more: float | None = 1) -> None:
        """Note bytes that have arrived but not yet been put into the file."""
        self.tally.add(0)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.tally.add(0, files=-1)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def set_postfix_str(self, postfix: str, refresh: bool = False) -> None:
        pass

    set_transfer_postfix_str = set_postfix_str


@contextmanager
def _show_bytes(client: Any, note: str, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a note and the client's own bar, or lines if stderr is not a terminal; nothing if its bars are disabled."""
    if client.utils.are_progress_bars_disabled():
        yield lambda done: None
        return
    write_note_to_stderr(note)
    if not sys.stderr.isatty():
        started, show = time.monotonic(), line_writer(title, format_size(total))
        yield lambda done: show(format_size(done), "")
        write_note_to_stderr(f"{title}: done in {time.monotonic() - started:.0f} s")
        return
    with client.utils.tqdm(total=total, unit="B", unit_scale=True, desc=title) as bar:
        yield lambda done: bar.update(done - bar.n)


def format_size(size: float) -> str:
    """Return a number of bytes for people.

    >>> format_size(1_234_567_890), format_size(56_789_012), format_size(512)
    ('1.2 GB', '57 MB', '0.001 MB')
    """
    return (
        f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.{0 if size >= 1e7 else 1 if size >= 1e5 else 3}f} MB"
    )


def _has_kind(error: BaseException, *kinds: str) -> bool:
    """Return whether an error is of a class, by name: the HTTP library of the client depends on its version."""
    return any(kind.__name__ in kinds for kind in type(error).__mro__)


_AGAIN = "Run the command again; files that are complete are kept"
_NETWORK = "Check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT, or use a folder with the model"
_NO_HUB = "what answers at {hub} is not a hub"
_LOGIN = "Check HF_ENDPOINT, and whether the network asks for a login"
#: What happened and what to do, by class of an error and status of a response; the first that fits.
_FAILURES = (
    ("RevisionNotFoundError", 0, "the repository has no such revision", "Check the branch, tag or commit on {page}"),
    (
        "GatedRepoError",
        0,
        "its terms have to be accepted first",
        "Accept them on {page}, and set HF_TOKEN to a token of your account, or run: hf auth login",
    ),
    (
        "RepositoryNotFoundError",
        0,
        "the hub has no such repository, or it is private",
        "Check the name; for a private repository, set HF_TOKEN to a token that may read it",
    ),
    ("HfHubHTTPError", 401, "the hub does not accept the token", "Set HF_TOKEN to a valid token, or unset it"),
    ("HfHubHTTPError", 403, "the hub refuses it: {first}", "Set HF_TOKEN to a token that may read {page}"),
    ("HfHubHTTPError", 429, "the hub has had too many requests", "Try again later, or set HF_TOKEN for a higher limit"),
    ("HfHubHTTPError", 0, "the hub reports an error: {first}", "Try again later"),
    ("HFValidationError", 0, "{first}", "Check the name, which has the form OWNER/NAME"),
    ("ProxyError", 0, "the proxy cannot be used: {first}", "Check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"),
    ("RemoteProtocolError", 0, "the connection broke: {first}", _AGAIN),
    ("TimeoutException", 0, "{hub} does not answer: {first}", _NETWORK),
    ("TransportError", 0, "{hub} cannot be reached: {first}", _NETWORK),
    ("TimeoutError", 0, "{hub} does not answer: {first}", _NETWORK),
    ("FileMetadataError", 0, _NO_HUB, _LOGIN),
    ("JSONDecodeError", 0, _NO_HUB, _LOGIN),
    ("", 0, "{first}", _AGAIN),
)


def _explain(error: BaseException, name: str, revision: str, hub: str) -> RerankError:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    found = f"Model {name!r}{f' at {revision}' if revision else ''} cannot be downloaded: "
    if isinstance(error, ImportError) and "socks" in first.lower():
        return MissingPrerequisiteError(
            f"{found}a SOCKS proxy (ALL_PROXY or HTTPS_PROXY) needs a package that is not installed: {first}",
            remedy="Run: pip install socksio; or use an HTTP proxy, or unset the variable",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return StorageError(
            f"{found}the cache cannot be written: {error}", remedy="Free disk space, or set HF_HOME to another folder"
        )
    status = getattr(getattr(error, "response", None), "status_code", 0)
    text, remedy = next(
        (text, remedy)
        for kind, code, text, remedy in _FAILURES
        if (not kind or _has_kind(error, kind)) and code in (0, status)
    )
    values = {"first": first, "hub": hub, "page": f"{hub}/{name}"}
    return MissingResourceError(
        found + text.format(**values),
        expected=f"a folder ({name!r} is none), or the id of a model on the hub that you may read",
        remedy=remedy.format(**values),
    )
