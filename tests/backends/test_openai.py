"""How requests are put to servers of each kind, and how their answers are read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest

from rerank.backends.openai import Openai
from rerank.errors import UsageError
from rerank.models import open_model_backend
from rerank.prompts.base import Message, Prompt
from rerank.tasks import (
    AttentionTask,
    BackendOptions,
    ContinuationTask,
    GenerationTask,
    PermutationTask,
    Reply,
    Request,
    Sampling,
    Task,
)
from tests.backends.faulty_server import Act, Answer, FaultyServer, error, models, raw, said, weighed
from tests.raising import raises

pytestmark = pytest.mark.enable_socket

PLAIN: Prompt = (Message("system", "You rank."), Message("user", "Rank these."))
BEGUN: Prompt = (*PLAIN, Message("assistant", "["))
THREE = PermutationTask(items=("[1]", "[2]", "[3]"), count=3)
KINDS = ("vllm", "sglang", "llamacpp", "somebody")


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RERANK_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def ask(
    acts: Answer | Sequence[Answer],
    prompt: Prompt = PLAIN,
    task: Task | None = None,
    *,
    owner: str = "somebody",
    count: int = 1,
    **sampling: Any,
) -> tuple[list[Reply], list[dict[str, Any]]]:
    """Replies, and what was sent for them."""
    request = Request(prompt=prompt, sampling=Sampling(**{"max_tokens": 20, **sampling}), task=task or GenerationTask())
    listing = models("m", owner=owner, max_model_len=4096)
    with FaultyServer(acts if isinstance(acts, Sequence) else [acts], listing=listing) as server:
        backend = Openai.connect("m", BackendOptions(base_url=server.url, concurrency=1))
        return backend.generate([request] * count), server.asked


def test_what_it_does() -> None:
    assert Openai.tasks == {GenerationTask, PermutationTask, ContinuationTask}
    assert AttentionTask not in Openai.tasks


class TestConnecting:
    def test_nothing_is_sent_before_it_is_needed(self) -> None:
        with FaultyServer([said("x")]) as server:
            backend = open_model_backend(
                "openai:org/m:free", BackendOptions(base_url=f"{server.url}/", context_size=100)
            )
            assert isinstance(backend, Openai)
            assert backend.tokens.context_size == 100
            assert dict(backend.identity) == {"model": "org/m:free", "server": server.url.removeprefix("http://")}
            assert (backend.costs_money, backend.batch_size) == (False, 16)
            assert server.looked == []

    def test_the_address_of_the_environment_and_of_openai(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert Openai.connect("m").identity["server"] == "api.openai.com/v1"
        monkeypatch.setenv("OPENAI_BASE_URL", "https://gpu.example:8443/v1/")
        backend = Openai.connect("m", BackendOptions(concurrency=3))
        assert backend.identity["server"] == "gpu.example:8443/v1"
        assert (backend.costs_money, backend.batch_size) == (True, 6)

    @pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://x/v1", "http://", "http://x:port/v1", "nonsense"])
    def test_no_address(self, url: str) -> None:
        with pytest.raises(UsageError, match="--base-url"):
            Openai.connect("m", BackendOptions(base_url=url))

    @pytest.mark.parametrize("url", ["https://me:sk-secret@x/v1", "https://x/v1?key=sk-secret", "https://sk-secret@x"])
    def test_a_secret_in_the_address_is_not_shown(self, url: str) -> None:
        with raises(UsageError, "OPENAI_API_KEY", "--base-url") as caught:
            Openai.connect("m", BackendOptions(base_url=url))
        assert "secret" not in str(caught.value)

    def test_no_model(self) -> None:
        with raises(UsageError, "--model openai:", "openai:NAME"):
            open_model_backend("openai:")

    @pytest.mark.parametrize(
        "options", [{"adapter": "a"}, {"revision": "r"}, {"dtype": "float32"}, {"device": "cuda"}, {"device_map": "tp"}]
    )
    def test_options_that_a_server_decides(self, options: dict[str, str]) -> None:
        (name,) = options
        with raises(UsageError, f"--{name.replace('_', '-')}"):
            Openai.connect("m", BackendOptions(**options))  # type: ignore[arg-type]


class TestContext:
    def context(self, listing: Act, props: Act | None = None, **options: Any) -> int:
        with FaultyServer([said("x")], listing=listing, props=props) as server:
            backend = Openai.connect("m", BackendOptions(base_url=server.url, **options))
            sizes = {backend.tokens.context_size, backend.tokens.context_size}
            assert len(server.looked) <= 2
            (size,) = sizes
            return size

    def test_of_servers_that_say_it(self) -> None:
        assert self.context(models("other", "m", owner="vllm", max_model_len=32768)) == 32768
        assert self.context(models("file.gguf", owner="llamacpp", meta={"n_ctx": 4096, "n_ctx_train": 8192})) == 4096
        assert self.context(models("a", "m", context_length=1000)) == 1000

    def test_of_an_older_llama_cpp(self) -> None:
        props = raw({"default_generation_settings": {"n_ctx": 2048}})
        assert self.context(models("file.gguf", owner="llamacpp", meta={"n_ctx_train": 8192}), props) == 2048

    def test_of_an_adapter(self) -> None:
        rows = [{"id": "base", "owned_by": "vllm", "max_model_len": 512}, {"id": "m", "parent": "base"}]
        assert self.context(raw({"data": rows})) == 512

    @pytest.mark.parametrize(
        "listing", [models("a", "b"), error(404), raw({"data": "none"}), raw({"data": ["m", None]}), error(405)]
    )
    def test_of_others_is_assumed_and_said(self, listing: Act) -> None:
        with pytest.warns(UserWarning, match="8192.*--context-size"):
            assert self.context(listing) == 8192

    def test_said_by_the_user(self) -> None:
        assert self.context(models("m", max_model_len=4096), context_size=100) == 100

    def test_more_than_there_is(self) -> None:
        with FaultyServer([said("x")]) as server:
            backend = Openai.connect("m", BackendOptions(base_url=server.url, context_size=5000))
            with raises(UsageError, "--context-size is 5000", 4096):
                backend.generate([Request(prompt=PLAIN, sampling=Sampling(max_tokens=2))])


class TestSampling:
    def test_greedy(self) -> None:
        _, (sent,) = ask(said("x"))
        assert {key: sent[key] for key in sent if key not in ("model", "messages")} == {
            "max_tokens": 20,
            "temperature": 0.0,
        }

    def test_by_chance(self) -> None:
        _, (sent,) = ask(said("x"), temperature=0.5, top_p=0.9, seed=7)
        assert (sent["temperature"], sent["top_p"], sent["seed"]) == (0.5, 0.9, 7)

    def test_defaults_of_model_makers_are_undone(self) -> None:
        _, (sent,) = ask(said("x"), owner="vllm", min_tokens=3)
        assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"], sent["min_tokens"]) == (-1, 0.0, 1.0, 3)
        _, (sent,) = ask(said("x"), owner="llamacpp", min_tokens=3)
        assert (sent["top_k"], sent["min_p"], sent["repeat_penalty"]) == (0, 0.0, 1.0)
        assert "min_tokens" not in sent

    def test_what_a_server_does_not_take_is_left_out_and_said(self) -> None:
        def picky(body: dict[str, Any]) -> Act:
            if "max_tokens" in body:
                message = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
                return error(400, message, param="max_tokens", code="unsupported_parameter")
            if "temperature" in body:
                return error(400, "Unsupported value: 0.0 for this model.", param="temperature")
            return said("[2] > [1]")

        with pytest.warns(UserWarning, match="'temperature'.*HTTP 400") as warned:
            replies, sent = ask([picky], count=3)
        assert len(warned) == 1
        assert [reply.text for reply in replies] == ["[2] > [1]"] * 3
        assert len(sent) == 5
        assert sent[-1]["max_completion_tokens"] == 20

    def test_what_cannot_be_left_out_is_an_error_reply(self) -> None:
        (reply,), sent = ask(error(400, "messages: roles must alternate", param="messages"))
        assert (reply.finish, len(sent)) == ("error", 1)
        assert "roles must alternate" in reply.error


class TestThinking:
    @pytest.mark.parametrize("owner", ["vllm", "sglang", "llamacpp"])
    def test_is_asked_for_or_not(self, owner: str) -> None:
        _, (sent,) = ask(said("x"), owner=owner)
        assert sent["chat_template_kwargs"] == {"enable_thinking": False}
        _, (sent,) = ask(said("x"), owner=owner, thinking=100)
        assert sent["chat_template_kwargs"] == {"enable_thinking": True}
        assert sent["max_tokens"] == 120

    @pytest.mark.parametrize(
        ("act", "text", "thoughts"),
        [
            (said("[1]", reasoning_content="hm [2]"), "[1]", "hm [2]"),
            (said("[1]", reasoning="hm"), "[1]", "hm"),
            (said("<think>\nhm [2]\n</think>\n\n[1]"), "[1]", "hm [2]"),
            (said("hm [2]\n</think>\n[1]"), "[1]", "hm [2]"),
            (said("<think></think>[1]"), "[1]", ""),
            (said([{"type": "text", "text": "[1]"}]), "[1]", ""),  # type: ignore[arg-type]
        ],
    )
    def test_is_no_part_of_the_answer(self, act: Act, text: str, thoughts: str) -> None:
        (reply,), _ = ask(act, thinking=10)
        assert (reply.text, reply.thoughts) == (text, thoughts)

    def test_are_found_in_linear_time(self) -> None:
        text = " " * 200_000 + "[1]"
        (reply,), _ = ask(said(text))
        assert (reply.text, reply.thoughts) == (text, "")

    @pytest.mark.parametrize("act", [said("<think>hm [2]", "length"), said(None, "length", reasoning_content="hm [2]")])
    def test_without_an_end(self, act: Act) -> None:
        with pytest.warns(UserWarning, match="30 tokens .*--thinking-tokens to more than 10") as warned:
            replies, _ = ask(act, thinking=10, count=2)
        assert len(warned) == 1
        assert (replies[0].text, replies[0].thoughts, replies[0].finish) == ("", "hm [2]", "length")


class TestBeginnings:
    """A prompt may end with the beginning of the reply."""

    @pytest.mark.parametrize("owner", ["vllm", "sglang"])
    def test_told_to_go_on(self, owner: str) -> None:
        (reply,), (sent,) = ask(said("1] > [2]"), BEGUN, owner=owner)
        assert sent["messages"][-1] == {"role": "assistant", "content": "["}
        assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
        assert reply.text == "[1] > [2]"

    def test_gone_on_with_untold(self) -> None:
        (reply,), (sent,) = ask(said("[1] > [2]"), BEGUN, owner="llamacpp")
        assert sent["messages"][-1] == {"role": "assistant", "content": "["}
        assert "continue_final_message" not in sent
        assert reply.text == "[1] > [2]"

    def test_dropped(self) -> None:
        (reply,), (sent,) = ask(said("[1] > [2]"), BEGUN)
        assert [message["role"] for message in sent["messages"]] == ["system", "user"]
        assert reply.text == "[1] > [2]"

    def test_plain_text_is_a_turn_of_the_user(self) -> None:
        _, (sent,) = ask(said("[1]"), (Message("text", "Passage: a"),))
        assert sent["messages"] == [{"role": "user", "content": "Passage: a"}]

    @pytest.mark.parametrize("owner", KINDS)
    def test_dropped_where_a_constraint_says_it(self, owner: str) -> None:
        _, (sent,) = ask(said("[3] > [1] > [2]"), BEGUN, THREE, owner=owner)
        assert sent["messages"][-1]["role"] == "user"


class TestPermute:
    def test_words_of_each_kind(self) -> None:
        fields = {}
        for owner in KINDS:
            _, (sent,) = ask(said("[3] > [1] > [2]"), task=THREE, owner=owner)
            fields[owner] = sent
        regex = fields["vllm"]["structured_outputs"]["regex"]
        assert fields["sglang"]["regex"] == regex
        assert re.fullmatch(regex, "[3] > [1] > [2]")
        assert not any(re.fullmatch(regex, text) for text in ("[3] > [1]", "[3] > [1] > [4]", "[3]>[1]>[2]", ""))
        assert fields["llamacpp"]["grammar"] == ('root ::= item (" > " item){2}\nitem ::= "[1]" | "[2]" | "[3]"')
        schema = fields["somebody"]["response_format"]["json_schema"]["schema"]
        order = schema["properties"]["order"]
        assert (order["items"]["enum"], order["minItems"], order["maxItems"]) == (["[1]", "[2]", "[3]"], 3, 3)
        assert (fields["vllm"]["max_tokens"], fields["somebody"]["max_tokens"]) == (20, 60)

    def test_one_alone(self) -> None:
        _, (sent,) = ask(said("[1]"), task=PermutationTask(items=("[1]",), count=1), owner="llamacpp")
        assert sent["grammar"] == 'root ::= item\nitem ::= "[1]"'

    @pytest.mark.parametrize("owner", ["vllm", "sglang", "llamacpp"])
    def test_repeats_are_for_the_parser(self, owner: str) -> None:
        (reply,), _ = ask(said("[1] > [1] > [2]"), task=THREE, owner=owner)
        assert reply.text == "[1] > [1] > [2]"

    @pytest.mark.parametrize(
        ("text", "finish", "chain"),
        [
            ('{"order": ["[3]", "[1]", "[2]"]}', "stop", "[3] > [1] > [2]"),
            ('{\n  "order" : [\n  "[3]",\n "[1]", "[2]"]\n}\n', "stop", "[3] > [1] > [2]"),
            ('{"order": ["[3]", "[1]", "[', "length", "[3] > [1]"),
        ],
    )
    def test_json_becomes_a_chain(self, text: str, finish: str, chain: str) -> None:
        (reply,), _ = ask(said(text, finish), task=THREE)
        assert reply.text == chain

    @pytest.mark.parametrize("owner", KINDS)
    @pytest.mark.parametrize("text", ["The best is [2], then [1].", "[2] > [1]", '{"ranking": [2, 1]}'])
    def test_a_constraint_that_is_ignored_is_given_up_and_said(self, owner: str, text: str) -> None:
        with pytest.warns(UserWarning, match=re.escape(repr(text))) as warned:
            replies, sent = ask(said(text), BEGUN, THREE, owner=owner, count=3)
        assert len(warned) == 1
        assert text in replies[0].text or replies[0].text == ""
        constraints = {"structured_outputs", "regex", "grammar", "response_format"}
        assert [bool(constraints & body.keys()) for body in sent] == [True, False, False]

    def test_a_constraint_that_is_refused_is_given_up_and_said(self) -> None:
        def picky(body: dict[str, Any]) -> Act:
            if "response_format" in body:
                return error(400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported")
            return said("[2] > [1] > [3]")

        with pytest.warns(UserWarning, match="'constraint'"):
            replies, sent = ask([picky], task=THREE, count=2)
        assert [reply.text for reply in replies] == ["[2] > [1] > [3]"] * 2
        assert len(sent) == 3


class TestWeigh:
    LETTERS = ContinuationTask(continuations=("A", "B", "C"))

    def test_likelihoods_of_single_tokens(self) -> None:
        (reply,), (sent,) = ask(weighed(B=-0.5, A=-1.5, X=-3.0), BEGUN, self.LETTERS, owner="vllm")
        assert reply.scores == (-1.5, -0.5, -3.0)  # C is not listed, so it has no more than the least that is
        assert (reply.text, reply.finish) == ("", "stop")
        assert (sent["logprobs"], sent["top_logprobs"], sent["max_tokens"]) == (True, 20, 1)

    def test_llama_cpp_lists_more(self) -> None:
        _, (sent,) = ask(weighed(A=-0.5), BEGUN, self.LETTERS, owner="llamacpp")
        assert sent["top_logprobs"] == 200

    def test_blanks_count_only_where_the_text_itself_is_not_there(self) -> None:
        (reply,), _ = ask(
            weighed(Yes=-0.5, _Yes=-1.0, _No=-2.0, No_=-2.0), task=ContinuationTask(continuations=("Yes", "No"))
        )
        assert reply.scores == pytest.approx((-0.5, math.log(2 * math.exp(-2.0))))

    def test_several_tokens_cannot_be_weighed(self) -> None:
        (reply,), sent = ask(weighed(A=-0.5, B=-2.0), task=ContinuationTask(continuations=("[1]", "[2]")))
        assert (reply.finish, reply.scores, len(sent)) == ("stop", (), 1)
        assert "'[1]'" in reply.error

    @pytest.mark.parametrize("act", [said("A"), raw({"choices": [{"message": {"content": "A"}, "logprobs": None}]})])
    def test_a_server_without_likelihoods(self, act: Act) -> None:
        (reply,), sent = ask(act, task=self.LETTERS)
        assert (reply.finish, reply.scores, len(sent)) == ("stop", (), 1)
        assert "logprobs" in reply.error
        assert "--overwrite" in reply.error

    def test_a_server_that_refuses_likelihoods(self) -> None:
        (reply,), sent = ask(error(400, "logprobs are not supported with reasoning models"), task=self.LETTERS)
        assert (reply.finish, len(sent)) == ("error", 1)

    def test_minus_infinity(self) -> None:
        body = json.loads(weighed(A=-0.5, B=-9999.0).body)
        body["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1]["logprob"] = -math.inf
        (reply,), _ = ask(raw(body), task=self.LETTERS)
        assert reply.scores[0] == -0.5
        assert all(map(math.isfinite, reply.scores))

    def test_a_beginning_that_the_server_would_not_go_on_with(self) -> None:
        with raises(UsageError, "'['", "by=generation"):
            ask(weighed(A=-0.5), BEGUN, self.LETTERS)

    def test_refused(self) -> None:
        (reply,), _ = ask(said("", "content_filter"), task=self.LETTERS)
        assert (reply.finish, reply.scores) == ("refused", ())


def test_tokens_that_a_server_does_not_count_are_estimated() -> None:
    (reply,), _ = ask(raw({"choices": [{"message": {"content": "[2] > [1]"}}]}))
    assert (reply.tokens_in > 10, reply.tokens_out) == (True, 7)


def test_tokens_that_are_counted_apart_do_not_make_a_prompt_cut() -> None:
    body = json.loads(said("x", tokens=3).body)
    body["usage"]["prompt_tokens_details"] = {"cached_tokens": 200}
    (reply,), _ = ask(raw(body), (Message("user", "word " * 200),))
    assert reply.text == "x"
