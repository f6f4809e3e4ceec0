"""Entry point of the ``rerank`` command and of ``python -m rerank``."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line. Until its modules are loaded, Ctrl-C ends the process without a traceback."""
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.default_int_handler:  # otherwise Ctrl-C is ignored, as in a background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rerank.cli import main as run_command_line

    signal.signal(signal.SIGINT, interrupted)
    run_command_line()


if __name__ == "__main__":
    main()
