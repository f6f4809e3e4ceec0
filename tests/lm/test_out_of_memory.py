"""What happens when memory runs out: errors that say so, batches that become smaller, and what is remembered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from rerank.backends.hf import Hf
from rerank.lm import out_of_memory
from rerank.lm.jobs import Job
from rerank.lm.out_of_memory import BatchLimit, is_out_of_memory, run_batches
from rerank.reranker import Reranker
from rerank.tasks import BackendOptions, Reply
from rerank.types import Document
from tests.backends.conftest import in_memory, make_model, make_tokenizer
from tests.lm.prefixed_jobs import make_job, piece

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(CUDA), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB)"), True),
        (RuntimeError("Invalid buffer size: 12.34 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_say_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


class Memory:
    """Runs batches of lengths, of which those with up to ``room`` padded tokens fit, and records the sizes tried."""

    def __init__(self, room: int) -> None:
        self.room, self.limit = room, BatchLimit()
        self.tried: list[tuple[int, bool]] = []

    def run(self, lengths: Sequence[int]) -> list[list[int] | None]:
        def scarce(batch: Sequence[int]) -> list[int]:
            fits = len(batch) * max(batch) <= self.room
            self.tried.append((len(batch), fits))
            if not fits:
                raise torch.OutOfMemoryError(CUDA)
            return list(batch)

        batches = list(run_batches(lengths, scarce, length=int, limit=self.limit, what="numbers"))
        assert [item for batch, _ in batches for item in batch] == list(lengths)
        assert all(found in (None, list(batch)) for batch, found in batches)
        return [found for _, found in batches]

    @property
    def failed(self) -> int:
        return sum(not fits for _, fits in self.tried)


def test_what_fitted_is_remembered() -> None:
    memory = Memory(room=300)
    for _ in range(4):
        memory.run([100] * 16)
    assert [size for size, _ in memory.tried[:9]] == [16, 8, 4, 2, 3, 3, 3, 3, 2]
    assert (len(memory.tried), memory.failed) == (27, 3)  # 60 and 28 when every batch was halved anew


def test_lengths_that_failed_alone_are_not_tried_again() -> None:
    memory = Memory(room=300)
    assert memory.run([350, 310, 100]) == [None, None, [100]]
    failed = memory.failed
    assert memory.run([400, 310, 100, 320]) == [None, None, [100], None]
    assert memory.failed == failed
    assert memory.limit.reason == CUDA


def test_a_shortage_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(out_of_memory, "time", SimpleNamespace(monotonic=lambda: now))
    memory = Memory(room=90)
    assert memory.run([100] * 4) == [None] * 4
    memory.room = 1000
    assert memory.run([100] * 4) == [None] * 4
    now = 601.0
    assert memory.run([100] * 4) == [[100] * 4]


def test_mixed_lengths_fail_a_few_times() -> None:
    """Batches fit by a measure of memory that differs from the limit's: the largest batch that fits is not fixed."""
    memory = Memory(room=700)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        memory.room = int(torch.randint(500, 900, (), generator=generator))
        memory.run(sorted(torch.randint(60, 200, (16,), generator=generator).tolist(), reverse=True))
    assert memory.failed <= 20
    assert len(memory.tried) <= 100 * 8


JOBS = [make_job([piece(1, 30), piece(40 + 9 * n, 60), piece(5, 8)], 1, index=n) for n in range(4)]


def limited(hf: Hf, room: int) -> list[tuple[int, int]]:
    """Make forward passes of more than ``room`` tokens fail, and return the shapes of those that do."""
    failed: list[tuple[int, int]] = []

    def check(_: Any, args: tuple[Any, ...], values: dict[str, Any]) -> None:
        shape = values["input_ids"].shape
        if shape.numel() > room:
            failed.append(tuple(shape))
            raise torch.OutOfMemoryError(CUDA)

    hf.model.register_forward_pre_hook(check, with_kwargs=True)
    return failed


