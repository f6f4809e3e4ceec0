"""The contract of backends, checked for every backend of this package."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import pickle
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest

from rerank import Reranker
from rerank.backends import BACKENDS
from rerank.backends.fake import KINDS, Fake, FakeServer
from rerank.backends.replay import Replay
from rerank.prompts.base import Message
from rerank.store import NoLog, log_calls
from rerank.tasks import AsyncBackend, Backend, GenerationTask, Reply, Request, Sampling
from rerank.tasks.backends import traits
from rerank.types import Document, Qrels, Query, Window


class _Call:
    """A record for the replaying backend."""

    def __init__(self, request: Request) -> None:
        self.query_id = request.window.query.id
        self.doc_ids = tuple(doc.id for doc in request.window.docs)
        self.seed = request.sampling.seed
        self.reply = Reply(text=f"[{len(self.doc_ids)}]")


def requests() -> list[Request]:
    """Several windows; the last two do not differ."""
    made = []
    for count in (3, 1, 2, 2):
        docs = tuple(Document(id=f"d{at}", text=f"passage {at}") for at in range(count))
        prompt = (Message("system", "You rank."), Message("user", f"Rank these {count}."))
        window = Window(Query(id="q", text="a question"), docs)
        made.append(Request(prompt=prompt, sampling=Sampling(max_tokens=6), window=window))
    return made


def _hf() -> Backend:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tests.backends.conftest import in_memory

    raw = Tokenizer(models.BPE(vocab={x: at for at, x in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        eos_token_id=256,
    )
    return in_memory(LlamaForCausalLM(config), tokenizer)


def _openai() -> Backend:
    import httpx2

    from rerank.backends.base.addresses import Address
    from rerank.backends.openai import Openai

    async def stream(body: object) -> AsyncIterator[bytes]:
        yield json.dumps(body).encode()

    def answer(asked: httpx2.Request) -> httpx2.Response:
        if asked.method == "GET":
            return httpx2.Response(200, content=stream({"data": [{"id": "m", "max_model_len": 4096}]}))
        last = json.loads(asked.content)["messages"][-1]["content"]
        body = {"choices": [{"message": {"content": last}}], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}
        return httpx2.Response(200, content=stream(body))

    return Openai("m", Address.parse("http://localhost/v1"), transport=httpx2.MockTransport(answer))


def _cross_encoder() -> Backend:
    pytest.importorskip("sentence_transformers")
    from tests.backends.pairs import save

    backend: Backend = BACKENDS.get("cross_encoder").load(save(Path(tempfile.mkdtemp())))
    return backend


def _vlm() -> Backend:
    pytest.importorskip("transformers")
    pytest.importorskip("PIL")
    from tests.backends.seeing import make_llava

    backend: Backend = BACKENDS.get("vlm").load(make_llava(Path(tempfile.mkdtemp())))
    return backend


def _encoder_decoder(name: str) -> Backend:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.backends.test_encoder_decoder import make_backend

    backend: Backend = make_backend(BACKENDS.get(name))
    return backend


MAKERS: dict[str, Callable[[], Backend]] = {
    **{f"fake:{kind}": partial(Fake, kind, qrels=Qrels({"q": {"d1": 1}})) for kind in KINDS},
    "replay": lambda: Replay(map(_Call, requests())),
    "hf": _hf,
    "openai": _openai,
    "cross_encoder": _cross_encoder,
    "vlm": _vlm,
    "fake_server": lambda: FakeServer("perfect", qrels=Qrels({"q": {"d1": 1}})),
    "fusion": partial(_encoder_decoder, "fusion"),
    "seq2seq": partial(_encoder_decoder, "seq2seq"),
}


def add_own_makers() -> None:
    """Add the backends whose test module has a function ``make_backend``."""
    for name in sorted({*BACKENDS.names()} - {maker.partition(":")[0] for maker in MAKERS}):
        spec = importlib.util.find_spec(f"tests.backends.test_{name}")
        if spec and spec.origin and "\ndef make_backend(" in Path(spec.origin).read_text(encoding="utf-8"):
            MAKERS[name] = partial(_own, spec.name)


def _own(module: str) -> Backend:
    make = getattr(importlib.import_module(module), "make_backend", None)
    if make is None:  # it was left out after its first lines, for lack of a package
        pytest.skip(f"{module} was left out")
    backend: Backend = make()
    return backend


add_own_makers()


@pytest.fixture(params=MAKERS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return MAKERS[request.param]()


def test_every_backend_has_a_maker() -> None:
    elsewhere = {"vllm"}  # in an environment of its own: tests/vllm
    built_in = set(BACKENDS._built_in())
    missing = built_in - elsewhere - {name.partition(":")[0] for name in MAKERS}
    assert not missing, f"no function make_backend in tests/backends/test_NAME.py for {sorted(missing)}"


def test_it_is_a_backend(backend: Backend) -> None:
    assert isinstance(backend, Backend)
    assert backend.batch_size >= 1
    assert isinstance(backend.costs_money, bool)


def test_identity_is_text_and_stays(backend: Backend) -> None:
    before = dict(backend.identity)
    assert before["model"]
    assert all(isinstance(part, str) for pair in before.items() for part in pair)
    digests = [request.digest(backend.identity) for request in requests()]
    backend.generate(requests())
    assert dict(backend.identity) == before
    assert [request.digest(backend.identity) for request in requests()] == digests
    assert len(set(digests)) == 3


def test_nothing_in_nothing_out(backend: Backend) -> None:
    assert backend.generate([]) == []


def test_one_reply_a_request_in_order_and_the_same_again(backend: Backend) -> None:
    first = backend.generate(requests())
    assert len(first) == 4
    turned = backend.generate(requests()[::-1])[::-1]
    again = backend.generate(requests())
    for replies in (turned, again):
        assert [(r.text, r.finish, r.tokens_in, r.tokens_out) for r in replies] == [
            (r.text, r.finish, r.tokens_in, r.tokens_out) for r in first
        ]
    assert first[2].text == first[3].text


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"hf", "openai"}))  # these are made in memory here
def test_another_process_gets_the_same_replies(name: str) -> None:
    backend = MAKERS[name]()
    copy = pickle.loads(pickle.dumps(backend))
    assert dict(copy.identity) == dict(backend.identity)
    there, here = ([replace(reply, seconds=0.0) for reply in b.generate(requests())] for b in (copy, backend))
    assert there == here


def test_failed_replies_say_why_and_others_do_not(backend: Backend) -> None:
    for reply in backend.generate(requests()):
        assert bool(reply.error) == (reply.finish == "error")
        assert reply.seconds >= 0


def test_it_counts_tokens(backend: Backend) -> None:
    tokens = backend.tokens
    assert tokens.context_size > 0
    assert tokens.count(requests()[0].prompt) > 0
    one, two, none = tokens.lengths(["passage", "passage and more", ""])
    assert 0 == none < one < two
    cut = tokens.cut("passage and more", one)
    assert "passage and more".startswith(cut)
    assert tokens.lengths([cut])[0] <= one


def test_network_backends_take_requests_one_by_one_and_go_on_after_they_are_closed(backend: Backend) -> None:
    if not isinstance(backend, AsyncBackend):
        assert not hasattr(backend, "agenerate")
        return

    async def together() -> list[Reply]:
        return await asyncio.gather(*map(backend.agenerate, requests()))

    texts = [(reply.text, reply.finish, reply.tokens_in) for reply in backend.generate(requests())]
    backend.close()
    backend.close()
    assert [(reply.text, reply.finish, reply.tokens_in) for reply in asyncio.run(together())] == texts
    asyncio.run(backend.aclose())
    assert backend.generate(requests())[0].text == texts[0][0]


def test_the_local_backend_needs_its_extra_only_when_loaded() -> None:
    assert importlib.util.find_spec("rerank.backends.hf") is not None
    assert BACKENDS.get("hf").costs_money is False


def test_a_plug_in_without_the_base_class_has_the_defaults() -> None:
    class Plain:
        identity, batch_size, costs_money, sees_pictures = MappingProxyType({"model": "plain"}), 1, False, True
        tokens = Fake("reversed").tokens

        def generate(self, requests: Sequence[Request]) -> list[Reply]:
            return [Reply(text="[1]")] * len(requests)

    for plain in (Plain, Plain()):
        assert traits(plain).tasks == {GenerationTask}
        assert (traits(plain).sees_pictures, traits(plain).takes_verbatim) == (True, True)
    assert cast(Any, traits(Fake)) is Fake
    traits(Plain()).warm_up()
    traits(Plain()).close()
    logged = log_calls(Plain(), NoLog())
    assert (dict(logged.identity), logged.batch_size, logged.batch_characters) == ({"model": "plain"}, 1, None)
    assert [reply.text for reply in logged.generate(requests())] == ["[1]"] * 4
    assert Reranker.from_backend(Plain()).rank("query", ["a", "b"])[0].corpus_id == 0
