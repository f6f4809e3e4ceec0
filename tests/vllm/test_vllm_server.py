"""vLLM as a server on loopback, through the ``openai`` backend: the same answers as in process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rerank.backends.openai import Openai
from rerank.errors import BackendError
from rerank.parsing import parse_permutation
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, ContinuationTask, GenerationTask, PermutationTask, Request, Sampling, Task
from tests.raising import raises

if TYPE_CHECKING:
    from rerank.backends.vllm import Vllm

pytestmark = [pytest.mark.model, pytest.mark.enable_socket]

#: Seconds that a server may take to start.
PATIENCE = 240


def request(text: str, task: Task | None = None, **sampling: int) -> Request:
    return Request(
        prompt=(Message("user", text),),
        sampling=Sampling(**{"max_tokens": 12, **sampling}),
        task=task or GenerationTask(),
    )


@pytest.fixture(scope="module")
def server(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that has the embedded model under the name ``smollm2``."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    port = _free_port()
    # What the backend in process set for itself is not for a server.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VLLM_")}
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(real), "--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", "4096"),
        *("--kv-cache-memory-bytes", str(1 << 30)),
    ]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process:
        try:
            _await(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"The server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def openai(server: str) -> Openai:
    return Openai.connect("smollm2", BackendOptions(base_url=server))


def test_it_says_how_long_its_context_is(openai: Openai) -> None:
    assert openai.tokens.context_size == 4096


def test_texts_are_those_of_the_backend_in_process(openai: Openai, real_vllm: Vllm) -> None:
    asked = [
        request("What is the capital of France? Answer in one sentence."),
        request("Name three colours.", max_tokens=5),
        request("Say hello.", min_tokens=20, max_tokens=20),
    ]
    ours, theirs = openai.generate(asked), real_vllm.generate(asked)
    assert [(r.text, r.finish, r.tokens_in) for r in ours] == [(r.text, r.finish, r.tokens_in) for r in theirs]
    assert "Paris" in ours[0].text


def test_a_chain_consists_of_identifiers(openai: Openai) -> None:
    items = tuple(f"[{at}]" for at in range(1, 6))
    (reply,) = openai.generate([request("Rank the numbers.", PermutationTask(items=items, count=5), max_tokens=40)])
    assert len(reply.text.split(" > ")) == 5
    assert set(reply.text.split(" > ")) <= set(items)
    assert parse_permutation(reply.text, 5).order


def test_likelihoods_are_those_of_the_backend_in_process(openai: Openai, real_vllm: Vllm) -> None:
    asked = [request("Is the sky blue? Answer Yes or No.", ContinuationTask(continuations=("Yes", "No")))]
    assert openai.generate(asked)[0].scores == pytest.approx(real_vllm.generate(asked)[0].scores, abs=1e-3)


def test_a_model_that_the_server_does_not_have(server: str) -> None:
    backend = Openai.connect("other", BackendOptions(base_url=server))
    with raises(BackendError, "other"):
        backend.generate([request("a")])
