"""The vLLM backend in process, on tiny random models: its answers are those of the ``hf`` backend."""

from __future__ import annotations

import gc
import json
import random
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.hf import Hf
from rerank.backends.vllm import ENGINE_OPTIONS, Vllm
from rerank.errors import BackendError, MissingResourceError, UsageError
from rerank.judges.base import PromptJudge
from rerank.lm.decoding import decode_continuations
from rerank.models import open_model_backend
from rerank.models.lazy_backend import LazyBackend
from rerank.prompts.base import Message
from rerank.tasks import (
    AsyncBackend,
    AttentionTask,
    Backend,
    BackendOptions,
    ContinuationTask,
    GenerationTask,
    LikelihoodTask,
    LogitTask,
    PermutationTask,
    Reply,
    Request,
    Sampling,
    Task,
)
from tests.backends.conftest import make_model
from tests.raising import raises
from tests.vllm.conftest import OPTIONS, SHAPE

TEXTS = ("b", "a question of some length, so that others are shorter", "a short one", "quite another thing")
ITEMS = tuple(f"[{at}]" for at in range(1, 13))


def request(text: str, task: Task | None = None, *, begun: str = "", **sampling: Any) -> Request:
    prompt = (Message("user", text), *([Message("assistant", begun)] if begun else []))
    return Request(prompt=prompt, sampling=Sampling(**{"max_tokens": 12, **sampling}), task=task or GenerationTask())


def essence(replies: list[Reply]) -> list[tuple[str, str, int, int, str]]:
    return [(r.text, r.thoughts, r.tokens_in, r.tokens_out, r.finish) for r in replies]


def test_it_is_a_backend_that_says_what_it_is(vllm: Vllm, hf: Hf) -> None:
    assert isinstance(vllm, Backend)
    assert dict(vllm.identity) == {**hf.identity, "engine": "vllm"}
    assert vllm.costs_money is False
    assert vllm.batch_size == 1024
    assert vllm.tokens.context_size == 511
    assert isinstance(vllm, AsyncBackend)
    assert vllm.generate([]) == []


def test_an_engine_is_known_before_it_starts(vllm: Vllm, tiny: Path) -> None:
    lazy = open_model_backend(f"vllm:{tiny}", OPTIONS, lazy=True)
    assert isinstance(lazy, LazyBackend)
    assert isinstance(lazy, AsyncBackend)
    known = (dict(lazy.identity), lazy.batch_size, lazy.tasks, lazy.tokens.context_size)
    assert known == (dict(vllm.identity), vllm.batch_size, vllm.tasks, vllm.tokens.context_size)
    assert not lazy.is_loaded
    assert vllm._stream._error is None


def test_texts_are_those_of_hf_in_order_in_any_batch(vllm: Vllm, hf: Hf) -> None:
    asked = [request(text, max_tokens=limit) for text, limit in zip(TEXTS, (3, 12, 30, 1), strict=True)]
    together = vllm.generate(asked)
    assert essence(together) == essence(hf.generate(asked))
    assert essence(together) == essence([vllm.generate([one])[0] for one in asked])
    assert essence(together) == essence(vllm.generate(asked[::-1])[::-1])
    assert all(reply.seconds > 0 and reply.steps == reply.tokens_out - 1 for reply in together)


def test_a_reply_that_the_prompt_begins_contains_its_beginning(vllm: Vllm, hf: Hf) -> None:
    asked = [request("a", begun="ab"), request("a", PermutationTask(items=ITEMS, count=2), begun="[")]
    replies = vllm.generate(asked)
    assert essence(replies) == essence(hf.generate(asked))
    assert replies[0].text.startswith("ab")


@pytest.mark.parametrize("count", [1, 3, 11, 12])
def test_chains_are_those_of_hf_alone_and_among_others(vllm: Vllm, hf: Hf, count: int) -> None:
    chains = [request(text, PermutationTask(items=ITEMS, count=count)) for text in TEXTS]
    mixed = vllm.generate([request("free"), *chains, request("free too", temperature=1.0)])[1:-1]
    expected = hf.generate(chains)
    assert essence(mixed) == essence(expected)
    assert essence([vllm.generate([one])[0] for one in chains]) == essence(expected)
    assert len({reply.text for reply in expected}) > 1


