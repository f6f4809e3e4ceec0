"""The judges of one document at a time: yes or no, query likelihood, the logit of a word, and cross-encoders."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.errors import ContextOverflowError, UsageError
from rerank.judges import open_judge
from rerank.judges.base import Limits, PromptJudge
from rerank.judges.pointwise import Likelihood, Score
from rerank.methods import count_requests_of_method, open_method
from rerank.pipeline.stream import rank_together
from rerank.prompts import PromptTemplate, load_prompt
from rerank.prompts.base import Message
from rerank.strategies import open_strategy
from rerank.tasks import ContinuationTask, CrossEncoderTask, GenerationTask, LikelihoodTask, LogitTask, Reply, Request
from rerank.types import Document, Qrels, Query, Ranking, Window
from tests.judges.scripted import Scripted, always, window
from tests.judging import judge_windows
from tests.raising import raises

PROMPTS = {"score": "pointwise", "likelihood": "query_likelihood"}
THREE = window("about snow", "about rain", "about hail")


def judge(name: str, backend: Any, prompt: str = "") -> PromptJudge:
    return open_judge(name, backend, load_prompt(prompt or PROMPTS[name]))


def by_text(request: Request) -> Reply:
    asked = request.prompt[-1].content
    yes = -0.5 if "hail" in asked else -1.0 if "snow" in asked else -4.0
    return Reply(scores=(yes, -1.0)[: len(request.task.continuations)])  # type: ignore[union-attr]


@pytest.mark.parametrize("name", PROMPTS)
def test_one_request_a_document_and_the_order_of_scores(name: str) -> None:
    scripted = Scripted(by_text, ContinuationTask, LikelihoodTask)
    made = judge(name, scripted)
    (verdict,) = judge_windows(made, [THREE])
    assert (verdict.order, verdict.status) == ((2, 0, 1), "ok")
    assert len(scripted.asked) == made.calls(3) == 3
    assert [request.window.docs for request in scripted.asked] == [(doc,) for doc in THREE.docs]
    assert len({request.digest({}) for request in scripted.asked}) == 3


def test_the_query_follows_a_plain_text_after_a_space() -> None:
    (request, *_) = judge("likelihood", Scripted(by_text, LikelihoodTask), "query_question").make_requests(THREE)
    assert request.task == LikelihoodTask(continuations=(" a question",))


@pytest.mark.parametrize("weight", ["0", "5"])
def test_documents_without_a_score_keep_their_positions_whatever_the_first_stage_says(weight: str) -> None:
    def say(request: Request) -> Reply:
        return Reply(finish="error", error="gone") if "rain" in request.prompt[-1].content else by_text(request)

    backend = Scripted(say, LikelihoodTask)
    made = open_judge(f"likelihood,first_stage={weight}", backend, load_prompt("query_likelihood"))
    first_stage = replace(THREE, scores=(3.0, 1.0, 2.0))
    (verdict,) = judge_windows(made, [first_stage])
    assert (verdict.order, verdict.status) == ((2, 1, 0) if weight == "0" else (0, 1, 2), "error")


def test_score_is_the_log_odds() -> None:
    made = judge("score", Scripted(by_text, ContinuationTask, LikelihoodTask))
    assert isinstance(made, Score)
    assert made.make_requests(THREE)[0].task == ContinuationTask(continuations=("Yes", "No"))
    p = 0.8
    assert made.score((math.log(p), math.log(1 - p))) == pytest.approx(math.log(p / (1 - p)))


def test_the_words_are_options() -> None:
    made = judge("score,yes=true,no=false", Fake("perfect"), "pointwise")
    assert made.make_requests(THREE)[0].task == ContinuationTask(continuations=("true", "false"))
    for options in ("yes=No", "yes=", "no="):
        with raises(UsageError, "yes=", "no="):
            judge(f"score,{options}", Fake("perfect"), "pointwise")


def test_the_query_is_weighed_and_not_shown() -> None:
    scripted = Scripted(by_text, ContinuationTask, LikelihoodTask)
    requests = judge("likelihood", scripted).make_requests(window("p1", "p2", query="how \n long?"))
    assert {request.task for request in requests} == {LikelihoodTask(continuations=("how long?",))}
    assert all("how" not in message.content for request in requests for message in request.prompt)
    assert requests[0].sampling.max_tokens == 3


@pytest.mark.parametrize("name", PROMPTS)
def test_equal_scores_keep_the_order(name: str) -> None:
    reply = Reply(scores=(-1.0, -1.0)[: 1 + (name == "score")])
    (verdict,) = judge_windows(judge(name, Scripted(always(reply), ContinuationTask, LikelihoodTask)), [THREE])
    assert verdict.order == (0, 1, 2)


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize(
    ("spoilt", "status"),
    [
        (Reply(finish="error", error="gone"), "error"),
        (Reply(finish="refused"), "refused"),
        (Reply(scores=(math.nan, -1.0)), "empty"),
        (Reply(scores=(-math.inf, -math.inf)), "empty"),
        (Reply(), "empty"),
    ],
)
def test_one_spoilt_reply_is_a_failure_and_the_others_are_put_in_order_around_it(
    name: str, spoilt: Reply, status: str
) -> None:
    def say(request: Request) -> Reply:
        if "rain" not in request.prompt[-1].content:
            return by_text(request)
        count = len(request.task.continuations)  # type: ignore[union-attr]
        return Reply(scores=spoilt.scores[:count], finish=spoilt.finish, error=spoilt.error)

    if name == "likelihood" and spoilt.scores == (-math.inf, -math.inf):
        status = "ok"  # an impossible query is a score
    (verdict,) = judge_windows(judge(name, Scripted(say, ContinuationTask, LikelihoodTask)), [THREE])
    assert verdict.status == status
    orders = {"ok": (2, 0, 1), "empty": (0, 1, 2) if spoilt.scores else (2, 1, 0)}
    assert verdict.order == orders.get(status, (2, 1, 0))


@pytest.mark.parametrize("name", PROMPTS)
def test_windows_of_any_length_fit_and_documents_are_cut_one_by_one(name: str) -> None:
    scripted = Scripted(by_text, ContinuationTask, LikelihoodTask, context_size=100)
    made = open_judge(name, scripted, load_prompt(PROMPTS[name]), Limits(min_passage_tokens=4))
    long = window(*["word " * 500] * 40, "short")
    ranking = Ranking.from_order(long.query, long.docs)
    outcome = rank_together([ranking], open_strategy("full"), made, made.backend)
    assert (len(scripted.asked), outcome.split) == (41, ())
    room = 100 - scripted.asked[0].sampling.max_tokens
    counts = [scripted.tokens.count(request.prompt) for request in scripted.asked]
    assert counts[0] == room
    assert counts[40] < room
    assert "short" in scripted.asked[40].prompt[-1].content


@pytest.mark.parametrize("name", PROMPTS)
def test_a_query_that_leaves_no_room_is_an_error(name: str) -> None:
    made = judge(name, Scripted(by_text, ContinuationTask, LikelihoodTask, context_size=200))
    with raises(ContextOverflowError, "tokens"):
        judge_windows(made, [window("word " * 50, query="word " * 300)])


@pytest.mark.parametrize("name", PROMPTS)
def test_the_fakes_answer(name: str) -> None:
    qrels = Qrels({"q": {"d2": 2, "d1": 1}})
    assert judge_windows(judge(name, Fake("perfect", qrels=qrels)), [THREE])[0].order == (2, 1, 0)
    assert judge_windows(judge(name, Fake("reversed", qrels=qrels)), [THREE])[0].order == (0, 1, 2)
    assert judge_windows(judge(name, Fake("fail", qrels=qrels)), [THREE])[0].status == "error"
    assert sorted(judge_windows(judge(name, Fake("stutter", qrels=qrels)), [THREE])[0].order) == [0, 1, 2]


def test_prompts_that_cannot_be_meant_are_refused() -> None:
    with raises(UsageError, "'score'", "'listwise'", "method: pointwise", "--prompt"):
        judge("score", Fake("perfect"), "listwise")
    with raises(UsageError, "'pointwise'", "'query_likelihood'"):
        judge("likelihood", Fake("perfect"), "pointwise")


def test_a_prompt_may_show_the_scores() -> None:
    template = PromptTemplate(name="own", method="pointwise", prefix="{query}", body="{candidate} ({score})")
    made = Score(backend=Scripted(by_text, ContinuationTask, LikelihoodTask), template=template)
    shown = [request.prompt[0].content for request in made.make_requests(window("x", "y", scores=(2.0, 1.5)))]
    assert shown == ["a question\nx (2.000)\n", "a question\ny (1.500)\n"]


def test_calls_are_the_documents() -> None:
    for name in ("pointwise", "qlm"):
        assert [count_requests_of_method(open_method(name), n) for n in (0, 1, 2, 100)] == [0, 0, 2, 100]


def test_it_equals_plain_passes() -> None:
    torch = pytest.importorskip("torch")
    from tests.backends.conftest import in_memory, make_model, make_tokenizer

    model, tokenizer = make_model(), make_tokenizer()
    hf = in_memory(model, tokenizer)
    made = judge("likelihood", hf)
    assert isinstance(made, Likelihood)
    query = tokenizer("a question", add_special_tokens=False)["input_ids"]
    wanted = []
    for request in made.make_requests(THREE):
        (ids,) = hf.tokens.encode([request.prompt])
        with torch.inference_mode():
            logs = model(torch.tensor([[*ids, *query]])).logits[0].log_softmax(dim=-1)
        wanted.append(sum(float(logs[len(ids) - 1 + at, token]) for at, token in enumerate(query)))
    found = [reply.scores[0] for reply in hf.generate(made.make_requests(THREE))]
    assert found == pytest.approx(wanted, abs=1e-3)
    assert judge_windows(made, [THREE])[0].order == tuple(sorted(range(3), key=lambda at: -wanted[at]))


@pytest.mark.model
@pytest.mark.parametrize("name", PROMPTS)
def test_the_embedded_model_prefers_what_is_relevant(name: str) -> None:
    from rerank.models import BackendOptions, open_model_backend

    backend = open_model_backend("smollm2-135m", BackendOptions(dtype="float32"))
    asked = window(
        "Bridges are built of steel and stone.", "A flea lives for two or three months.", query="how long do fleas live"
    )
    (verdict,) = judge_windows(judge(name, backend), [asked])
    assert (verdict.order, verdict.status) == ((1, 0), "ok")


def by_logit(request: Request) -> Reply:
    return Reply(scores=({"a": 2.5, "b": 31.0}[request.window.docs[0].text],))


def test_documents_are_ordered_by_the_logit() -> None:
    backend = Scripted(by_logit, LogitTask)
    judge = open_judge("word-logit,word=Yes", backend, load_prompt("pointwise"))
    (verdict,) = judge_windows(judge, [window("a", "b")])
    assert (verdict.order, verdict.scores) == ((1, 0), (2.5, 31.0))
    assert {request.task for request in judge.make_requests(window("a"))} == {LogitTask(continuations=("Yes",))}


def test_log_probabilities_are_no_substitute() -> None:
    with raises(UsageError):
        open_judge("word-logit", Scripted(by_logit, ContinuationTask), load_prompt("pointwise"))


@pytest.mark.parametrize("word", ["", "several words"])
def test_the_word_is_a_single_token(word: str) -> None:
    with raises(UsageError):
        judge = open_judge(f"word-logit,word={word}", Scripted(by_logit, LogitTask), load_prompt("pointwise"))
        judge.make_requests(window("a"))


WITH_EMPTY = window("about snow", "", "about rain")


def relate(backend: Any, **limits: Any) -> PromptJudge:
    return open_judge("relate", backend, load_prompt("pair"), Limits(**limits))


def test_one_request_holds_the_query_and_the_documents() -> None:
    scripted = Scripted(always(Reply(scores=(0.5, -8.0, 0.7))), CrossEncoderTask)
    (verdict,) = judge_windows(relate(scripted), [WITH_EMPTY])
    assert (verdict.order, verdict.status) == ((2, 0, 1), "ok")
    (request,) = scripted.asked
    assert [message.content for message in request.prompt] == ["a question", "about snow", "", "about rain"]
    assert (request.task, request.sampling.max_tokens) == (CrossEncoderTask(), 0)


def test_title_and_text_are_one_line_and_brackets_stay() -> None:
    doc = Document(id="d", title="Fleas [1]", text="They live\n two months [2].")
    (request,) = relate(Fake("perfect")).make_requests(Window(Query(id="q", text="how\tlong"), (doc,)))
    assert [message.content for message in request.prompt] == ["how long", "Fleas [1] They live two months [2]."]


def test_documents_are_cut_to_what_the_query_leaves_and_to_the_maximum() -> None:
    scripted = Scripted(always(Reply()), CrossEncoderTask, context_size=60)
    long = window("word " * 100, "short", query="a question of six words here")
    room = 60 - scripted.tokens.count((Message("user", long.query.text),))
    (request,) = relate(scripted).make_requests(long)
    assert scripted.tokens.lengths([m.content for m in request.prompt]) == [6, room, 1]
    (request,) = relate(scripted, min_passage_tokens=4, max_passage_tokens=8).make_requests(long)
    assert scripted.tokens.lengths([m.content for m in request.prompt]) == [6, 8, 1]


def test_a_query_that_leaves_less_than_the_floor_is_an_error() -> None:
    made = relate(Scripted(always(Reply()), CrossEncoderTask, context_size=60))
    with raises(ContextOverflowError, "tokens"):
        made.make_requests(window("word " * 100, query="word " * 40))


def test_a_long_list_is_not_split() -> None:
    scripted = Scripted(always(Reply(scores=(0.0,) * 300)), CrossEncoderTask, context_size=100)
    long = window(*["word " * 90] * 300)
    made = relate(scripted)
    outcome = rank_together([Ranking.from_order(long.query, long.docs)], open_strategy("full"), made, made.backend)
    assert (len(scripted.asked), outcome.split) == (1, ())


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(scores=(1.0, math.nan, 2.0)), "empty"),
        (Reply(scores=(1.0,)), "empty"),
        (Reply(finish="error", error="gone"), "error"),
    ],
)
def test_replies_that_say_nothing_keep_the_order(reply: Reply, status: str) -> None:
    (verdict,) = judge_windows(relate(Scripted(always(reply), CrossEncoderTask)), [WITH_EMPTY])
    assert (verdict.order, verdict.status) == ((0, 1, 2), status)


def test_a_prompt_would_be_without_effect_and_language_models_are_refused() -> None:
    with raises(UsageError, "'listwise'", "--prompt"):
        open_judge("relate", Fake("perfect"), load_prompt("listwise"))
    with raises(UsageError, "'relate'", "CrossEncoderTask"):
        relate(Scripted(always(Reply()), GenerationTask))
    qrels = Qrels({"q": {"d2": 1}})
    assert judge_windows(relate(Fake("perfect", qrels=qrels)), [WITH_EMPTY])[0].order == (2, 0, 1)
