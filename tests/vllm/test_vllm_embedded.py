"""vLLM with the embedded model: whole methods give the orders of the ``hf`` backend; prompts share what they can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rerank.prompts.base import Message
from rerank.reranker import Reranker
from rerank.tasks import ContinuationTask, Request, Sampling

if TYPE_CHECKING:
    from rerank.backends.hf import Hf
    from rerank.backends.vllm import Vllm

pytestmark = pytest.mark.model

#: Tokens that vLLM keeps or forgets together on a CPU.
BLOCK = 128
QUERY = "how do bees make honey"
PASSAGES = [
    "The Great Wall of China was built over many centuries to keep out raiders from the north.",
    "Worker bees collect nectar, carry it to the hive, and fan it with their wings until it thickens into honey.",
    "Honey never spoils: jars found in old tombs were still good to eat after thousands of years.",
    "A bicycle stays upright because its rider steers into each fall, and because of its wheels' spin.",
    "In the hive, enzymes break the sugars of nectar down; the bees then seal the cells with wax.",
    "Beekeepers in cities put their hives on roofs, where the summer is longer and flowers are many.",
]


@pytest.mark.parametrize("method", ["fullrank", "sliding,size=4,stride=2", "first-full", "qlm", "pointwise"])
def test_methods_give_the_orders_of_hf(real_vllm: Vllm, real_hf: Hf, method: str) -> None:
    ours, theirs = (
        [hit.corpus_id for hit in Reranker.from_backend(backend, method=method).rank(QUERY, PASSAGES)]
        for backend in (real_vllm, real_hf)
    )
    assert ours == theirs
    assert sorted(ours) == list(range(len(PASSAGES)))


def test_identifiers_weigh_as_in_hf(real_vllm: Vllm, real_hf: Hf) -> None:
    text = "\n".join(f"[{letter}] {passage}" for letter, passage in zip("ABCDEF", PASSAGES, strict=True))
    asked = [
        Request(
            prompt=(Message("user", f"{text}\nWhich of these answers: {QUERY}?"), Message("assistant", "[")),
            sampling=Sampling(max_tokens=1),
            task=ContinuationTask(continuations=continuations),
        )
        for continuations in (tuple("ABCDEF"), ("A]", "B]", "no idea, really"))
    ]
    for ours, theirs in zip(real_vllm.generate(asked), real_hf.generate(asked), strict=True):
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-3)


def test_prompts_that_begin_alike_are_read_once(real_vllm: Vllm, monkeypatch: pytest.MonkeyPatch) -> None:
    beginning = "\n".join(PASSAGES * 4)
    asked = [
        Request(
            prompt=(Message("user", f"{beginning}\n{question}"),),
            sampling=Sampling(max_tokens=8),
            task=ContinuationTask(continuations=("a first", "a second")),
        )
        for question in ("Which is best?", "Which is worst?")
    ]
    engine, found = real_vllm._stream._engine, dict[int, int]()
    step = engine.step

    def watched() -> Any:
        outputs = step()
        found.update({int(output.request_id): output.num_cached_tokens for output in outputs if output.finished})
        return outputs

    monkeypatch.setattr(engine, "step", watched)
    whole = [reply.scores for reply in real_vllm.generate(asked)]
    shared = real_vllm.tokens.lengths([beginning])[0] // BLOCK * BLOCK
    cached = [found[name] for name in sorted(found)]
    assert cached[0] == 0
    assert all(count >= shared for count in cached[1:])
    for scores, one in zip(whole, asked, strict=True):
        assert real_vllm.generate([one])[0].scores == pytest.approx(scores, abs=1e-4)
