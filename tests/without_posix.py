"""Run ``-m MODULE ...`` or ``-c CODE ...`` in a process that lacks what Windows lacks, on another system.

Modules that only POSIX systems have cannot be imported, their functions in other modules are hidden from this package
(the standard library and other packages were made for this system), and files obey the rules of Windows: some names
are invalid, a folder cannot be opened, an open or mapped file cannot be renamed, replaced or removed, and `os.rename`
does not replace.
"""

from __future__ import annotations

import errno
import os
import re
import runpy
import select
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

#: Modules of the standard library that Windows lacks, and uvloop, which cannot be installed there.
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "readline", "syslog", "uvloop")
#: Names that Windows lacks, by module.
NAMES: dict[ModuleType, str] = {
    os: "fork forkpty register_at_fork getuid geteuid getgid getegid getgroups getpgid killpg setsid nice uname "
    "statvfs sysconf sched_getaffinity getloadavg pread pwrite preadv pwritev readv writev sendfile pipe2 mkfifo mknod "
    "chown fchown lchown fchmod ttyname openpty wait wait3 wait4 WNOHANG O_NOFOLLOW O_DIRECTORY O_NONBLOCK O_SYNC "
    "O_DSYNC posix_fadvise posix_fallocate copy_file_range set_blocking",
    signal: "SIGKILL SIGHUP SIGQUIT SIGALRM SIGCHLD SIGUSR1 SIGUSR2 SIGPIPE SIGSTOP SIGCONT alarm pause setitimer "
    "sigwait pthread_kill pthread_sigmask siginterrupt",
    select: "poll epoll",
    time: "tzset",
}
#: Modules and names that are not removed, and ``files`` to leave files as they are, to see what else is missed.
KEPT = frozenset(os.environ.get("KEEP_POSIX", "").split())
_HIDDEN = {module: frozenset(names.split()) - KEPT for module, names in NAMES.items()}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_INVALID = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


def held_paths() -> Iterator[str]:
    """Yield the paths of files that this process has open or has mapped into its memory."""
    for number in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
    for line in Path("/proc/self/maps").read_bytes().decode(errors="replace").splitlines():
        yield line.split(None, 5)[-1]


def _absolute(path: Any, folder: int = -1) -> str:
    base = os.getcwd() if folder is None or folder < 0 else os.readlink(f"/proc/self/fd/{folder}")
    full = os.path.join(base, os.fsdecode(path))
    return os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full))


def _check_name(path: str) -> None:
    if not path.startswith(("/dev/", "/proc/")):
        for part in Path(path).parts[1:]:
            if part not in (".", "..") and _INVALID.search(part):
                raise OSError(errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect", path)


def _check_free(path: str) -> None:
    if any(held == path or held.startswith(f"{path}/") for held in held_paths()):
        raise PermissionError(errno.EACCES, "The file is being used by another process", path)


def obey(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise the error with which Windows refuses an operation on files (an audit hook)."""
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path, _, flags = arguments
        if flags & _WRITES:
            _check_name(_absolute(path))
        elif os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(path))
    elif event == "os.mkdir":
        _check_name(_absolute(arguments[0], arguments[2]))
    elif event == "os.remove":
        _check_free(_absolute(*arguments))
    elif event in ("os.rename", "os.link"):
        source, target, source_folder, target_folder = arguments
        _check_name(_absolute(target, target_folder))
        if event == "os.rename":
            _check_free(_absolute(source, source_folder))
            _check_free(_absolute(target, target_folder))


def _rename(source: Any, target: Any, *, replace: Any = os.rename) -> None:
    if os.path.exists(target):
        raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", os.fsdecode(target))
    replace(source, target)


class _WindowsModule(ModuleType):
    """A module of the standard library that hides the names of `NAMES` from this package."""

    def __getattribute__(self, name: str) -> Any:
        if name in _HIDDEN[self] and sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] == "rerank":
            raise AttributeError(f"module {self!r} has no attribute {name!r}", name=name, obj=self)
        return super().__getattribute__(name)


def remove_posix() -> None:
    """Make this process like one on Windows, as far as the module's docstring says."""
    setattr(shutil, "_use_fd_functions", False)  # noqa: B010, a private name
    for module in MODULES:
        if module not in KEPT:
            sys.modules[module] = None  # type: ignore[assignment]
    for owner in NAMES:
        owner.__class__ = _WindowsModule
    if "files" not in KEPT:
        setattr(os, "rename", _rename)  # noqa: B010
        sys.addaudithook(obey)
    warnings.filterwarnings("ignore", "only soft file lock is available")  # filelock has locks of Windows there
    warnings.filterwarnings("error", category=EncodingWarning, module=r"rerank\.")


def main(arguments: list[str]) -> None:
    remove_posix()
    option, target, *rest = arguments
    sys.path[0] = ""
    if option == "-m":
        sys.argv = [target, *rest]
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *rest]
        exec(compile(target, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main(sys.argv[1:])