def test_one_identifier_is_no_question(vllm: Vllm) -> None:
    (reply,) = vllm.generate([request("a", PermutationTask(items=("[1]",), count=1))])
    assert (reply.text, reply.steps, reply.finish) == ("[1]", 0, "stop")


def test_a_drawn_chain_is_whole_and_depends_on_the_seed_alone(vllm: Vllm) -> None:
    def drawn(seed: int) -> list[str]:
        task = PermutationTask(items=ITEMS, count=12)
        return [r.text for r in vllm.generate([request(t, task, temperature=2.0, seed=seed) for t in TEXTS])]

    first = drawn(1)
    assert all(sorted(text.split(" > ")) == sorted(ITEMS) for text in first)
    alone = request(TEXTS[1], PermutationTask(items=ITEMS, count=12), temperature=2.0, seed=1)
    assert vllm.generate([alone])[0].text == first[1]
    assert drawn(2) != first


def test_a_temperature_that_vllm_does_not_take(vllm: Vllm) -> None:
    with raises(UsageError, "temperature must be in [0, 2]"):
        vllm.generate([request("a", temperature=3.0)])
    assert vllm.generate([request("a")])[0].finish == "length"


def test_identifiers_that_cannot_be_told_apart_do_no_harm(vllm: Vllm) -> None:
    with pytest.raises(UsageError):
        vllm.generate([request("a", PermutationTask(items=("1", "11"), count=2))])
    assert vllm.generate([request("a")])[0].finish == "length"


def test_likelihoods_are_those_of_hf(vllm: Vllm, hf: Hf) -> None:
    bytes_ = tuple(map(chr, range(33, 127)))
    asked = [
        request("a", ContinuationTask(continuations=("y", "n", "y", ""))),
        request("b", ContinuationTask(continuations=bytes_)),
        request("c", ContinuationTask(continuations=("yes", "no", "y", "", "yes"))),
        request("d", ContinuationTask(continuations=("a single long one",))),
        request("e", ContinuationTask(continuations=())),
        request("f", LikelihoodTask(continuations=("a query that spells out <|im_end|>",))),
        request("g", LogitTask(continuations=("y", "n"))),
        *(request(text, LogitTask(continuations=("!",))) for text in TEXTS),
        request("free", temperature=1.0),
    ]
    replies = vllm.generate(asked)
    for ours, theirs in zip(replies[:-1], hf.generate(asked[:-1]), strict=True):
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-4)
        assert (ours.finish, ours.text) == ("stop", "")
    assert sum(reply.scores[0] for reply in replies[7:11]) != pytest.approx(0, abs=1e-3)
    assert replies[0].scores[3] == replies[2].scores[3] == 0.0


def test_more_tokens_than_vllm_names_at_a_time_are_asked_for_in_parts(
    vllm: Vllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        request("a", ContinuationTask(continuations=("b", "!", "c", "a", "d"))),
        request("b", ContinuationTask(continuations=("!",))),
    ]
    whole = [reply.scores for reply in vllm.generate(asked)]
    monkeypatch.setattr("rerank.backends.vllm.tasks.NAMED", 2)
    for scores, expected in zip([reply.scores for reply in vllm.generate(asked)], whole, strict=True):
        assert scores == pytest.approx(expected, abs=1e-5)


def test_no_end_before_the_least_number_of_tokens(vllm: Vllm, hf: Hf) -> None:
    asked = [request(text, min_tokens=least, max_tokens=20) for text in TEXTS for least in (0, 20)]
    replies = vllm.generate(asked)
    assert essence(replies) == essence(hf.generate(asked))
    assert all(reply.tokens_out == 20 for reply in replies[1::2])


def test_all_ends_that_the_model_names_end_a_reply_count_and_are_no_text(tiny: Path, tmp_path: Path, hf: Hf) -> None:
    (prompt,) = hf.tokens.encode([request("a").prompt])
    (free,) = decode_continuations(hf.model, [prompt], [Sampling(max_tokens=12, min_tokens=12)], [0])
    at = next(at for at in range(2, 12) if free[at] not in free[:at])
    for path in tiny.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, free[at]], "temperature": 0.3}))
    asked = [request("a"), request("a", min_tokens=12), request(TEXTS[1])]
    replies = Vllm.load(tmp_path, OPTIONS).generate(asked)
    assert essence(replies) == essence(Hf.load(tmp_path, OPTIONS).generate(asked))
    assert (replies[0].tokens_out, replies[0].finish) == (at + 1, "stop")
    assert (replies[1].tokens_out, replies[1].finish) == (12, "length")


