"""Reuse of prompt prefixes by the transformers backend: same scores, counted, given up for memory, switched off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from rerank.backends.hf import Hf
from rerank.lm.jobs import Job
from rerank.tasks import BackendOptions, Reply
from tests.lm.prefixed_jobs import make_job, piece

INSTRUCTION, QUERY = piece(1, 30), piece(2, 8)
PASSAGES = piece(50, 60), piece(60, 90), piece(70, 70)


def job(index: int, first: int, second: int) -> Job:
    return make_job([INSTRUCTION, QUERY, PASSAGES[first], PASSAGES[second], piece(3, 20)], 2, index=index)


JOBS = [job(0, 0, 1), job(1, 1, 0), job(2, 0, 2)]


@pytest.fixture
def make(tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]) -> Callable[..., Hf]:
    def build(window: int | None = None, **options: Any) -> Hf:
        model = tiny_model("Mistral", sliding_window=window)
        return Hf.from_loaded(model, tiny_tokenizer(), options=BackendOptions(**options))

    return build


def run(hf: Hf) -> list[Reply]:
    replies = hf._run_batch(list(JOBS))
    return [replies[index] for index in range(len(JOBS))]


def test_scores_are_those_without_reuse_and_cached_tokens_are_counted(make: Callable[..., Hf]) -> None:
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


def test_deterministic_replies_depend_on_their_request_alone(make: Callable[..., Hf]) -> None:
    hf = make(deterministic=True, batch_size=3)
    assert hf.batch_size == 1
    alone = [hf._run_batch([one])[one.index] for one in JOBS]
    assert [reply.tokens_cached for reply in alone] == [0, 0, 0]
    fresh = make(reuse=False)
    assert [reply.scores for reply in alone] == [fresh._run_batch([one])[one.index].scores for one in reversed(JOBS)][
        ::-1
    ]


def test_cached_prefixes_make_way_for_a_batch_before_it_is_halved(
    make: Callable[..., Hf], monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_model_whose_cache_cannot_be_cropped_runs_without_reuse(make: Callable[..., Hf]) -> None:
    assert [reply.tokens_cached for _ in range(2) for reply in run(make(window=8))] == [0] * 6
