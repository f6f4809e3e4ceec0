from __future__ import annotations

import socket
import subprocess
import sys

import pytest

pytest.importorskip("uvicorn")

pytestmark = pytest.mark.enable_socket

#: Serves an application that reports the thread of its loop, and sends itself a signal once it is ready.
SCRIPT = """
import os, signal, sys, threading
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from rerank.serving.running import Listener, run_server

@asynccontextmanager
async def lifespan(app):
    print(threading.current_thread().name)
    yield
    print("stopped")

stop = lambda address: os.kill(os.getpid(), getattr(signal, sys.argv[1]))
run_server(Starlette(lifespan=lifespan), Listener(), announce=stop)
"""


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_the_server_shares_the_loop_of_requests_to_models_and_stops_at_a_signal(signal: str) -> None:
    found = subprocess.run(
        [sys.executable, "-u", "-c", SCRIPT, signal], capture_output=True, text=True, timeout=60, check=False
    )
    assert found.stdout.split() == ["rerank-background-loop", "stopped"]


def test_answers_are_sent_without_waiting_for_confirmations() -> None:
    from rerank.serving.running import Listener

    with Listener().open_socket() as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
