"""The best of a few: by likelihood, by generation, and what becomes of bad replies."""

from __future__ import annotations

from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.errors import UnknownNameError, UsageError
from rerank.judges import open_judge
from rerank.judges.base import Limits
from rerank.judges.generate import SPARE_TOKENS, Pick
from rerank.prompts import load_prompt
from rerank.tasks import ContinuationTask, GenerationTask, PermutationTask, Reply, Sampling
from rerank.types import Qrels
from tests.judges.scripted import Scripted, always, window
from tests.judging import judge_windows
from tests.raising import raises

PICK = load_prompt("pick")
THREE = window("about snow", "about rain", "about hail")


def judge(backend: Any, by: str = "likelihood") -> Pick:
    made = open_judge(f"pick,by={by}", backend, PICK)
    assert isinstance(made, Pick)
    return made


def test_likelihood_orders_the_whole_window() -> None:
    scripted = Scripted(always(Reply(scores=(-2.0, -3.0, -1.0))), ContinuationTask)
    (verdict,) = judge_windows(judge(scripted), [THREE])
    assert (verdict.order, verdict.status) == ((2, 0, 1), "ok")
    assert scripted.asked[0].task == ContinuationTask(continuations=("A", "B", "C"))


def test_generation_writes_one_identifier_where_it_can_be_constrained() -> None:
    scripted = Scripted(always(Reply(text="[C]")), PermutationTask, GenerationTask)
    (verdict,) = judge_windows(judge(scripted, "generation"), [THREE])
    assert (verdict.order, verdict.status, verdict.detail) == ((2, 0, 1), "ok", "")
    (request,) = scripted.asked
    assert request.task == PermutationTask(items=("[A]", "[B]", "[C]"), count=1)
    assert request.sampling.max_tokens == scripted.tokens.lengths(["[A]"])[0] + SPARE_TOKENS


def test_the_prompt_leaves_exactly_the_completion_and_thinking_tokens() -> None:
    scripted = Scripted(always(Reply(text="[A]")), GenerationTask, context_size=400)
    made = Pick(backend=scripted, template=PICK, limits=Limits(thinking_tokens=50), by="generation")
    (request,) = made.make_requests(window("word " * 500))
    reply_tokens = scripted.tokens.lengths(["[A]"])[0] + SPARE_TOKENS
    assert request.sampling == Sampling(max_tokens=reply_tokens, temperature=0.0, seed=0, thinking=50)
    assert scripted.tokens.count(request.prompt) == 400 - reply_tokens - 50


@pytest.mark.parametrize(
    ("text", "order", "status"),
    [
        ("[B]", (1, 0, 2), "ok"),
        ("[B", (1, 0, 2), "ok"),
        ("[C] > [B] > [A]", (2, 0, 1), "ok"),
        ("The best is passage [C].", (2, 0, 1), "repaired"),
        ("Passage B", (1, 0, 2), "repaired"),
        ("C", (2, 0, 1), "ok"),
        ("[B > C", (0, 1, 2), "empty"),
        ("[Z]", (0, 1, 2), "empty"),
        ("", (0, 1, 2), "empty"),
        ("I cannot answer that.", (0, 1, 2), "refused"),
    ],
)
def test_generation_without_constraint_is_read(text: str, order: tuple[int, ...], status: str) -> None:
    scripted = Scripted(always(Reply(text=text)), GenerationTask)
    (verdict,) = judge_windows(judge(scripted, "generation"), [THREE])
    assert (verdict.order, verdict.status) == (order, status)
    assert scripted.asked[0].task == GenerationTask()


