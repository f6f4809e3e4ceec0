"""The transformers backend on tiny random models: order, batches, limits, chance, memory, failures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from rerank.backends.hf import Hf
from rerank.errors import BackendError, UsageError
from rerank.lm.decoding import decode_continuations
from rerank.lm.jobs import Job
from rerank.prompts.base import Message
from rerank.reranker import Reranker
from rerank.tasks import BackendOptions, Reply, Request, Sampling
from tests.backends.conftest import in_memory, make_model, make_tokenizer
from tests.lm.prefixed_jobs import make_job, piece

TEXTS = ("b", "a question of some length, so that others are padded", "a short one", "quite another thing")


def request(text: str, **sampling: Any) -> Request:
    return Request(prompt=(Message("user", text),), sampling=Sampling(**{"max_tokens": 12, **sampling}))


@pytest.fixture
def hf() -> Hf:
    return in_memory(make_model(), make_tokenizer(), options=BackendOptions(batch_size=3))


def essence(replies: list[Reply]) -> list[tuple[str, int, int, str]]:
    return [(r.text, r.tokens_in, r.tokens_out, r.finish) for r in replies]


def test_nothing_asked_nothing_answered(hf: Hf) -> None:
    assert hf.generate([]) == []


def test_replies_come_in_order_and_padding_neither_counts_nor_matters(hf: Hf) -> None:
    together = hf.generate([request(text) for text in TEXTS])
    alone = [hf.generate([request(text)])[0] for text in TEXTS]
    assert essence(together) == essence(alone)
    assert len({reply.text for reply in together}) == len(TEXTS)
    assert [r.tokens_in for r in together] == [hf.tokens.count(request(text).prompt) for text in TEXTS]
    assert all(reply.seconds > 0 for reply in together)


def test_each_request_has_its_own_limit(hf: Hf) -> None:
    replies = hf.generate([request("a", max_tokens=limit, min_tokens=limit) for limit in (1, 5, 9)])
    assert [(r.tokens_out, r.finish) for r in replies] == [(1, "length"), (5, "length"), (9, "length")]


def test_a_reply_ends_at_the_end_token_which_counts_but_is_not_text() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    hf = in_memory(model, tokenizer)
    (prompt,) = hf.tokens.encode([request("a").prompt])
    (free,) = decode_continuations(model, [prompt], [Sampling(max_tokens=12, min_tokens=12)], [0])
    at = next(at for at in range(2, 12) if free[at] not in free[:at])
    model.generation_config.eos_token_id = [257, free[at]]
    (ended,) = hf.generate([request("a")])
    assert (ended.finish, ended.tokens_out) == ("stop", at + 1)
    assert ended.text == tokenizer.decode(free[:at])
    (longer,) = hf.generate([request("a", min_tokens=12)])
    assert (longer.finish, longer.tokens_out) == ("length", 12)


def test_a_model_without_an_end_token_runs_to_its_limit() -> None:
    model = make_model(eos_token_id=None)
    model.generation_config.eos_token_id = None
    replies = in_memory(model, make_tokenizer()).generate([request("a", max_tokens=4), request("bcd")])
    assert [(r.tokens_out, r.finish) for r in replies] == [(4, "length"), (12, "length")]


def test_sampling_depends_on_the_seed_and_not_on_the_batch(hf: Hf) -> None:
    def asked(seed: int) -> list[Request]:
        return [request(text, temperature=1.5, top_p=0.95, seed=seed) for text in TEXTS]

    first = essence(hf.generate(asked(1)))
    assert essence(hf.generate(asked(1))) == first
    assert essence([hf.generate([one])[0] for one in asked(1)]) == first
    assert essence(hf.generate(asked(2))) != first
    mixed = hf.generate([asked(1)[0], request(TEXTS[1])])
    assert essence(mixed) == [first[0], *essence(hf.generate([request(TEXTS[1])]))]


def test_sampling_draws_from_the_models_distribution(hf: Hf) -> None:
    """The Gumbel-max trick: frequencies of 2,000 draws against softmax probabilities."""
    import torch

    from rerank.lm.decoding import _SamplingProcessor

    scores = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    rows = _SamplingProcessor([Sampling(max_tokens=1, temperature=1.0)], [5], [], 0)
    nucleus = _SamplingProcessor([Sampling(max_tokens=1, temperature=1.0, top_p=0.7)], [5], [], 0)
    ids = torch.zeros((1, 0), dtype=torch.long)
    draws = torch.tensor([rows(ids, scores).argmax() for _ in range(2000)])
    assert torch.allclose(draws.bincount(minlength=4) / 2000, scores.exp()[0], atol=0.04)
    assert {int(nucleus(ids, scores).argmax()) for _ in range(300)} == {0, 1}


def test_the_models_own_decoding_defaults_stay_out_and_are_given_back() -> None:
    model = make_model()
    plain = essence(in_memory(model, make_tokenizer()).generate([request("a", min_tokens=12)]))
    model.generation_config.update(repetition_penalty=5.0, do_sample=True, temperature=0.6)
    kept = model.generation_config
    assert essence(in_memory(model, make_tokenizer()).generate([request("a", min_tokens=12)])) == plain
    assert model.generation_config is kept
    assert model.config._attn_implementation == "sdpa"


def test_a_prompt_past_the_context_is_an_error_reply_and_the_rest_is_answered(hf: Hf) -> None:
    long, short = hf.generate([request("x" * 600), request("a")])
    assert long.finish == "error"
    assert f"{long.tokens_in} tokens" in long.error
    assert "512" in long.error
    assert short.finish != "error"


def test_new_tokens_stop_where_the_context_ends(hf: Hf) -> None:
    room = 512 - hf.tokens.count(request("").prompt)
    reply = hf.generate([request("x" * (room - 4), min_tokens=12)])[0]
    assert (reply.tokens_out, reply.finish) == (4, "length")


@pytest.mark.parametrize(
    "trouble", ["[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "CUDA out of memory. Tried", ""]
)
def test_batches_are_halved_until_they_fit(hf: Hf, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    expected = essence(hf.generate([request(text) for text in TEXTS[:3]]))
    sizes: list[int] = []
    do = hf._run

    def tight(jobs: list[Any]) -> list[Reply]:
        sizes.append(len(jobs))
        if len(jobs) > 1:
            raise RuntimeError(trouble) if trouble else MemoryError
        return do(jobs)

    monkeypatch.setattr(hf, "_run", tight)
    assert essence(hf.generate([request(text) for text in TEXTS[:3]])) == expected
    assert sizes == [3, 1, 2, 1, 1]


def test_what_does_not_fit_alone_is_an_error_reply(hf: Hf, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    do = hf._run

    def tight(jobs: list[Any]) -> list[Reply]:
        if any(len(job.prompt) > 80 for job in jobs):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return do(jobs)

    monkeypatch.setattr(hf, "_run", tight)
    large, small = hf.generate([request("x" * 70), request("a")])
    assert (large.finish, large.text) == ("error", "")
    assert "Out of memory" in large.error
    assert small.finish != "error"


def test_another_failure_is_a_backend_error(hf: Hf, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(jobs: list[Any]) -> list[Reply]:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(hf, "_run", broken)
    with pytest.raises(BackendError, match="device-side assert"):
        hf.generate([request("a")])


def test_the_context_must_be_stated_somewhere() -> None:
    silent = SimpleNamespace(config=SimpleNamespace(), device=SimpleNamespace(type="cpu"))
    with pytest.raises(UsageError, match="--context-size"):
        Hf(silent, make_tokenizer(), identity={"model": "silent"})
    given = Hf(silent, make_tokenizer(), identity={}, options=BackendOptions(context_size=100))
    assert given.tokens.context_size == 100
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 77
    assert in_memory(make_model(), tokenizer).tokens.context_size == 77


def test_properties(hf: Hf) -> None:
    assert dict(hf.identity) == {"model": "in-memory", "dtype": "float32"}
    assert hf.batch_size == 3
    assert hf.costs_money is False


@pytest.mark.model
def test_the_embedded_model_answers() -> None:
    from rerank.models import open_model_backend

    backend = open_model_backend("smollm2-135m", BackendOptions(dtype="float32"))
    prompt = (Message("user", "What is the capital of France? Answer in one sentence."),)
    reply = backend.generate([Request(prompt=prompt, sampling=Sampling(max_tokens=12))])[0]
    assert "Paris" in reply.text
    assert backend.tokens.context_size == 8192


def test_threads_that_share_a_model_take_turns() -> None:
    """Tasks change the model while they run: how it attends, its last matrix, its settings."""
    hf = in_memory(make_model(max_position_embeddings=1024), make_tokenizer())
    documents = [f"passage {at} about nothing much" for at in range(4)]
    rerankers = [Reranker.from_backend(hf, method=name) for name in ("fullrank", "icr", "pointwise")]
    alone = [[hit.corpus_id for hit in one.rank("what?", documents)] for one in rerankers]
    with ThreadPoolExecutor(6) as threads:
        together = [threads.submit(one.rank, "what?", documents) for one in rerankers * 4]
        assert [[hit.corpus_id for hit in found.result()] for found in together] == alone * 4


INSTRUCTION, QUERY = piece(1, 30), piece(2, 8)
PASSAGES = piece(50, 60), piece(60, 90), piece(70, 70)


def job(index: int, first: int, second: int) -> Job:
    return make_job([INSTRUCTION, QUERY, PASSAGES[first], PASSAGES[second], piece(3, 20)], 2, index=index)


JOBS = [job(0, 0, 1), job(1, 1, 0), job(2, 0, 2)]


def make(window: int | None = None, **options: Any) -> Hf:
    model = make_model("Mistral", sliding_window=window)
    return in_memory(model, make_tokenizer(), options=BackendOptions(**options))


def run(hf: Hf) -> list[Reply]:
    replies = hf._run_batch(list(JOBS))
    return [replies[index] for index in range(len(JOBS))]


def test_scores_are_those_without_reuse_and_cached_tokens_are_counted() -> None:
    hf, plain = make(), make(reuse=False)
    expected = run(plain)
    first, again = run(hf), run(hf)
    for replies in (first, again):
        for reply, wanted in zip(replies, expected, strict=True):
            assert reply.scores == pytest.approx(wanted.scores, abs=1e-4)
            assert reply.tokens_in == wanted.tokens_in
    assert [reply.scores for reply in first] == [reply.scores for reply in again]
    assert [reply.tokens_cached for reply in first] == [0, 38, 98]
    assert [reply.tokens_cached for reply in again] == [98, 128, 98]
    assert [reply.tokens_cached for reply in expected] == [0, 0, 0]


def test_deterministic_replies_depend_on_their_request_alone() -> None:
    hf = make(deterministic=True, batch_size=3)
    assert hf.batch_size == 1
    alone = [hf._run_batch([one])[one.index] for one in JOBS]
    assert [reply.tokens_cached for reply in alone] == [0, 0, 0]
    fresh = make(reuse=False)
    assert [reply.scores for reply in alone] == [fresh._run_batch([one])[one.index].scores for one in reversed(JOBS)][
        ::-1
    ]


def test_cached_prefixes_make_way_for_a_batch_before_it_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The halves would be other batches, whose scores differ in the last bits."""
    hf = make()
    expected = run(hf)
    calls: list[int] = []
    work = hf._run

    def fill_memory(jobs: list[Any]) -> list[Reply]:
        calls.append(len(jobs))
        if len(calls) == 1:
            raise MemoryError
        return work(jobs)

    monkeypatch.setattr(hf, "_run", fill_memory)
    assert [reply.scores for reply in run(hf)] == [reply.scores for reply in expected]
    assert calls == [3, 3]


def test_a_model_whose_cache_cannot_be_cropped_runs_without_reuse() -> None:
    assert [reply.tokens_cached for _ in range(2) for reply in run(make(window=8))] == [0] * 6
