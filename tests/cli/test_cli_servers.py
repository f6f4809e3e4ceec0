"""What users type for models on servers, and what stands between them and an API: it works or is one line of error."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.backends.faulty_server import Act, FaultyServer, open_server, raw, scored
from tests.cli.conftest import Cli

pytestmark = pytest.mark.enable_socket

PAGE = b"<!DOCTYPE html><html><head><title>Log in &amp; pay</title></head><body><p>Welcome</p></body></html>"
HTML = {"Content-Type": "text/html"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("RERANK_API_KEY", "sk-0123456789")


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(cli: Cli, lists: tuple[str, ...]) -> Run:
    """Rank lists; return the exit code and the last line of the errors."""

    def command(*arguments: str) -> tuple[int, str]:
        options = ["--retries", "0", "--context-size", "8192", "--no-call-cache", "--out", "run"]
        result = cli("run", *lists[:-2], *options, *arguments)
        assert "Traceback" not in result.stderr
        return result.returncode, (result.stderr.strip().splitlines() or [""])[-1]

    return command


@pytest.mark.parametrize("model", ["openai:m", "api:jina/m", "decisions:m"])
@pytest.mark.parametrize(
    ("variable", "value", "code", "named"),
    [
        ("ALL_PROXY", "socks5://me:secret@127.0.0.1:9", 3, ("socks5://127.0.0.1:9", "pip install socksio")),
        ("HTTPS_PROXY", "socks5h://127.0.0.1:9", 3, ("socks5h://127.0.0.1:9", "pip install socksio")),
        ("HTTPS_PROXY", "ftp://me:secret@127.0.0.1:9", 2, ("ftp://127.0.0.1:9", "HTTPS_PROXY", "NO_PROXY")),
        ("HTTPS_PROXY", "http://127.0.0.1:port", 2, ("http://127.0.0.1:port", "HTTPS_PROXY")),
        ("HTTPS_PROXY", "http://me:secret@127.0.0.1:9", 6, ("No connection", "through the proxy http://127.0.0.1:9")),
        ("SSL_CERT_FILE", "/nowhere/ca.pem", 2, ("No such file", "SSL_CERT_FILE")),
        ("SSL_CERT_FILE", __file__, 2, ("certificate", "SSL_CERT_FILE")),
    ],
)
def test_what_the_environment_gets_wrong(
    model: str, variable: str, value: str, code: int, named: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    exit_code, message = run("--model", model, "--base-url", "https://api.example/v1")
    assert (exit_code, [text for text in named if text not in message]) == (code, [])
    assert "secret" not in message


def test_a_proxy_that_wants_a_password(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyServer([Act()]) as proxy:
        proxy.connect = Act(wire=[b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"])
        monkeypatch.setenv("HTTPS_PROXY", proxy.root)
        code, message = run("--model", "api:jina/m", "--base-url", "https://api.example/v1")
    assert (code, set(proxy.looked)) == (6, {"api.example:443"})
    assert all(text in message for text in ("407", proxy.root, "http://NAME:PASSWORD@HOST:PORT"))


def test_encryption_where_there_is_none(run: Run) -> None:
    with open_server("jina", [scored("jina")]) as server:
        code, message = run("--model", "api:jina/m", "--base-url", server.root.replace("http:", "https:"))
    assert (code, "may speak http instead of https" in message) == (6, True)


@pytest.mark.parametrize(
    ("act", "code", "named"),
    [
        (Act(body=PAGE, headers=HTML), 7, ("not JSON", "an HTML page (Log in & pay)", "--base-url")),
        (Act(status=403, body=PAGE, headers=HTML), 6, ("403", "an HTML page (Log in & pay)", "firewall")),
        (Act(status=404, body=PAGE, headers=HTML), 6, ("404", "an HTML page (Log in & pay)", "--base-url")),
        (Act(status=407, body=PAGE, headers=HTML), 6, ("407", "HTTPS_PROXY")),
        (Act(status=502, body=b"<html><body><h1>Bad gateway</h1>nginx</body></html>"), 7, ("(Bad gateway nginx)",)),
        (raw({"detail": "Provided API key is invalid."}, status=401), 6, ("key is invalid", "JINA_API_KEY")),
        (raw({"detail": "Insufficient balance"}, status=402), 6, ("Insufficient balance", "add credit")),
        (raw({"message": "model 'm' not found"}, status=404), 6, ("model 'm' not found", "Check the model's name")),
        (Act(status=503), 7, ("503", "nothing")),
    ],
    ids=lambda act: f"{act.status} {act.body[:20]!r}" if isinstance(act, Act) else None,
)
def test_what_apis_and_proxies_answer(act: Act, code: int, named: tuple[str, ...], run: Run) -> None:
    with open_server("jina", [act]) as server:
        exit_code, message = run("--model", "api:jina/m", "--base-url", server.root)
    assert (exit_code, [text for text in named if text not in message]) == (code, [])
    assert "<" not in message


OLLAMA = "openai:{} --base-url http://localhost:11434/v1"


@pytest.mark.parametrize(
    ("typed", "code", "named"),
    [
        ("--model llama3.2:3b", 2, ("llama3.2:3b", OLLAMA.format("llama3.2:3b"))),
        ("--model qwen3:8b", 2, (OLLAMA.format("qwen3:8b"),)),
        ("--model ollama:llama3.2:3b", 2, (OLLAMA.format("llama3.2:3b"),)),
        ("--model ollama/llama3.2:3b", 2, (OLLAMA.format("llama3.2:3b"),)),
        ("--model hf.co/org/model-GGUF:Q4_K_M", 2, (OLLAMA.format("hf.co/org/model-GGUF:Q4_K_M"),)),
        ("--model openia:gpt-4o", 2, ("Did you mean 'openai:gpt-4o'?",)),
        ("--model fake:revers", 2, ("fake",)),
        ("--model gpt-4o", 2, ("Write openai:gpt-4o",)),
        ("--model api:cohere", 2, ("api:cohere/MODEL",)),
        ("--model api:coher/x", 2, ("Did you mean 'cohere/MODEL'?",)),
        ("--model openai:m --base-url localhost:11434", 2, ("--base-url", "http://")),
        ("--model openai:m --base-url https://h/v1?key=sk-secret", 2, ("?api-version=VERSION",)),
    ],
)
def test_what_is_typed(typed: str, code: int, named: tuple[str, ...], run: Run) -> None:
    exit_code, message = run(*typed.split())
    assert (exit_code, [text for text in named if text not in message]) == (code, [])
    assert "secret" not in message
