"""The event loop that all threads share: results, errors, interruption, other loops, forks and the end of a process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import NoReturn

import pytest

from rerank.errors import UsageError
from rerank.tasks.concurrency import await_on_loop, get_loop, run_on_loop, submit_to_loop
from tests.raising import raises


async def where() -> int:
    await asyncio.sleep(0)
    return threading.get_ident()


async def fail() -> NoReturn:
    raise KeyError("of the coroutine")


def test_all_callers_share_one_thread_that_is_not_theirs() -> None:
    with ThreadPoolExecutor(8) as pool:
        idents = {
            *pool.map(lambda _: run_on_loop(where()), range(32)),
            submit_to_loop(where()).result(),
            asyncio.run(hop()),
        }
    assert len(idents) == 1
    assert threading.get_ident() not in idents
    assert sum(thread.name == "rerank-background-loop" for thread in threading.enumerate()) == 1


async def hop() -> int:
    return await await_on_loop(where())


def test_run_where_an_event_loop_runs() -> None:
    async def inside() -> int:
        return run_on_loop(where())

    assert asyncio.run(inside()) != threading.get_ident()


def test_errors_reach_the_caller() -> None:
    with pytest.raises(KeyError, match="of the coroutine"):
        run_on_loop(fail())
    with pytest.raises(KeyError, match="of the coroutine"):
        submit_to_loop(fail()).result()
    with pytest.raises(KeyError, match="of the coroutine"):
        asyncio.run(await_on_loop(fail()))


def test_waiting_for_oneself_is_refused() -> None:
    async def inner() -> int:
        return run_on_loop(where())

    with raises(UsageError, "background event loop", "agenerate"):
        run_on_loop(inner())
    assert run_on_loop(await_on_loop(where())) == run_on_loop(where())  # awaiting is possible


def test_an_interrupted_wait_cancels_the_coroutine_and_waits_for_its_end() -> None:
    """Scripts start background processes with SIGINT ignored, so that the test sets what a terminal would."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt_a_wait()
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt_a_wait() -> None:
    main = threading.main_thread().ident
    assert main == threading.get_ident()
    events: list[str] = []

    async def interrupted() -> None:
        try:
            signal.pthread_kill(main, signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)  # closing something takes time
            events.append("ended")

    with pytest.raises(KeyboardInterrupt):
        run_on_loop(interrupted())
    assert events == ["ended"]


def test_cancelling_reaches_the_coroutine() -> None:
    cancelled = threading.Event()

    async def endless() -> None:
        try:
            started.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def cancel() -> None:
        task = asyncio.create_task(await_on_loop(endless()))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started = threading.Event()
    future = submit_to_loop(endless())
    assert started.wait(10)
    future.cancel()
    assert cancelled.wait(10)
    started.clear()
    cancelled.clear()
    asyncio.run(cancel())
    assert cancelled.wait(10)


def test_a_coroutine_that_cancels_itself() -> None:
    async def cancel_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    with pytest.raises(CancelledError):
        run_on_loop(cancel_itself())


def python(code: str) -> str:
    """Run code in a new interpreter that reports everything; return its output."""
    options = ("-W", "error", "-W", "ignore::DeprecationWarning")  # a fork with threads is deprecated
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_importing_starts_nothing() -> None:
    code = """
import threading
import rerank.tasks.concurrency
print(threading.active_count(), rerank.tasks.concurrency._background)
"""
    assert python(code) == "1 None"


def test_a_forked_process_has_its_own_loop_and_both_end() -> None:
    code = """
import asyncio, os, sys, threading
from rerank.tasks import concurrency
async def endless():
    await asyncio.sleep(60)
async def loop():
    return id(asyncio.get_running_loop())
first = concurrency.run_on_loop(loop())
concurrency.submit_to_loop(endless())
if not (child := os.fork()):
    assert threading.active_count() == 1
    assert concurrency.run_on_loop(loop()) != first
    concurrency.submit_to_loop(endless())
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
assert concurrency.run_on_loop(loop()) == first
print("ended")
"""
    assert python(code) == "ended"


def test_a_fork_while_another_thread_starts_the_loop() -> None:
    code = """
import os, threading
from rerank.tasks import concurrency
with concurrency._lock:
    child = os.fork()
    if not child:
        async def one():
            return 1
        os._exit(concurrency.run_on_loop(one()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(code) == "1"


def test_the_loop_of_a_process_stays() -> None:
    assert get_loop() is get_loop()
