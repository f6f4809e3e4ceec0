"""Models that think although they are not asked to get room for it, or an error that says what to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rerank.backends.openai import Openai
from rerank.backends.openai.thinking import MORE_ROOM, ROOM, thinks_by_default
from rerank.cli.app import app
from rerank.prompts.base import Message
from rerank.tasks import (
    BackendOptions,
    ContinuationTask,
    GenerationTask,
    PermutationTask,
    Reply,
    Request,
    Sampling,
    Task,
)
from rerank.types import Query, Window
from tests.backends.faulty_server import Act, Answer, FaultyServer, error, models, raw, said
from tests.backends.server_process import permuted
from tests.backends.thinking_server import ANSWER, PROMPT, SHAPES, THOUGHTS, limit_of, thinking

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.filterwarnings("ignore:The server refuses the field 'temperature'"),
]

MOST = 20  # tokens of an answer


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RERANK_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def ask(
    acts: Answer | Sequence[Answer],
    *,
    model: str = "m",
    owner: str = "somebody",
    size: int | None = None,
    count: int = 1,
    task: Task | None = None,
    retries: int | None = None,
    **sampling: Any,
) -> tuple[list[Reply], list[dict[str, Any]]]:
    """Replies, and what was sent for them, one after the other."""
    prompt = (Message("user", "Rank [1] snow, [2] rain."),)
    request = Request(
        prompt=prompt,
        sampling=Sampling(**{"max_tokens": MOST, **sampling}),
        window=Window(Query(id="q"), ()),
        task=task or GenerationTask(),
    )
    stated = {"max_model_len": size} if size else {}
    listing = models(model, owner=owner, **stated)
    with FaultyServer(acts if isinstance(acts, Sequence) else [acts], listing=listing) as server:
        options = BackendOptions(base_url=server.url, concurrency=1, retries=retries, context_size=size or 8192)
        return Openai.connect(model, options).generate([request] * count), server.asked


#: Names as users type them, of models that think unasked and of others.
THINKING = """
gpt-5-mini openai/gpt-5.2 gpt-6-luna o3 o4-mini-2025-04-16 gpt-oss:20b models/gemini-2.5-flash gemini-3.7-flash
deepseek-reasoner deepseek-v4-flash deepseek/deepseek-r1 qwen3:8b qwq-32b grok-4 glm-4.7 magistral-small minimax-m2
kimi-k2-thinking qwen/qwen3-235b-a22b-thinking-2507 phi-4-reasoning
"""
OTHERS = """
gpt-4o gpt-4.1-mini gpt-5-chat-latest gpt-3.5-turbo gemini-2.0-flash deepseek-chat qwen3-30b-a3b-instruct-2507
grok-4-fast-non-reasoning gpt-35-turbo qwen-72b qwen-4b
llama3.2:3b claude-sonnet-4-5 qwen3-reranker-8b thinking-org/m org/model m
"""


@pytest.mark.parametrize(("names", "thinks"), [(THINKING, True), (OTHERS, False)])
def test_names_of_models_that_think(names: str, thinks: bool) -> None:
    assert [name for name in names.split() if thinks_by_default(name) is not thinks] == []


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "azure"])
def test_an_unknown_model_gets_room_after_its_first_reply(shape: str) -> None:
    (reply, later), sent = ask(thinking(shape), count=2)
    answered = [body for body in sent if shape != "openai" or not {"max_tokens", "temperature"} & body.keys()]
    assert [limit_of(body) for body in answered] == [MOST, MOST + MORE_ROOM, MOST + ROOM]
    assert (reply.text, reply.finish, reply.error, later.text) == ("[2] > [1]", "stop", "", "[2] > [1]")
    assert (reply.tokens_in, reply.tokens_out) == (2 * PROMPT, MOST + THOUGHTS + ANSWER)  # both replies are paid for
    assert (later.tokens_in, later.tokens_out) == (PROMPT, THOUGHTS + ANSWER)
    assert (reply.retries, later.retries) == (len(sent) - 2, 0)
    assert (reply.thoughts == "") is (shape in ("openai", "gemini"))


def test_azure_answers_with_an_error_if_there_is_no_room() -> None:
    (reply,), sent = ask(thinking("azure"))
    assert (reply.text, reply.tokens_out) == ("[2] > [1]", THOUGHTS + ANSWER)  # an error states no tokens
    assert limit_of(sent[-1]) == MOST + MORE_ROOM
    (reply,), _ = ask(thinking("azure", thoughts=10**6))
    assert (reply.finish, "--thinking-tokens" in reply.error, "output limit" in reply.error) == ("error", True, True)


@pytest.mark.parametrize("model", ["gpt-5-mini", "o3"])
def test_a_model_that_is_known_to_think_has_room_at_once(model: str) -> None:
    (reply,), sent = ask(thinking("openai"), model=model)
    assert reply.text == "[2] > [1]"
    assert {limit_of(body) for body in sent} == {MOST + ROOM}


@pytest.mark.parametrize("owner", ["vllm", "sglang", "llamacpp"])
def test_servers_that_can_switch_thinking_off_give_no_room_by_name(owner: str) -> None:
    _, (first, second) = ask(said("[1]"), model="qwen3-8b", owner=owner, count=2)
    assert {first["max_tokens"], second["max_tokens"]} == {MOST}


def test_white_space_without_thoughts_is_paid_once() -> None:
    (reply,), sent = ask(said("\n" * MOST, "length"), owner="vllm")
    assert (reply.finish, reply.error, len(sent)) == ("length", "", 1)


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 8212. This model supports at most 4096 completion tokens",
        "This model's maximum context length is 4096 tokens. However, you requested 8300",
    ],
)
def test_room_that_a_server_refuses_is_not_asked_for_again(message: str) -> None:
    (first, second), sent = ask([error(400, message), said("[2] > [1]")], model="o3", count=2)
    assert (first.text, second.text) == ("[2] > [1]", "[2] > [1]")
    assert [limit_of(body) for body in sent] == [MOST + ROOM, MOST, MOST]


@pytest.mark.parametrize("shape", ["openai", "gemini", "deepseek", "vllm"])
def test_thoughts_without_an_end_are_an_error_that_says_what_to_do(shape: str) -> None:
    with pytest.warns(UserWarning, match="--thinking-tokens") as warned:
        replies, sent = ask(thinking(shape, thoughts=10**6), model="o3", count=2)
    assert len([w for w in warned if "--thinking-tokens" in str(w.message)]) == 1
    for reply in replies:
        assert (reply.text, reply.finish, reply.retries >= 1) == ("", "length", True)
        assert f"--thinking-tokens to more than {MORE_ROOM}" in reply.error
        assert reply.tokens_out == 2 * MOST + ROOM + MORE_ROOM
    assert [limit_of(body) for body in sent[-2:]] == [MOST + ROOM, MOST + MORE_ROOM]


@pytest.mark.parametrize("options", [{"thinking": 100}, {"retries": 0}])
def test_limits_of_the_user_hold(options: dict[str, int]) -> None:
    with pytest.warns(UserWarning, match="--thinking-tokens"):
        (reply,), (sent,) = ask(thinking("deepseek"), **options)  # type: ignore[arg-type]
    assert (reply.text, sent["max_tokens"]) == ("", MOST + options.get("thinking", 0))


def test_an_answer_that_thoughts_have_cut_is_asked_for_again() -> None:
    (reply,), sent = ask(thinking("deepseek", thoughts=MOST - 8))
    assert (reply.text, reply.finish, len(sent)) == ("[2] > [1]", "stop", 2)
    (reply,), sent = ask(said("[2] > [1", "length"))  # cut without thoughts: its limit is what was wanted
    assert (reply.text, reply.finish, len(sent)) == ("[2] > [1", "length", 1)


@pytest.mark.parametrize("again", [error(400, "context"), error(503), error(401)])
def test_the_first_reply_stands_if_the_second_fails(again: Any) -> None:
    with pytest.warns(UserWarning, match="--thinking-tokens"):
        (reply,), _ = ask([thinking("deepseek"), again], retries=1)
    assert (reply.text, reply.finish, reply.tokens_out) == ("", "length", MOST)


def test_the_context_of_the_server_limits_the_room() -> None:
    size = 1000
    with pytest.warns(UserWarning, match="--thinking-tokens"):
        _, (first, second) = ask(thinking("vllm"), size=size)
    assert first["max_tokens"] == MOST
    assert 500 < second["max_tokens"] < size - MOST
    with pytest.warns(UserWarning, match="--thinking-tokens"):
        _, sent = ask(thinking("vllm"), size=60)  # the prompt leaves nothing
    assert len(sent) == 1


@pytest.mark.parametrize("content", [None, "", "\n\n"])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
class TestOnlyThoughts:
    """A server that misses the end of the thoughts takes all of a reply for thoughts."""

    @staticmethod
    def act(field: str, content: str | None, text: str, tokens: int) -> Act:
        message = {"role": "assistant", "content": content, field: text}
        usage = {"prompt_tokens": PROMPT, "completion_tokens": tokens}
        return raw({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    def test_short_ones_are_the_answer(self, field: str, content: str | None) -> None:
        (reply,), _ = ask(self.act(field, content, "[2] > [1]", MOST), owner="vllm")
        assert (reply.text, reply.thoughts, reply.error) == ("[2] > [1]", "", "")

    def test_long_ones_are_not(self, field: str, content: str | None) -> None:
        with pytest.warns(UserWarning, match="--thinking-tokens"):
            (reply,), sent = ask(self.act(field, content, "Well, [1] is about snow.", MOST + 1))
        assert (reply.text.strip(), reply.finish, len(sent)) == ("", "stop", 2)
        assert "ended its reply without an answer" in reply.error


def test_log_probabilities_are_of_one_token() -> None:
    task = ContinuationTask(continuations=("A", "B"))
    (reply,), (sent,) = ask(thinking("deepseek"), model="o3", task=task)
    assert (sent["max_tokens"], bool(reply.error)) == (1, True)


def test_answers_in_json_have_room() -> None:
    task = PermutationTask(items=("[1]", "[2]"), count=2)
    (reply,), (sent,) = ask(thinking("deepseek", lambda body: '{"order": ["[2]", "[1]"]}'), model="o3", task=task)
    assert (reply.text, sent["max_tokens"]) == ("[2] > [1]", 3 * MOST + ROOM)


@pytest.fixture
def lists(tmp_path: Path) -> str:
    docs = [{"docid": f"d{at}", "doc": f"passage {at}", "score": 9 - at} for at in range(5)]
    rows = [{"query": {"qid": f"q{at}", "text": f"words {at}"}, "candidates": docs} for at in range(3)]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"requests:{tmp_path / 'lists.jsonl'}"


def rerank(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result, json.loads(result.stdout) if result.exit_code == 0 else None


@pytest.mark.parametrize(("model", "retries"), [("gpt-5-mini", 0), ("my-deployment", 1)])
def test_a_run_is_answered_and_goes_on_without_calls(
    model: str, retries: int, lists: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    out = tmp_path / "run"
    with FaultyServer([thinking("gemini", permuted)], listing=models(model)) as server:
        command = ["run", "--collection", lists, "--first-stage", "candidates", "--method", "fullrank", "--out", out]
        command += ["--model", f"openai:{model}", "--base-url", server.url, "--no-call-cache", "--concurrency", 1]
        command += ["--context-size", 8192, "--format", "json"]
        result, summary = rerank(*command)
        assert result.exit_code == 0, result.output
        assert (summary["windows"]["ok"], summary["failure_rate"]) == (3, 0.0)
        assert (summary["calls"], summary["retries"], len(server.asked)) == (3, retries, 3 + retries)
        first = retries * limit_of(server.asked[0])
        assert summary["tokens_out"] == 3 * (THOUGHTS + ANSWER) + first
        result, again = rerank(*command, "--resume")
        assert (again["tokens_out"], again["calls"], len(server.asked)) == (summary["tokens_out"], 3, 3 + retries)
    result, replayed = rerank("replay", out, "--format", "json")
    assert (result.exit_code, replayed["windows"]["ok"]) == (0, 3)
    result = CliRunner().invoke(app, ["verify", str(out)])
    assert result.exit_code == 0, result.output


def test_the_estimated_cost_includes_thoughts(lists: str) -> None:
    command = ["run", "--collection", lists, "--first-stage", "candidates", "--method", "fullrank", "--dry-run"]
    command += ["--context-size", "8192", "--format", "json"]
    tokens = {name: rerank(*command, "--model", f"openai:{name}")[1]["tokens_out"] for name in ("gpt-4o", "gpt-5-mini")}
    assert tokens["gpt-5-mini"] == tokens["gpt-4o"] + 3 * ROOM
