"""The command line: one module per group of commands. Thin: parse, call one library function, print.

Data goes to stdout, everything else to stderr. Modules of the library are imported inside commands, so that
`rerank --help` and commands that need no model stay fast.
"""

from __future__ import annotations

import sys
import warnings

from rerank.cli.app import app
from rerank.cli.output import complain, note
from rerank.errors import RerankError


def main() -> None:
    """Run the command line; every error of ours becomes one message and its exit code."""
    warnings.showwarning = _warn
    try:
        app()
    except RerankError as error:
        complain(error)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # the reader of our output has gone; no error of ours
            sys.exit(0)
        raise


def _warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """A warning for people: what it says, not where in the code it was raised."""
    note(f"warning: {message}")
