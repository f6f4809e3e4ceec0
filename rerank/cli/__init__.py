"""The command line: one module per group of commands. Thin: parse, call one library function, print.

Data goes to stdout, everything else to stderr. Modules of the library are imported inside commands, so that
`rerank --help` and commands that need no model stay fast.
"""

from __future__ import annotations

import os
import sys

from rerank.cli.app import app
from rerank.cli.output import complain
from rerank.errors import RerankError


def main() -> None:
    """Run the command line; every error of ours becomes one message and its exit code."""
    try:
        app()
    except RerankError as error:
        complain(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone; that is no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
