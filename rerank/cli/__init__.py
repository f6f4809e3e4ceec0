"""The command line, with one module per group of commands.

A command parses its arguments, calls one library function, and prints the result. Results go to stdout, everything else
to stderr. Modules of the library are imported inside commands, so `rerank --help` and commands without a model start
fast.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings

from rerank.cli.app import app
from rerank.cli.output import print_error, print_note
from rerank.errors import RerankError, StorageError
from rerank.terminal_text import strip_output_streams

#: Error numbers that writing to a full or broken disk can cause.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


def main() -> None:
    """Run the command line. A `RerankError` is printed as one message and determines the exit code."""
    warnings.showwarning = _print_warning
    for name in ("stdin", "stdout", "stderr"):  # Python sets a closed stream to None
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    strip_output_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except RerankError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        print_error(StorageError(f"The output cannot be written: {error.strerror}", remedy="Free disk space"))
        os._exit(StorageError.exit_code)  # a normal exit would flush the output again and print a second error
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # the process that reads the pipe has ended
            sys.exit(0)
        raise


def _print_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print a warning without the line of code that issued it."""
    print_note(f"warning: {message}")
