"""Command line of the package: a command parses its arguments, calls one library function, and prints the result.

Modules of the library are imported inside commands, so that `rerank --help` starts fast.
"""

import errno
import io
import os
import sys
import warnings

from rerank.cli import (  # noqa: F401 (each module adds its commands to `app`)
    bench,
    compare,
    evaluate,
    folders,
    judging,
    label,
    leaderboard,
    mteb,
    qrels,
    run,
    serve,
    tools,
    train,
)
from rerank.cli.app import app
from rerank.cli.output import print_error, print_note
from rerank.errors import BackendError, MissingResourceError, RerankError, StorageError
from rerank.terminal_text import strip_output_streams

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}  #: Error numbers that only writing can cause.
#: Exit code if the process that reads the output has ended; the same as if SIGPIPE had ended this process.
_BROKEN_PIPE = 141


class _ClosedOutput(io.TextIOBase):
    """Replacement for a standard output that is closed at startup; writing to it raises an error."""

    def write(self, text: str, /) -> int:
        raise StorageError("The output cannot be written: standard output is closed", remedy="Redirect it to a file")


def main() -> None:
    """Run the command line; errors, also of the operating system or for lack of memory, determine the exit code."""
    warnings.showwarning = _print_warning
    if sys.stdin is None:  # closed standard streams
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = _ClosedOutput()
    strip_output_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except RerankError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except MemoryError:
        print_error(BackendError("Not enough memory", remedy="Use smaller files, a smaller model or smaller batches"))
        sys.exit(BackendError.exit_code)
    except OSError as error:
        failure = _describe_os_error(error)
        print_error(failure)
        os._exit(failure.exit_code)  # a normal exit would flush the output again and print a second error
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # the process that reads the pipe has ended
            sys.exit(_BROKEN_PIPE)
        raise


def _describe_os_error(error: OSError) -> RerankError:
    what = error.strerror or str(error)
    if error.errno in _DISK_FULL:  # reading does not need space
        return StorageError(f"The output cannot be written: {what}", remedy="Free disk space")
    if error.filename is None:  # reading and writing cannot be distinguished
        return StorageError(f"Reading a file or writing the output failed: {what}", remedy="Check the disk")
    return MissingResourceError(f"Accessing {error.filename} failed: {what}", remedy="Check the path")


def _print_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    print_note(f"warning: {message}")
