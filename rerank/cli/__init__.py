"""The command line: one module per group of commands. Thin: parse, call one library function, print.

Data goes to stdout, everything else to stderr. Modules of the library are imported inside commands, so that
`rerank --help` and commands that need no model stay fast.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings

from rerank.cli.app import app
from rerank.cli.output import complain, note
from rerank.errors import RerankError, StorageError

#: What writing to a full or broken disk gives.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


def main() -> None:
    """Run the command line; every error of ours becomes one message and its exit code."""
    warnings.showwarning = _warn
    for name in ("stdin", "stdout", "stderr"):  # a closed stream is None in Python; there is then nobody to speak to
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except RerankError as error:
        complain(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        complain(StorageError(f"The output cannot be written: {error.strerror}", remedy="Free some space"))
        os._exit(StorageError.exit_code)  # a normal exit would try to write the rest again, and say so
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # the reader of our output has gone; no error of ours
            sys.exit(0)
        raise


def _warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """A warning for people: what it says, not where in the code it was raised."""
    note(f"warning: {message}")
