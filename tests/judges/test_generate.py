"""The listwise judges: generated orders, one text per passage, logits, the best of a few, and ratings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.errors import ContextOverflowError, UnknownNameError, UsageError
from rerank.judges import open_judge
from rerank.judges.base import Limits, OversizedWindow, PromptJudge
from rerank.judges.generate import SPARE_TOKENS, Generate, Logits, Pick, Rate, Select, parse_verdict
from rerank.prompts import PromptTemplate, load_prompt
from rerank.prompts.base import Message
from rerank.tasks import ContinuationTask, FusionTask, GenerationTask, PermutationTask, Reply, Request, Sampling
from rerank.types import Document, Qrels, Query, Window
from tests.judges.scripted import Scripted, always, window
from tests.judging import judge_windows
from tests.raising import raises

LISTWISE = load_prompt("listwise")


def numbered(count: int, words: int = 5) -> Window:
    docs = tuple(Document(id=f"d{n}", text=f"passage {n} " + "word " * words) for n in range(count))
    return Window(Query(id="q", text="a question"), docs)


def test_one_call_to_the_backend_for_all_windows_and_orders_come_back() -> None:
    qrels = Qrels({"q": {"d0": 0, "d1": 1, "d2": 2}})
    judge = Generate(backend=Fake("perfect", qrels=qrels), template=LISTWISE)
    first, second = judge_windows(judge, [numbered(3), numbered(2)])
    assert (first.order, first.status) == ((2, 1, 0), "ok")
    assert (second.order, second.status) == ((1, 0), "ok")


def test_the_reply_has_room_for_every_identifier_and_little_more() -> None:
    says = Scripted(always(Reply(text="[1]")))
    judge_windows(Generate(backend=says, template=LISTWISE), [numbered(12)])
    chain = " > ".join(f"[{n}]" for n in range(1, 13))
    assert says.asked[0].sampling.max_tokens == says.tokens.lengths([chain])[0] + SPARE_TOKENS


def test_passages_are_cut_so_that_prompt_and_reply_fit() -> None:
    says = Scripted(always(Reply(text="")), context_size=900)
    judge_windows(Generate(backend=says, template=LISTWISE), [numbered(10, words=200)])
    (request,) = says.asked
    assert says.tokens.count(request.prompt) + request.sampling.max_tokens <= 900
    assert "a question" in request.prompt[-1].content
    assert all(f"[{n}] passage" in request.prompt[-1].content for n in range(1, 11))


def test_what_does_not_fit_at_the_floor_is_an_error_with_both_lengths() -> None:
    judge = Generate(backend=Scripted(always(Reply(text="")), context_size=400), template=LISTWISE)
    with raises(ContextOverflowError, "400", "--depth"):
        judge.make_requests(numbered(30, words=200))


def test_limits_reach_budget_and_sampling() -> None:
    says = Scripted(always(Reply(text="")))
    limits = Limits(max_passage_tokens=40, min_passage_tokens=8, temperature=0.7, seed=5)
    judge_windows(Generate(backend=says, template=LISTWISE, limits=limits), [numbered(3, words=200)])
    (request,) = says.asked
    assert (request.sampling.temperature, request.sampling.seed) == (0.7, 5)
    assert max(len(line.split()) for line in request.prompt[-1].content.splitlines() if line.startswith("[")) <= 41


def test_contradicting_limits_are_refused() -> None:
    with raises(UsageError, "--max-passage-tokens is 8", "--min-passage-tokens is 32"):
        Generate(backend=Scripted(always(Reply(text=""))), template=LISTWISE, limits=Limits(max_passage_tokens=8))


def test_a_transport_error_never_reaches_the_parser() -> None:
    reply = Reply(text="requested 2 tokens > [2]", finish="error", error="the server said [2] > [1]")
    result = parse_verdict(reply, 2)
    assert (result.order, result.status) == ((0, 1), "error")
    assert "server" in result.detail


@pytest.mark.parametrize(
    ("reply", "status", "order"),
    [
        (Reply(text="[2] > [1]"), "ok", (1, 0)),
        (Reply(text="2, 1"), "repaired", (1, 0)),
        (Reply(text="[2]"), "partial", (1, 0)),
        (Reply(text="nothing here"), "empty", (0, 1)),
        (Reply(text="I'm sorry, but I cannot rank these."), "refused", (0, 1)),
        (Reply(text="", finish="refused"), "refused", (0, 1)),
        (Reply(text="[2] > [1]", finish="length"), "ok", (1, 0)),
    ],
)
def test_statuses(reply: Reply, status: str, order: tuple[int, ...]) -> None:
    result = parse_verdict(reply, 2)
    assert (result.status, result.order) == (status, order)


@pytest.mark.parametrize(
    ("choices", "scores"),
    [
        ((-0.1, -0.2, -0.3), (-0.2, -0.3, -0.1)),
        ((-0.1, -0.2), (-0.2, None, -0.1)),
        ((-0.1, -0.2, -0.3, -0.4), ()),
        ((), ()),
    ],
)
def test_choices_give_scores_to_the_documents_in_the_order_of_the_reply(
    choices: tuple[float, ...], scores: tuple[float | None, ...]
) -> None:
    says = Scripted(always(Reply(text="[3] > [1] > [2]", scores=choices)))
    (verdict,) = judge_windows(Generate(backend=says, template=LISTWISE), [numbered(3)])
    assert (verdict.order, verdict.scores) == ((2, 0, 1), scores)


@pytest.mark.parametrize("thinking", [0, 50])
def test_the_prompt_leaves_exactly_the_completion_and_thinking_tokens(thinking: int) -> None:
    says = Scripted(always(Reply(text="[1]")), context_size=400)
    judge_windows(
        Generate(backend=says, template=LISTWISE, limits=Limits(thinking_tokens=thinking)), [numbered(1, words=500)]
    )
    (request,) = says.asked
    reply_tokens = says.tokens.lengths(["[1]"])[0] + SPARE_TOKENS
    assert request.sampling == Sampling(max_tokens=reply_tokens, temperature=0.0, seed=0, thinking=thinking)
    assert says.tokens.count(request.prompt) == 400 - reply_tokens - thinking


LIT5 = load_prompt("lit5")


def test_every_passage_is_a_text_with_its_identifier() -> None:
    scripted = Scripted(always(Reply(text="[2] > [3] > [1]")), FusionTask)
    (verdict,) = judge_windows(open_judge("fuse", scripted, LIT5), [window("cats", "fleas", "dogs", query="fleas?")])
    assert (verdict.order, verdict.status) == ((1, 2, 0), "ok")
    (request,) = scripted.asked
    assert request.task == FusionTask()
    assert request.prompt == tuple(
        Message("verbatim", f"Search Query: fleas? Passage: [{number}] {text} Relevance Ranking: ")
        for number, text in enumerate(("cats", "fleas", "dogs"), start=1)
    )


def test_the_context_limits_each_text() -> None:
    scripted = Scripted(always(Reply(text="[1]")), FusionTask)
    limits = Limits(context_size=30, min_passage_tokens=4)
    (request,) = open_judge("fuse", scripted, LIT5, limits).make_requests(window("short", "word " * 50))
    assert scripted.tokens.count(request.prompt[1:]) <= 30
    assert request.dropped[0] == 0
    assert request.dropped[1] > 0


@pytest.mark.parametrize(("text", "status"), [("", "empty"), ("[2] > [2", "partial"), ("[3] > [1] > [9]", "partial")])
def test_no_document_is_lost_by_fusion(text: str, status: str) -> None:
    scripted = Scripted(always(Reply(text=text)), FusionTask)
    (verdict,) = judge_windows(open_judge("fuse", scripted, LIT5), [window("a", "b", "c")])
    assert (sorted(verdict.order), verdict.status) == ([0, 1, 2], status)


LETTERS = load_prompt("listwise_letters")
WITH_EMPTY = window("about snow", "", "about rain")


def logits_judge(backend: Any, template: PromptTemplate = LETTERS) -> Logits:
    return Logits(backend=backend, template=template)


def test_the_order_is_that_of_the_log_probabilities_and_ties_stay_as_given() -> None:
    scripted = Scripted(always(Reply(scores=(-3.0, -0.1, -3.0))), ContinuationTask)
    (verdict,) = judge_windows(logits_judge(scripted), [WITH_EMPTY])
    assert (verdict.order, verdict.status) == ((1, 0, 2), "ok")
    (request,) = scripted.asked
    assert request.task == ContinuationTask(continuations=("A", "B", "C"))
    assert request.prompt[-1].content == "["
    assert "[A] about snow\n[B] \n[C] about rain\n" in request.prompt[-2].content
    assert request.sampling.max_tokens == 1


def test_the_fakes_answer_with_logits() -> None:
    qrels = Qrels({"q": {"d2": 2, "d1": 1}})
    orders = [
        judge_windows(logits_judge(Fake(kind, qrels=qrels)), [WITH_EMPTY])[0].order for kind in ("perfect", "reversed")
    ]
    assert orders == [(2, 1, 0), (2, 1, 0)]
    (failed,) = judge_windows(logits_judge(Fake("fail", qrels=qrels)), [WITH_EMPTY])
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
    (verdict,) = judge_windows(logits_judge(Scripted(always(reply), ContinuationTask)), [WITH_EMPTY])
    assert (verdict.order, verdict.status) == ((0, 1, 2), status)
    assert verdict.detail


def test_a_prompt_without_the_bracket_has_it_weighed() -> None:
    template = PromptTemplate(name="own", prefix="{query}", body="[{rank}] {candidate}")
    (request,) = logits_judge(Scripted(always(Reply()), ContinuationTask), template).make_requests(WITH_EMPTY)
    assert request.task == ContinuationTask(continuations=("[A", "[B", "[C"))


def test_more_candidates_than_identifiers_is_an_error_with_the_remedy() -> None:
    many = window(*map(str, range(26 + 26 * 26 + 1)))
    with raises(UsageError, "'logits'", "ContinuationTask"):
        logits_judge(Scripted(always(Reply()), GenerationTask))
    with raises(UsageError, "703", "702", "--depth") as caught:
        judge_windows(logits_judge(Scripted(always(Reply()), ContinuationTask, context_size=10**6)), [many])
    assert not isinstance(caught.value, ContextOverflowError)


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
    from tests.backends.conftest import in_memory, make_model, make_tokenizer

    model, tokenizer = make_model(max_position_embeddings=2048), make_tokenizer()
    hf = in_memory(model, tokenizer)
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


PICK = load_prompt("pick")
THREE = window("about snow", "about rain", "about hail")


def pick(backend: Any, by: str = "likelihood") -> Pick:
    made = open_judge(f"pick,by={by}", backend, PICK)
    assert isinstance(made, Pick)
    return made


def test_likelihood_orders_the_whole_window() -> None:
    scripted = Scripted(always(Reply(scores=(-2.0, -3.0, -1.0))), ContinuationTask)
    (verdict,) = judge_windows(pick(scripted), [THREE])
    assert (verdict.order, verdict.status) == ((2, 0, 1), "ok")
    assert scripted.asked[0].task == ContinuationTask(continuations=("A", "B", "C"))


def test_generation_writes_one_identifier_where_it_can_be_constrained() -> None:
    scripted = Scripted(always(Reply(text="[C]")), PermutationTask, GenerationTask)
    (verdict,) = judge_windows(pick(scripted, "generation"), [THREE])
    assert (verdict.order, verdict.status, verdict.detail) == ((2, 0, 1), "ok", "")
    (request,) = scripted.asked
    assert request.task == PermutationTask(items=("[A]", "[B]", "[C]"), count=1)
    assert request.sampling.max_tokens == scripted.tokens.lengths(["[A]"])[0] + SPARE_TOKENS


def test_a_pick_leaves_exactly_the_completion_and_thinking_tokens() -> None:
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
    (verdict,) = judge_windows(pick(scripted, "generation"), [THREE])
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
    (verdict,) = judge_windows(pick(scripted, by), [THREE])
    assert (verdict.order, verdict.status, verdict.detail) == ((0, 1, 2), "error", "[B] is gone")


@pytest.mark.parametrize("by", ["likelihood", "generation"])
def test_the_fakes_answer(by: str) -> None:
    perfect = Fake("perfect", qrels=Qrels({"q": {"d1": 1}}))
    assert judge_windows(pick(perfect, by), [THREE])[0].order == (1, 0, 2)


@pytest.mark.parametrize(
    ("by", "task", "other"), [("likelihood", GenerationTask, "generation"), ("generation", ContinuationTask, "likeli")]
)
def test_a_backend_that_cannot_is_refused_with_the_way_that_it_can(by: str, task: type[Any], other: str) -> None:
    with raises(UsageError, f"by={by}", "'scripted'", f"by={other}"):
        pick(Scripted(always(Reply()), task), by)


def test_options_are_checked() -> None:
    with raises(UsageError, "likelihood, generation"):
        open_judge("pick,by=luck", Fake("perfect"), PICK)
    with raises(UsageError, "identifiers=numbers", "by=generation"):
        open_judge("pick,identifiers=numbers", Fake("perfect"), PICK)
    with raises(UnknownNameError, "'pick'", "'bye'", "'by'"):
        open_judge("pick,bye=generation", Fake("perfect"), PICK)


def test_the_wording_is_that_of_the_number() -> None:
    pair, three = (pick(Fake("perfect")).make_requests(asked)[0].prompt for asked in (window("x", "y"), THREE))
    assert "Which of the two passages is more relevant" in pair[-2].content
    assert "Which of the 3 passages is the most relevant" in three[-2].content
    assert pair[-2].content.count("a question") == 2
    assert "\n[A] x\n[B] y\n" in pair[-2].content


def test_a_tiny_model_answers_both_ways_alike() -> None:
    """Its best first letter is what it writes where it can write nothing else."""
    pytest.importorskip("torch")
    from tests.backends.conftest import in_memory, make_model, make_tokenizer

    hf = in_memory(make_model(max_position_embeddings=1024), make_tokenizer())
    windows = [THREE, window("one", "two"), window("only")]
    weighed, written = (judge_windows(pick(hf, by), windows) for by in ("likelihood", "generation"))
    assert [verdict.order[0] for verdict in weighed] == [verdict.order[0] for verdict in written]
    assert {verdict.status for verdict in [*weighed, *written]} == {"ok"}


@pytest.mark.model
def test_the_embedded_model_answers_both_ways_alike() -> None:
    from rerank.models import BackendOptions, open_model_backend

    backend = open_model_backend("smollm2-135m", BackendOptions(dtype="float32"))
    weighed, written = (judge_windows(pick(backend, by), [THREE])[0] for by in ("likelihood", "generation"))
    assert weighed.order[0] == written.order[0]
    assert (weighed.status, written.status) == ("ok", "ok")


GROUP_RANK = load_prompt("group_rank")
FOUR = window("about snow", "about rain", "about hail", "about sleet")


def rate(backend: Scripted, *, group: int = 20, repeats: int = 1, limits: Limits | None = None) -> Rate:
    judge = open_judge(f"rate,group={group},repeats={repeats}", backend, GROUP_RANK, limits)
    assert isinstance(judge, Rate)
    return judge


def writes(scores: Mapping[str, float], form: str = "{}") -> Scripted:
    """A model that writes the scores of the documents that it is shown, as GroupRank does."""

    def say(request: Request) -> Reply:
        shown = enumerate((doc.id for doc in request.window.docs), start=1)
        return Reply(
            text=form.format(json.dumps({f"[{number}]": scores[doc] for number, doc in shown if doc in scores}))
        )

    return Scripted(say, GenerationTask)


DOCUMENTED = "<reason>\n[1] is about [2].\n</reason>\n<answer>\n```json\n{}\n```\n</answer>"


@pytest.mark.parametrize("form", ["{}", DOCUMENTED, "Here you are: {}", DOCUMENTED.replace("</answer>", "")])
def test_documents_are_ordered_by_their_scores(form: str) -> None:
    scores = {"d0": 2, "d1": 9, "d2": 5, "d3": 7}
    (verdict,) = judge_windows(rate(writes(scores, form)), [FOUR])
    assert (verdict.order, verdict.status) == ((1, 3, 2, 0), "ok")
    assert verdict.scores == (2.0, 9.0, 5.0, 7.0)


def test_every_document_is_in_one_group_per_repeat_and_its_scores_are_averaged() -> None:
    asked: list[tuple[str, ...]] = []

    def say(request: Request) -> Reply:
        ids = tuple(doc.id for doc in request.window.docs)
        asked.append(ids)
        high = 8 if len(asked) <= 2 else 4  # the second repeat gives half the scores
        return Reply(text=json.dumps({f"[{at}]": high if doc == "d2" else 0 for at, doc in enumerate(ids, start=1)}))

    (verdict,) = judge_windows(rate(Scripted(say, GenerationTask), group=3, repeats=2), [FOUR])
    assert sorted(asked[0] + asked[1]) == sorted(asked[2] + asked[3]) == ["d0", "d1", "d2", "d3"]
    assert asked[0] != asked[2]
    assert verdict.scores == (0.0, 0.0, 6.0, 0.0)
    assert verdict.order == (2, 0, 1, 3)


def test_documents_without_a_score_keep_their_positions() -> None:
    (verdict,) = judge_windows(rate(writes({"d0": 1, "d3": 8})), [FOUR])
    assert (verdict.order, verdict.status) == ((3, 1, 2, 0), "partial")
    assert verdict.scores == (1.0, None, None, 8.0)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", "empty"),
        ("no idea", "empty"),
        ('{"[7]": 3}', "empty"),
        ('<reason> {"[1]": 3', "empty"),
        ('{"[1]": 3, "[2]": 1', "partial"),  # the last number may have been 10
        ('{"[1]": 1', "empty"),
        ("[2] > [1] > [3] > [4]", "ok"),
    ],
)
def test_no_document_is_lost_whatever_is_written(text: str, status: str) -> None:
    (verdict,) = judge_windows(rate(Scripted(always(Reply(text=text)), GenerationTask)), [FOUR])
    assert sorted(verdict.order) == [0, 1, 2, 3]
    assert verdict.status == status


def test_a_group_without_a_reply_makes_the_window_a_failure_and_the_others_are_ordered() -> None:
    def say(request: Request) -> Reply:
        if request.window.docs[0].id in first:
            return Reply(finish="error", error="gone")
        return Reply(text='{"[1]": 0, "[2]": 9}')

    first = {doc.id for doc in rate(Scripted(always(Reply())), group=2).make_requests(FOUR)[0].window.docs}
    (verdict,) = judge_windows(rate(Scripted(say, GenerationTask), group=2), [FOUR])
    assert (verdict.status, verdict.detail) == ("error", "gone")
    assert sorted(verdict.order) == [0, 1, 2, 3]
    assert [verdict.order[int(doc[1])] for doc in sorted(first)] == [int(doc[1]) for doc in sorted(first)]
    assert sum(score is not None for score in verdict.scores) == 2


def test_reasons_are_part_of_the_reply() -> None:
    (request,) = rate(Scripted(always(Reply())), limits=Limits(thinking_tokens=500)).make_requests(FOUR)
    assert request.sampling.thinking == 0
    assert 500 < request.sampling.max_tokens < 700


def test_options_of_ratings_are_checked() -> None:
    for group, repeats in ((0, 1), (1, 0)):
        with raises(UsageError, "at least 1"):
            rate(Scripted(always(Reply())), group=group, repeats=repeats)


def select(text: str | Reply, *, options: str = "", limits: Limits | None = None, context: int = 4096) -> Select:
    reply = Reply(text=text) if isinstance(text, str) else text
    prompt = load_prompt(Select.suggest_prompt(dict([options.split("=")] if options else [])))
    judge = open_judge(
        f"select{',' * bool(options)}{options}", Scripted(always(reply), context_size=context), prompt, limits
    )
    assert isinstance(judge, Select)
    return judge


@pytest.mark.parametrize(
    ("reply", "order", "status", "scores", "detail"),
    [
        ("Selection: [4] > [2]", (3, 1, 0, 2), "ok", (0, 1, 0, 1), ""),
        ("none", (0, 1, 2, 3), "ok", (0, 0, 0, 0), ""),
        ("[2], [2]", (1, 0, 2, 3), "repaired", (0, 1, 0, 0), "dropped duplicates of 2"),
        (Reply(text="[2]", finish="refused"), (1, 0, 2, 3), "ok", (0, 1, 0, 0), ""),
        (Reply(text="none", finish="refused"), (0, 1, 2, 3), "refused", (), "the provider refused to answer"),
        (Reply(finish="error", error="gone"), (0, 1, 2, 3), "error", (), "gone"),
        ("no idea", (0, 1, 2, 3), "empty", (), ""),
    ],
)
def test_selected_documents_come_first(
    reply: str | Reply, order: tuple[int, ...], status: str, scores: tuple[float, ...], detail: str
) -> None:
    (verdict,) = judge_windows(select(reply), [FOUR])
    assert (verdict.order, verdict.status, verdict.scores) == (order, status, scores)
    assert verdict.detail.endswith(detail)


def test_requirements_are_part_of_the_reply() -> None:
    limits = Limits(thinking_tokens=500)
    (written,) = select("", options="by=requirements", limits=limits).make_requests(FOUR)
    (thought,) = select("", limits=limits).make_requests(FOUR)
    assert (written.sampling.thinking, thought.sampling.thinking) == (0, 500)
    assert written.sampling.max_tokens == thought.sampling.max_tokens + 500
    assert "three steps" in written.prompt[-1].content
    with raises(UsageError, "thinking_tokens is 0", "--thinking-tokens 500"):
        select("", options="by=requirements")


def test_a_window_that_does_not_fit_is_an_error() -> None:
    with raises(ContextOverflowError, "40 passages", "lower --depth"):
        select("", context=300).requests(numbered(40, words=200))
