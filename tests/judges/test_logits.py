"""Order from the first identifier's logits: what is asked, and against a plain forward pass."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.errors import ContextOverflowError, UsageError
from rerank.judges import open_judge
from rerank.judges.base import Limits, OversizedWindow, PromptJudge
from rerank.judges.generate import Logits
from rerank.prompts import PromptTemplate, load_prompt
from rerank.tasks import ContinuationTask, GenerationTask, Reply
from rerank.types import Qrels
from tests.judges.scripted import Scripted, always, window
from tests.judging import judge_windows
from tests.raising import raises

LETTERS = load_prompt("listwise_letters")
THREE = window("about snow", "", "about rain")


def judge(backend: Any, template: PromptTemplate = LETTERS) -> Logits:
    return Logits(backend=backend, template=template)


def test_the_order_is_that_of_the_log_probabilities_and_ties_stay_as_given() -> None:
    scripted = Scripted(always(Reply(scores=(-3.0, -0.1, -3.0))), ContinuationTask)
    (verdict,) = judge_windows(judge(scripted), [THREE])
    assert (verdict.order, verdict.status) == ((1, 0, 2), "ok")
    (request,) = scripted.asked
    assert request.task == ContinuationTask(continuations=("A", "B", "C"))
    assert request.prompt[-1].content == "["
    assert "[A] about snow\n[B] \n[C] about rain\n" in request.prompt[-2].content
    assert request.sampling.max_tokens == 1


def test_the_fakes_answer() -> None:
    qrels = Qrels({"q": {"d2": 2, "d1": 1}})
    orders = [judge_windows(judge(Fake(kind, qrels=qrels)), [THREE])[0].order for kind in ("perfect", "reversed")]
    assert orders == [(2, 1, 0), (2, 1, 0)]
    (failed,) = judge_windows(judge(Fake("fail", qrels=qrels)), [THREE])
    assert (failed.order, failed.status) == ((0, 1, 2), "error")


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(scores=(-1.0, math.nan, -2.0)), "empty"),
        (Reply(scores=(-1.0, -2.0)), "empty"),
        (Reply(finish="error", error="gone"), "error"),
        (Reply(finish="refused"), "refused"),
    ],
)
def test_replies_that_say_nothing_keep_the_order(reply: Reply, status: str) -> None:
    (verdict,) = judge_windows(judge(Scripted(always(reply), ContinuationTask)), [THREE])
    assert (verdict.order, verdict.status) == ((0, 1, 2), status)
    assert verdict.detail


def test_a_prompt_without_the_bracket_has_it_weighed() -> None:
    template = PromptTemplate(name="own", prefix="{query}", body="[{rank}] {candidate}")
    (request,) = judge(Scripted(always(Reply()), ContinuationTask), template).make_requests(THREE)
    assert request.task == ContinuationTask(continuations=("[A", "[B", "[C"))


def test_more_candidates_than_identifiers_is_an_error_with_the_remedy() -> None:
    many = window(*map(str, range(26 + 26 * 26 + 1)))
    with raises(UsageError, "703", "702", "--depth") as caught:
        judge_windows(judge(Scripted(always(Reply()), ContinuationTask, context_size=10**6)), [many])
    assert not isinstance(caught.value, ContextOverflowError)


def test_a_backend_that_writes_only_is_refused() -> None:
    with raises(UsageError, "'logits'", "ContinuationTask"):
        judge(Scripted(always(Reply()), GenerationTask))


def test_room_is_kept_for_thoughts_and_the_identifier() -> None:
    scripted = Scripted(always(Reply()), ContinuationTask, context_size=400)
    made = Logits(backend=scripted, template=LETTERS, limits=Limits(thinking_tokens=50, min_passage_tokens=4))
    long = window("word " * 500, "word " * 500)
    (request,) = made.make_requests(long)
    assert request.sampling.thinking == 50
    assert 300 < scripted.tokens.count(request.prompt) <= 400 - 51
    assert isinstance(made.requests(long), list)
    too_long = made.requests(window(*["word " * 500] * 100))
    assert isinstance(too_long, OversizedWindow)
    assert 2 < too_long.capacity < 100


def test_it_equals_the_logits_of_a_plain_pass() -> None:
    """Byte-level tokens, so letters are tokens and pairs are not."""
    torch = pytest.importorskip("torch")
    from rerank.backends.hf import Hf
    from tests.backends.conftest import make_model, make_tokenizer

    model, tokenizer = make_model(max_position_embeddings=2048), make_tokenizer()
    hf = Hf.from_loaded(model, tokenizer)
    made = open_judge("logits", hf, LETTERS)
    assert isinstance(made, PromptJudge)
    windows = [window(*(f"passage {n} of some words" for n in range(count))) for count in (5, 26, 1)]
    for asked, verdict in zip(windows, judge_windows(made, windows), strict=True):
        (request,) = made.make_requests(asked)
        (ids,) = hf.tokens.encode([request.prompt])
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        letters = [tokenizer.convert_tokens_to_ids(chr(ord("A") + at)) for at in range(len(asked))]
        assert verdict.order == tuple(logits[letters].argsort(descending=True, stable=True).tolist())
        assert verdict.status == "ok"
    with raises(UsageError, "27", "26"):
        judge_windows(made, [window(*map(str, range(27)))])


@pytest.mark.model
def test_the_embedded_model_ranks_a_hundred_in_one_pass() -> None:
    from rerank.models import BackendOptions, open_model_backend

    backend = open_model_backend("smollm2-135m", BackendOptions(dtype="float32"))
    made = Logits(backend=backend, template=LETTERS)
    asked = window(*(f"note {n}" for n in range(100)))
    (request,) = made.make_requests(asked)
    (reply,) = backend.generate([request])
    assert len(reply.scores) == 100
    assert sum(map(math.exp, reply.scores)) < 1
    assert (reply.tokens_out, reply.steps) == (0, 0)
    assert sorted(made.verdict(asked, [reply]).order) == list(range(100))
