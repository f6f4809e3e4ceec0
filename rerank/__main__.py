"""Entry point of the ``rerank`` command and of ``python -m rerank``, which runs the command line and handles Ctrl-C."""

import _thread
import signal
import sys
import time
from typing import Any

_INTERRUPTED = 128 + signal.SIGINT  #: Exit code of a process that was stopped with Ctrl-C, as in a shell.

_AFTER_CALLBACK = 0.02  #: Seconds after which a finalizer or callback has probably ended.


def main() -> None:
    """Run the command line. Ctrl-C stops it with a one-line message and exit code 130, even during imports."""
    sys.unraisablehook = _interrupt_again
    try:
        from rerank.cli import main as run_command_line

        run_command_line()
    except BaseException as error:
        if not _is_silent_interruption(error):
            raise
        sys.stderr.write("Stopped.\n")
        sys.exit(_INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while Python shuts down, Ctrl-C would print a traceback


def _is_silent_interruption(error: BaseException) -> bool:
    """Return whether an exception was caused by a Ctrl-C that no command has handled with a message and `sys.exit`.

    Typer turns KeyboardInterrupt into its own exception, and extension modules turn it into ImportError.
    """
    if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
        return False
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__context__
    return cause is not None


def _interrupt_again(unraisable: Any) -> None:
    """Repeat a Ctrl-C that had no effect, since it arrived in a finalizer or callback, where exceptions are ignored."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    try:
        _thread.start_new_thread(_interrupt_after_callback, ())  # threading.Timer would wait for the thread
    except KeyboardInterrupt:  # on a busy machine, this callback itself may be interrupted
        _interrupt_again(unraisable)


def _interrupt_after_callback() -> None:
    time.sleep(_AFTER_CALLBACK)
    _thread.interrupt_main()


if __name__ == "__main__":
    main()