@pytest.mark.parametrize("reuse", [False, True])
def test_batches_are_halved_also_with_cached_prefixes(reuse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = in_memory(make_model(), make_tokenizer(), options=BackendOptions(reuse=reuse))
    expected = hf._run_batch(JOBS)
    sizes: list[int] = []
    run = hf._run

    def record(jobs: list[Job]) -> list[Reply]:
        sizes.append(len(jobs))
        return run(jobs)

    monkeypatch.setattr(hf, "_run", record)
    limited(hf, 150)
    replies = hf._run_batch(JOBS)
    # Prefixes that were cached before make way for the batch before it is halved.
    assert sizes == ([4, 4, 2, 2] if reuse else [4, 2, 1, 1, 1, 1])
    assert [replies[n].scores for n in range(4)] == [pytest.approx(expected[n].scores, abs=1e-4) for n in range(4)]


@pytest.mark.parametrize("reuse", [False, True])
def test_a_request_that_does_not_fit_is_a_failed_reply_with_its_tokens(reuse: bool) -> None:
    hf = in_memory(make_model(), make_tokenizer(), options=BackendOptions(reuse=reuse))
    failed = limited(hf, 40)
    for _ in range(2):
        reply = hf._run_batch(JOBS[:1])[0]
        assert (reply.finish, reply.tokens_in) == ("error", 98)
        assert reply.error == f"Out of memory on one request with a prompt of 98 tokens: {CUDA}"
    assert len(failed) == 1


def test_followers_run_every_part_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    hf = in_memory(make_model(), make_tokenizer(), options=BackendOptions(reuse=False))
    sent, ran = [], []

    def scarce(jobs: list[Job]) -> list[Reply]:
        ran.append([job.index for job in jobs])
        if len(jobs) > 1:
            raise torch.OutOfMemoryError(CUDA)
        return [Reply() for _ in jobs]

    monkeypatch.setattr(hf, "_run", scarce)
    monkeypatch.setattr("rerank.backends.hf.is_split", lambda model: True)
    monkeypatch.setattr("rerank.backends.hf.broadcast_batch", lambda jobs: sent.append([job.index for job in jobs]))
    hf._run_batch(JOBS)
    assert sent == ran == [[0, 1, 2, 3], [0, 1], [0], [1], [2], [3]]


@pytest.mark.model
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("method", ["qlm", "pointwise", pytest.param("pairwise", marks=pytest.mark.full)])
def test_rankings_are_complete_where_memory_is_short(method: str, reuse: bool) -> None:
    """With SmolLM2-135M: a pass of more than 300 tokens fails, and a document of 12 never fits."""
    words = "the bridge of steel over a river carries trains and people in winter when snow falls on its roof"
    texts = [f"{n} {words} and {n} engineers measure its loads in every spring, since iron rusts" for n in range(11)]
    documents = [Document(id=f"d{n}", text=text) for n, text in enumerate([*texts, f"{words} " * 20])]
    backend: Any = (reranker := Reranker.from_pretrained("smollm2-135m", method=method, reuse=reuse)).backend
    passes: list[tuple[int, ...]] = []

    def check(_: Any, args: tuple[Any, ...], values: dict[str, Any]) -> None:
        passes.append(tuple(values["input_ids"].shape))
        if math.prod(passes[-1]) > 300:
            raise torch.OutOfMemoryError(CUDA)

    backend.model.register_forward_pre_hook(check, with_kwargs=True)
    hits = reranker.rank("how long do bridges last", documents)
    assert {hit.document.id for hit in hits} == {document.id for document in documents}
    failed = [shape for shape in passes if math.prod(shape) > 300]
    alone = [shape for shape in failed if shape[0] == 1]
    assert 0 < len(failed) <= 40
    assert len(passes) <= 1500
    assert reuse or len(set(alone)) == len(alone) == 1