def test_thoughts_have_their_own_room_and_others_in_the_batch_do_not_think(vllm: Vllm, hf: Hf) -> None:
    pensive = [request(text, thinking=9) for text in TEXTS[:2]]
    chain = request("a", PermutationTask(items=ITEMS, count=2), thinking=5)
    replies = vllm.generate([*pensive, request(TEXTS[2]), chain])
    assert essence([*replies[:2], replies[3]]) == essence(hf.generate([*pensive, chain]))
    assert essence([replies[2]]) == essence(hf.generate([request(TEXTS[2])]))
    assert all(reply.thoughts for reply in replies[:2])


def test_what_does_not_fit_is_an_error_reply_and_the_rest_is_answered(vllm: Vllm) -> None:
    room = 511 - vllm.tokens.count(request("").prompt)
    long, short, cut, full, over = vllm.generate(
        [
            request("x" * 600),
            request("a"),
            request("x" * (room - 4), min_tokens=12),
            request("x" * room, ContinuationTask(continuations=("a",)), max_tokens=0),
            request("x" * room, ContinuationTask(continuations=("abcd", "b")), max_tokens=0),
        ]
    )
    assert long.finish == "error"
    assert f"{long.tokens_in} tokens" in long.error
    assert "511" in long.error
    assert short.finish == "length"
    assert (cut.tokens_out, cut.finish) == (4, "length")
    assert len(full.scores) == 1
    assert (over.finish, over.scores) == ("error", ())
    assert over.error


def test_a_chain_that_the_context_cuts_keeps_what_is_written(vllm: Vllm) -> None:
    room = 511 - vllm.tokens.count(request("").prompt)
    (reply,) = vllm.generate([request("x" * (room - 20), PermutationTask(items=ITEMS, count=12))])
    assert reply.finish == "length"
    assert 1 <= len(reply.text.split(" > ")) < 12


def test_attention_is_refused_with_the_backend_that_has_it(vllm: Vllm) -> None:
    class Looking(PromptJudge):
        needs = (AttentionTask,)
        make_requests = verdict = lambda *_: []  # type: ignore[assignment]

    with raises(UsageError, "vllm", "--model hf:NAME"):
        Looking(backend=vllm, template=None)  # type: ignore[arg-type]


def test_starting_leaves_the_process_as_it_was(tiny: Path) -> None:
    import torch

    loaded = import_module("llvmlite.binding.ffi")  # as in a process that has used bm25s; vLLM stumbles over it
    random.seed(5)
    torch.manual_seed(5)
    expected, expected_there = random.random(), torch.rand(1)
    set_threads = torch.set_num_threads
    random.seed(5)
    torch.manual_seed(5)
    Vllm.load(tiny, OPTIONS)
    assert (random.random(), torch.rand(1)) == (expected, expected_there)
    assert torch.set_num_threads is set_threads
    assert sys.modules["llvmlite.binding.ffi"] is loaded


def test_another_model_takes_the_place_of_the_one_before(tiny: Path, vllm: Vllm) -> None:
    expected = essence(vllm.generate([request("a")]))
    former, latter = Vllm.load(tiny, OPTIONS), Vllm.load(tiny, OPTIONS)
    with raises(BackendError, "VLLM_ENABLE_V1_MULTIPROCESSING=1"):
        former.generate([request("a")])
    del former
    gc.collect()
    assert essence(latter.generate([request("a")])) == expected


