"""The attention judge: what it asks, in which order passages stand, and the heads that it reads."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from rerank.backends.fake import Fake
from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.io.model_base import ModelBase, ModelBinding, hash_file_contents_of_model
from rerank.judges import open_judge
from rerank.judges.attention import Attention
from rerank.judges.attention.heads import BESIDE, HeadList, open_attention_heads, read_attention_heads
from rerank.judges.base import Verdict, window_z_scores
from rerank.prompts import PromptTemplate, load_prompt
from rerank.tasks import AttentionTask, Reply
from rerank.types import Document, Qrels, Query, Window
from tests.judging import judge_windows
from tests.raising import raises

QRELS = Qrels({"q": {"b": 2, "c": 1}})
TEXTS = {"a": "snow", "b": "", "c": "rain in the hills"}
WINDOW = Window(Query(id="q", text="when?"), tuple(Document(id=i, text=t) for i, t in TEXTS.items()))


def judge(options: str = "", prompt: str = "icr_qa", kind: str = "perfect") -> Attention:
    made = open_judge(f"attention{options}", Fake(kind, qrels=QRELS), load_prompt(prompt))
    assert isinstance(made, Attention)
    return made


def task_of(made: Attention, window: Window = WINDOW) -> AttentionTask:
    (request,) = made.make_requests(window)
    assert isinstance(request.task, AttentionTask)
    return request.task


def test_the_order_is_that_of_the_scores() -> None:
    (verdict,) = judge_windows(judge(), [WINDOW])
    assert (verdict.order, verdict.status) == ((1, 2, 0), "ok")
    (failed,) = judge_windows(judge(kind="fail"), [WINDOW])
    assert (failed.order, failed.status) == ((0, 1, 2), "error")


@pytest.mark.parametrize("prompt", ["icr_qa", "icr_ie"])
@pytest.mark.parametrize("first", ["true", "false"])
def test_spans_are_those_of_the_passages_wherever_they_stand(prompt: str, first: str) -> None:
    (request,) = judge(f",best_first={first}", prompt).make_requests(WINDOW)
    content = request.prompt[-1].content
    task = request.task
    assert isinstance(task, AttentionTask)
    shown = [content[start:end] for start, end in task.spans]
    numbers = (1, 2, 3) if first == "true" else (3, 2, 1)
    assert shown == [f"[{n}] {text}".rstrip() for n, text in zip(numbers, TEXTS.values(), strict=True)]
    assert content.index("[1]") < content.index("[2]") < content.index("[3]")
    assert content[task.tail :].endswith("Query: when?")
    assert not content[task.tail].isspace()
    assert task.tail > max(end for _, end in task.spans)


def test_the_null_query_differs_in_the_query_alone() -> None:
    (request,) = judge().make_requests(WINDOW)
    assert isinstance(request.task, AttentionTask)
    (null,) = request.task.null
    assert null.content == request.prompt[-1].content.replace("when?", "N/A")
    assert task_of(judge(",calibrate=false")).null == ()


def test_a_query_of_white_space_and_brackets_keeps_spans_right() -> None:
    window = Window(Query(id="q", text="what\n is [3] ?"), WINDOW.docs)
    (request,) = judge().make_requests(window)
    assert isinstance(request.task, AttentionTask)
    content = request.prompt[-1].content
    assert content[request.task.tail :].endswith("Query: what is (3) ?")


def test_layers_are_a_band() -> None:
    for layers in ((3, 7), (3, 3)):
        assert task_of(judge(",layers={}-{}".format(*layers))).layers == layers
    for wrong in ("7-3", "3", "a-b", "-1-2"):
        with raises(UsageError, wrong):
            judge(f",layers={wrong}")


def test_prompts_of_many_turns_are_refused() -> None:
    with raises(UsageError, "'listwise_multiturn'"):
        judge(prompt="listwise_multiturn").make_requests(WINDOW)
    template = PromptTemplate(
        name="jinja", syntax="jinja", suffix="{{ query }}{% for p in passages %}{{ p }}{% endfor %}"
    )
    with raises(UsageError, "'jinja'"):
        template.spans("q", ["a"])


def test_a_list_of_heads_goes_with_its_model(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    mine = {"model": "fake:perfect"}
    HeadList(heads=((1, 2), (0, 3)), model=mine, method="core").write(path)
    one = judge(f",heads={path}")
    assert task_of(one).heads == ((1, 2), (0, 3))
    assert one.request(WINDOW, per_head=True).task.heads == ()  # type: ignore[union-attr]
    before = one.identity["heads"]
    HeadList(heads=((0, 3), (1, 2)), model=mine, method="core").write(path)
    assert judge(f",heads={path}").identity["heads"] == before
    HeadList(heads=((0, 4),), model=mine, method="core").write(path)
    assert judge(f",heads={path}").identity["heads"] != before
    HeadList(heads=((0, 4),), model={"model": "another"}, method="core").write(path)
    with raises(UsageError, "model another"):
        judge(f",heads={path}")


def test_a_list_of_heads_is_written_as_readable_unicode_that_ends_with_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    with raises(MissingResourceError, "rerank heads select"):
        open_attention_heads(str(path), {})
    HeadList(heads=((1, 2),), model={"model": "modèle"}, method="core").write(path)
    assert path.read_text(encoding="utf-8").startswith('{\n "heads": [')
    assert path.read_text(encoding="utf-8").endswith('"model": "modèle"\n },\n "method": "core",\n "details": {}\n}\n')


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "[]",
        '{"model": {}, "method": "core", "heads": [[1]]}',
        '{"model": [], "method": "core", "heads": [[1, 2]]}',
        '{"model": {}, "method": "core", "heads": []}',
        '{"model": {"model": "m"}, "method": "core", "heads": [[0.9, 1]]}',
        '{"model": {"model": "m"}, "method": "core", "heads": ["11"]}',
        '{"model": {"model": "m"}, "method": "core", "heads": [[-1, 2]]}',
        '{"model": {"model": "m"}, "method": "core", "heads": [[0, 1]], "weights": [NaN]}',
        '{"model": {"model": "m"}, "method": "core", "heads": [[0, 1]], "length_power": 1e999}',
    ],
)
def test_a_file_that_is_no_list_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "heads.json"
    path.write_text(content, encoding="utf-8")
    with raises(DataError, str(path)):
        open_attention_heads(str(path), {"model": "m"})


def test_weights_tell_models_from_each_other_and_names_do_not(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    HeadList(heads=((0, 4),), model={"model": "here", "weights": "aa"}, method="core").write(path)
    assert open_attention_heads(str(path), {"model": "there", "weights": "aa", "dtype": "float32"}).heads == ((0, 4),)
    with raises(UsageError, "weights bb"):
        open_attention_heads(str(path), {"model": "here", "weights": "bb"})
    with raises(UsageError, "adapter cc"):
        open_attention_heads(str(path), {"model": "here", "weights": "aa", "adapter": "cc"})


def test_published_lists_are_there_for_their_models() -> None:
    found = open_attention_heads("qrhead", {"model": "meta-llama/Llama-3.1-8B-Instruct"})
    assert len(found.heads) == 16
    assert found.heads[0] == (13, 22)
    assert len(open_attention_heads("core", {"model": "Llama-3.1-8B-Instruct"}).heads) == 8
    with raises(MissingResourceError, "rerank heads select --method core"):
        open_attention_heads("core", {"model": "gpt2"})
    with raises(MissingResourceError, "adapter"):
        open_attention_heads("qrhead", {"model": "Llama-3.1-8B-Instruct", "adapter": "aa"})


def test_the_prompt_of_a_long_null_query_fits_too() -> None:
    """A query of one token is shorter than N/A."""
    long = Window(Query(id="q", text="x"), tuple(Document(id=str(at), text="word " * 200) for at in range(4)))
    made = open_judge("attention", Fake("perfect", qrels=QRELS, context_size=300), load_prompt("icr_qa"))
    (request,) = made.make_requests(long)
    assert isinstance(request.task, AttentionTask)
    assert made.backend.tokens.count(request.prompt) < made.backend.tokens.count(request.task.null) <= 300


@pytest.mark.parametrize(("query", "reserved"), [("x", 3), ("x y", 2), ("x y z", 1), ("x y z x", 0), ("x " * 9, 0)])
def test_the_prompt_leaves_what_the_null_query_is_longer_and_one_token(query: str, reserved: int) -> None:
    """The null query, N/A, has three tokens; one more is spare, since tokens can cross its boundaries."""
    long = Window(Query(id="q", text=query), (Document(id="d", text="word " * 500),))
    fake = Fake("perfect", qrels=QRELS, context_size=300)
    for calibrate, expected in (("true", 300 - reserved), ("false", 300)):
        (request,) = open_judge(f"attention,calibrate={calibrate}", fake, load_prompt("icr_qa")).make_requests(long)
        assert fake.tokens.count(request.prompt) == expected


def test_a_prompt_with_scores_is_refused() -> None:
    scored = replace(load_prompt("icr_qa"), body="[{rank}] ({score}) {candidate}")
    with raises(UsageError, "'score'"):
        open_judge("attention", Fake("perfect", qrels=QRELS), scored).make_requests(
            replace(WINDOW, scores=(3.0, 2.0, 1.0))
        )


def test_weights_of_heads_are_asked_for_and_told_from_others(tmp_path: Path) -> None:
    path, mine = tmp_path / "heads.json", {"model": "fake:perfect"}
    HeadList(heads=((1, 2), (0, 3)), weights=(0.75, 0.25), model=mine, method="trained").write(path)
    one = judge(f",heads={path}")
    assert task_of(one).weights == (0.75, 0.25)
    assert one.request(WINDOW, per_head=True).task.weights == ()  # type: ignore[union-attr]
    HeadList(heads=((1, 2), (0, 3)), weights=(0.5, 0.5), model=mine, method="trained").write(path)
    assert judge(f",heads={path}").identity != one.identity
    path.write_text('{"model": {}, "method": "trained", "heads": [[1, 2], [0, 3]], "weights": [1]}')
    with raises(DataError, "1 weights", "2 heads"):
        open_attention_heads(str(path), mine)
    path.write_text('{"model": {}, "method": "trained", "heads": [[1, 2]], "weight": [1]}')
    with raises(DataError, "weight is not a known key"):
        open_attention_heads(str(path), mine)


def test_a_request_without_weights_is_what_it_was_before_there_were_any() -> None:
    (request,) = judge().make_requests(WINDOW)
    assert isinstance(request.task, AttentionTask)
    without = replace(request, task=replace(request.task, heads=((0, 0),)))
    with_weights = replace(request, task=replace(request.task, heads=((0, 0),), weights=(1.0,)))
    assert with_weights.digest({}) != without.digest({})
    assert without.digest({"model": "m"}) == "4498c32dde8e03db763bb675e13ce4447272174b92b5fdf075bc04cab24a36cc"


def test_heads_that_lie_beside_their_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    path = tmp_path / "heads.json"
    HeadList(heads=((0, 4),), model={"model": "m", "adapter": BESIDE}, method="trained").write(path)
    right = {"model": "m", "adapter": hash_file_contents_of_model(tmp_path)}
    assert open_attention_heads(str(path), right).heads == ((0, 4),)
    with raises(UsageError, "rerank heads select"):
        open_attention_heads(str(path), right | {"adapter": "another"})


SCORED = replace(WINDOW, scores=(9.0, 1.0, 8.0))


def ordered(options: str, window: Window, scores: tuple[float, ...]) -> Verdict:
    return judge(options).verdict(window, [Reply(scores=scores)])


def test_the_first_stage_has_a_say_where_it_is_asked() -> None:
    attention = (0.1, 0.4, 0.2)
    assert ordered("", SCORED, attention).order == (1, 2, 0)
    assert ordered(",first_stage=0.01", SCORED, attention).order == (1, 2, 0)
    assert ordered(",first_stage=100", SCORED, attention).order == (0, 2, 1)


def test_both_are_z_scores_and_attention_is_taken_by_its_logarithm() -> None:
    attention, weight = (0.1, 0.4, 0.2), 0.8
    logs = [math.log(value) for value in attention]
    mixed = [a + weight * b for a, b in zip(window_z_scores(logs), window_z_scores(SCORED.scores), strict=True)]
    expected = tuple(sorted(range(3), key=lambda at: -mixed[at]))
    assert ordered(f",first_stage={weight}", SCORED, attention).order == expected
    assert ordered(",first_stage=1", SCORED, (-0.1, 0.4, 0.2)).status == "ok", "calibrated scores may be negative"


def test_z_scores_have_mean_0_and_deviation_1_and_equal_scores_say_nothing() -> None:
    assert window_z_scores([2.0, 6.0, 6.0, 2.0]) == [-1.0, 1.0, 1.0, -1.0]
    assert window_z_scores([7.0, 7.0]) == [0.0, 0.0]
    assert window_z_scores([0.1, 0.1, 0.1]) == [0.0, 0.0, 0.0], "their mean is 0.10000000000000002"
    assert window_z_scores([1.0, 3.0, -math.inf]) == [-1.0, 1.0, -math.inf]
    assert window_z_scores([-1e308, 1e308]) == [-1.0, 1.0]
    attention = (0.1, 0.4, 0.2)
    assert ordered(",first_stage=100", replace(WINDOW, scores=(7.0, 7.0, 7.0)), attention).order == (1, 2, 0)


def test_without_first_stage_scores_attention_decides_and_says_so() -> None:
    found = ordered(",first_stage=5", WINDOW, (0.1, 0.4, 0.2))
    assert (found.order, found.status) == ((1, 2, 0), "ok")
    assert "first-stage scores" in found.detail


BASE = ModelBase(hub_id="acme/m", shapes={"num_hidden_layers": 2}, tokenizer="t")


@pytest.mark.parametrize(
    ("selected_with", "base"),
    [
        ({"model": "m", "weights": "other"}, BASE),
        ({"model": "acme/m", "revision": "other"}, BASE),
        ({"model": "acme/m", "revision": "other"}, None),  # files of the time before the base was stored
        ({"model": "acme/m"}, None),
    ],
)
def test_other_weights_of_the_same_model_are_accepted(
    tmp_path: Path, selected_with: dict[str, str], base: ModelBase | None
) -> None:
    path = tmp_path / "heads.json"
    heads = HeadList(heads=((1, 2),), model=selected_with, method="core", base=base)
    heads.write(path)
    assert read_attention_heads(path) == heads
    mine = {"model": "m", "weights": "mine"}
    assert open_attention_heads(str(path), mine, BASE) == heads
    assert not heads.fits_exactly(mine, tmp_path)
    with raises(UsageError, "were selected for"):
        open_attention_heads(str(path), mine, None)
    with raises(UsageError, "were selected for"):
        open_attention_heads(str(path), mine, replace(BASE, hub_id="acme/another"))
    with raises(UsageError, "were selected for"):
        open_attention_heads(str(path), mine | {"adapter": "aa"}, BASE)


def test_the_name_of_a_folder_says_nothing_about_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    HeadList(heads=((1, 2),), model={"model": "acme/m", "weights": "other"}, method="core").write(path)
    with raises(UsageError, "were selected for"):
        open_attention_heads(str(path), {"model": "m", "weights": "mine"}, BASE)


def test_heads_beside_an_adapter_have_its_base(tmp_path: Path) -> None:
    heads = HeadList(heads=((1, 2),), model={"model": "m", "weights": "other", "adapter": BESIDE}, method="trained")
    heads.write(tmp_path / "heads.json")
    identity = {"model": "m", "weights": "mine", "adapter": hash_file_contents_of_model(tmp_path)}
    with raises(UsageError, "were selected for"):
        open_attention_heads(str(tmp_path / "heads.json"), identity, BASE)
    ModelBinding(base=BASE, weights={"other": "the weights of the training"}).write(tmp_path)
    assert open_attention_heads(str(tmp_path / "heads.json"), identity, BASE).heads == ((1, 2),)
    with raises(UsageError, "were selected for"):
        open_attention_heads(str(tmp_path / "heads.json"), identity, replace(BASE, shapes={"num_hidden_layers": 3}))
    with raises(UsageError, "were selected for"):
        open_attention_heads(str(tmp_path / "heads.json"), identity | {"adapter": "aa"}, BASE)