@pytest.mark.parametrize(
    ("text", "order", "status"),
    [
        ("<think>\n[1] is about snow.</think>\n<answer>[3]</answer>", (2, 0, 1), "ok"),
        ("<think>[1] or [2]?</think> <answer>the best is [2]</answer>", (1, 0, 2), "repaired"),
        ("<answer>[3", (0, 1, 2), "empty"),  # may have been the beginning of [30]
        ("<think>[3] is", (0, 1, 2), "empty"),
        ("<think></think><answer>[9]</answer>", (0, 1, 2), "empty"),
    ],
)
def test_numbers_in_tags_are_read_as_rank_r1_writes_them(text: str, order: tuple[int, ...], status: str) -> None:
    scripted = Scripted(always(Reply(text=text, finish="length")), PermutationTask, GenerationTask)
    made = open_judge("pick,by=generation,constrain=false,identifiers=numbers", scripted, load_prompt("rank_r1"))
    (verdict,) = judge_windows(made, [THREE])
    assert (verdict.order, verdict.status) == (order, status)
    assert scripted.asked[0].task == GenerationTask()
    assert "\n[3] about hail\n" in scripted.asked[0].prompt[-1].content


@pytest.mark.parametrize("by", ["likelihood", "generation"])
def test_a_reply_that_never_came_keeps_the_order(by: str) -> None:
    scripted = Scripted(always(Reply(finish="error", error="[B] is gone")), ContinuationTask, PermutationTask)
    (verdict,) = judge_windows(judge(scripted, by), [THREE])
    assert (verdict.order, verdict.status, verdict.detail) == ((0, 1, 2), "error", "[B] is gone")


@pytest.mark.parametrize("by", ["likelihood", "generation"])
def test_the_fakes_answer(by: str) -> None:
    perfect = Fake("perfect", qrels=Qrels({"q": {"d1": 1}}))
    assert judge_windows(judge(perfect, by), [THREE])[0].order == (1, 0, 2)


@pytest.mark.parametrize(
    ("by", "task", "other"), [("likelihood", GenerationTask, "generation"), ("generation", ContinuationTask, "likeli")]
)
def test_a_backend_that_cannot_is_refused_with_the_way_that_it_can(by: str, task: type[Any], other: str) -> None:
    with raises(UsageError, f"by={by}", "'scripted'", f"by={other}"):
        judge(Scripted(always(Reply()), task), by)


def test_options_are_checked() -> None:
    with raises(UsageError, "likelihood, generation"):
        open_judge("pick,by=luck", Fake("perfect"), PICK)
    with raises(UsageError, "identifiers=numbers", "by=generation"):
        open_judge("pick,identifiers=numbers", Fake("perfect"), PICK)
    with raises(UnknownNameError, "'pick'", "'bye'", "'by'"):
        open_judge("pick,bye=generation", Fake("perfect"), PICK)


def test_the_wording_is_that_of_the_number() -> None:
    pair, three = (judge(Fake("perfect")).make_requests(asked)[0].prompt for asked in (window("x", "y"), THREE))
    assert "Which of the two passages is more relevant" in pair[-2].content
    assert "Which of the 3 passages is the most relevant" in three[-2].content
    assert pair[-2].content.count("a question") == 2
    assert "\n[A] x\n[B] y\n" in pair[-2].content


def test_a_tiny_model_answers_both_ways_alike() -> None:
    """Its best first letter is what it writes where it can write nothing else."""
    pytest.importorskip("torch")
    from rerank.backends.hf import Hf
    from tests.backends.conftest import make_model, make_tokenizer

    hf = Hf.from_loaded(make_model(max_position_embeddings=1024), make_tokenizer())
    windows = [THREE, window("one", "two"), window("only")]
    weighed, written = (judge_windows(judge(hf, by), windows) for by in ("likelihood", "generation"))
    assert [verdict.order[0] for verdict in weighed] == [verdict.order[0] for verdict in written]
    assert {verdict.status for verdict in [*weighed, *written]} == {"ok"}


@pytest.mark.model
def test_the_embedded_model_answers_both_ways_alike() -> None:
    from rerank.models import BackendOptions, open_model_backend

    backend = open_model_backend("smollm2-135m", BackendOptions(dtype="float32"))
    weighed, written = (judge_windows(judge(backend, by), [THREE])[0] for by in ("likelihood", "generation"))
    assert weighed.order[0] == written.order[0]
    assert (weighed.status, written.status) == ("ok", "ok")
