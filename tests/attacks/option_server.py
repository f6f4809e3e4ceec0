"""A server that runs commands in forked children of a process that has imported the package, as an unprivileged user.

Run as a module: ``python -m tests.attacks.option_server TEMPLATE SCRATCH``. Each line of its input is a JSON object
with the ``words`` of a command and ``pipe``, whether a word names the named pipe; each line of its output is the result
of one command. A command runs in a copy of TEMPLATE below SCRATCH, without a network, and has a limited time.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from tests.attacks.ended_command import CHANGES, WRITING

NOBODY = 65534  #: Id of the user that owns nothing.
Manifest = dict[str, tuple[int, int]]  #: Path of a file -> its size and time of change.
SECONDS = 20  #: Processor time that a command may take.
#: Sequences of bytes that a command may write at most, so that no value fills the disk.
_FILE_BYTES = 64 << 20
#: Variables of the environment with folders of the user, below the working folder.
FOLDERS = {"HOME": "cache/home", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "cache/config", "TMPDIR": "cache/tmp"}
PIPE = "pipe"  #: Name of the named pipe in the working folder.


def warm_up() -> None:
    """Import what commands import, so that each of them only has to run."""
    import functools
    import gc
    import importlib
    import pkgutil

    import typer.main

    import rerank.cli

    for module in pkgutil.walk_packages(rerank.__path__, "rerank."):
        if not module.name.startswith(("rerank.backends.vllm", "rerank.integrations", "rerank.__main__")):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:  # of an extra that is not installed
                if (error.name or "rerank").startswith("rerank"):
                    raise
    for name in ("peft", "matplotlib.pyplot", "scipy.stats", "pytrec_eval", "bm25s", "mteb", "transformers.trainer"):
        importlib.import_module(name)
    vars(typer.main)["get_command"] = functools.cache(typer.main.get_command)
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        sys.argv = ["rerank", "methods"]
        rerank.cli.main()
    gc.freeze()


def main() -> None:
    template, scratch = map(Path, sys.argv[1:3])
    warm_up()
    if os.getuid() == 0:
        for path in (scratch, template, *template.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        become_nobody()
    manifest: Manifest = dict(files_below(template))
    for line in sys.stdin:
        result = execute(json.loads(line), template, scratch, manifest)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


def become_nobody() -> None:
    """Give up the rights of root except to read: Python and the package may lie in a folder that only root can open."""
    libc = ctypes.CDLL(None, use_errno=True)
    keep_capabilities, version, read_and_search = 8, 0x20080522, 1 << 2  # of linux/prctl.h and linux/capability.h
    libc.prctl(keep_capabilities, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    rights = (ctypes.c_uint32 * 6)(read_and_search, read_and_search, 0, 0, 0, 0)  # effective, permitted, inheritable
    if libc.capset((ctypes.c_uint32 * 2)(version, 0), rights):
        raise OSError(ctypes.get_errno(), "The rights of the process cannot be changed")


def files_below(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the relative path of each file and folder, with size and time of change; those of folders do not count."""
    for root, folders, names in os.walk(folder):
        for name in folders:
            yield os.path.relpath(os.path.join(root, name), folder), (0, 0)
        for name in names:
            status = os.lstat(path := os.path.join(root, name))
            yield os.path.relpath(path, folder), (status.st_size, status.st_mtime_ns)


def execute(case: dict[str, Any], template: Path, scratch: Path, manifest: Manifest) -> dict[str, Any]:
    """Run a command and return its exit code, its output, and the files that it changed."""
    place = scratch / "place"
    folder = place / "work"
    if not place.exists():
        place.mkdir()
        shutil.copytree(template, folder, symlinks=True)
    if case["pipe"]:
        os.mkfifo(folder / PIPE)
    helper = os.fork() if case["pipe"] else 0
    if case["pipe"] and helper == 0:
        answer_pipe(folder / PIPE)
    child = os.fork()
    if child == 0:
        run_child(case["words"], place)
    _, status, usage = os.wait4(child, 0)
    if helper:
        os.kill(helper, signal.SIGKILL)
        os.waitpid(helper, 0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder / PIPE)
    after = dict(files_below(folder))
    code = os.waitstatus_to_exitcode(status)
    read = {name: (place / name).read_text("utf-8", "backslashreplace") for name in ("out", "err", "outside")}
    changed = sorted(name for name, state in manifest.items() if after.get(name) != state)
    for name in after.keys() - manifest.keys():
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.is_symlink() or path.exists():
            path.unlink()
    if changed:  # otherwise the next command finds the same files
        shutil.rmtree(place)
    return {
        "code": code,
        "out": read["out"][-2000:],
        "err": read["err"][-6000:],
        "outside": read["outside"].splitlines(),
        "changed": changed,
        "new": sorted(after.keys() - manifest.keys()),
        "seconds": usage.ru_utime + usage.ru_stime,
    }


def answer_pipe(path: Path) -> NoReturn:
    """Be the other end of a named pipe: read all that is written to it, and end each reading at once."""
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    while True:
        with contextlib.suppress(BlockingIOError):
            while os.read(reading, 65536):
                pass
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.01)


def run_child(words: list[str], place: Path) -> NoReturn:
    """Run the command line in this forked process, and end it."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 6 * SECONDS)
    os.chdir(place / "work")
    descriptors = [os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("out", "err", "outside")]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(descriptors[0], 1)
    os.dup2(descriptors[1], 2)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )
    for variable, name in FOLDERS.items():
        os.environ[variable] = str(place / "work" / name)
        os.makedirs(name, exist_ok=True)
    tempfile.tempdir = None
    isolate()
    sys.addaudithook(OutsideWatcher(place / "work", descriptors[2]))
    sys.argv = ["rerank", *words]
    warnings.resetwarnings()
    code = 1
    try:
        from rerank.cli import main as run_command_line

        run_command_line()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001, since anything may be raised and is to be reported
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


class OutsideWatcher:
    """An audit hook that reports changes of files outside a folder."""

    def __init__(self, folder: Path, report: int) -> None:
        self._folder = str(folder)
        self._report = report

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        writes = args[2] & WRITING if event == "open" and isinstance(args[2], int) else event in CHANGES
        if not writes or not isinstance(args[0], (str, os.PathLike)):
            return
        path = os.path.abspath(os.fspath(args[0]))
        if not path.startswith(self._folder) and not path.startswith(("/dev/", "/proc/self/")):
            os.write(self._report, f"{event} {path!r:.200}\n".encode())


def isolate() -> None:
    """Refuse connections to other machines, and replace what would not end: servers and a browser."""
    import errno

    import typer

    from rerank.serving import running

    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connect_locally(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        connect(self, address)

    def look_up_locally(host: Any, *arguments: Any, **options: Any) -> Any:
        if host is not None and str(host) not in ("localhost", "127.0.0.1", "::1", "0.0.0.0", ""):
            options["flags"] = options.get("flags", 0) | socket.AI_NUMERICHOST
        return look_up(host, *arguments, **options)

    def serve_nothing(app: Any, listener: Any, *, announce: Any) -> None:
        announce("http://127.0.0.1:1")

    vars(socket)["getaddrinfo"] = look_up_locally
    setattr(socket.socket, "connect", connect_locally)  # noqa: B010
    vars(running)["run_server"] = serve_nothing
    vars(typer)["launch"] = lambda *_: 0


if __name__ == "__main__":
    main()