def test_an_adapter_answers_as_in_hf(tiny: Path, tmp_path: Path, vllm: Vllm) -> None:
    options = BackendOptions(dtype="float32", adapter=str(_adapter(tmp_path)))
    asked = [request(text, PermutationTask(items=ITEMS, count=5)) for text in TEXTS] + [request(text) for text in TEXTS]
    plain = essence(vllm.generate(asked))
    ours, theirs = Vllm.load(tiny, options), Hf.load(tiny, options)
    weighed = [request(text, ContinuationTask(continuations=("a", "b"))) for text in TEXTS]
    assert essence(ours.generate(asked)) == essence(theirs.generate(asked)) != plain
    for one, other in zip(ours.generate(weighed), theirs.generate(weighed), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
    assert ours.identity["adapter"] == theirs.identity["adapter"]


def _adapter(folder: Path, **settings: Any) -> Path:
    """A LoRA adapter with random weights for the tiny model."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config: Any = {"r": 4, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj", "down_proj"], **settings}
    get_peft_model(make_model(**SHAPE), LoraConfig(**config, init_lora_weights=False)).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    ("settings", "said"), [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "modules_to_save")]
)
def test_an_adapter_that_would_end_the_engine_is_refused(
    tiny: Path, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with raises(UsageError, said):
        Vllm.load(tiny, BackendOptions(adapter=str(_adapter(tmp_path, **settings))))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "bfloat16"}, "float32"),
        ({"device": "cuda"}, "cpu"),
        ({"context_size": 1024}, "512"),
        ({"device_map": "balanced"}, "tp"),
    ],
)
def test_options_that_do_not_fit(tiny: Path, options: dict[str, Any], said: str) -> None:
    with raises(UsageError, said):
        Vllm.load(tiny, BackendOptions(**options))


def test_models_and_adapters_that_are_not_there(tiny: Path, tmp_path: Path) -> None:
    with raises(MissingResourceError, tmp_path):
        Vllm.load(tmp_path, OPTIONS)
    with raises(MissingResourceError, "adapter_config"):
        Vllm.load(tiny, BackendOptions(adapter=str(tmp_path)))


def test_a_model_that_vllm_does_not_start_with(tiny: Path, tmp_path: Path) -> None:
    for path in tiny.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with raises(BackendError, tmp_path):
        Vllm.load(tmp_path, OPTIONS)


def test_a_smaller_context_and_batch_are_kept(tiny: Path) -> None:
    backend = Vllm.load(tiny, BackendOptions(context_size=100, batch_size=7))
    assert (backend.tokens.context_size, backend.batch_size) == (100, 7)
    assert backend.generate([request("x" * 100)])[0].finish == "error"


def test_a_context_for_the_requests_of_a_run(tiny: Path) -> None:
    lazy = open_model_backend(f"vllm:{tiny}", OPTIONS, lazy=True)
    assert isinstance(lazy, LazyBackend)
    lazy.expect_requests(lambda: 200)
    short, long = lazy.generate([request("a"), request("x" * 300)])
    assert lazy.warm_up()._stream.max_model_len == 256  # type: ignore[attr-defined]
    assert lazy.tokens.context_size == 511
    assert short.finish == "length"
    assert long.finish == "error"
    assert "255 tokens" in long.error
    assert "max_model_len" in long.error
    lazy.expect_requests(lambda: pytest.fail("the engine has started"))


def test_options_reach_the_engine(tiny: Path) -> None:
    backend = Vllm.load(
        tiny, OPTIONS.model_copy(update={"vllm_options": "max_num_seqs=3,max_num_batched_tokens=640,max_model_len=99"})
    )
    scheduler = backend._stream._engine.vllm_config.scheduler_config
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (3, 640)
    assert (backend._stream.max_model_len, backend.tokens.context_size) == (99, 511)
    assert not ENGINE_OPTIONS.keys() & backend.identity.keys()


@pytest.mark.parametrize("data", [{}, {"script": []}, {"first": [[1]], "later": 3, "count": 1, "end": 0}])
def test_the_processor_refuses_what_it_cannot_read_before_the_engine_does(vllm: Vllm, data: dict[str, Any]) -> None:
    from vllm import SamplingParams

    from rerank.backends.vllm.grammar import KEY

    llm = vllm._stream._llm
    with raises(Exception, "extra_args"):
        llm.generate([{"prompt_token_ids": [1, 2]}], SamplingParams(extra_args={KEY: data}), use_tqdm=False)
    assert vllm.generate([request("a")])[0].finish == "length"
