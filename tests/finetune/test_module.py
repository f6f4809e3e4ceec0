"""The module: what it reads off a model is what the judges see, packed or not, and no more logits than are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest

torch = pytest.importorskip("torch")

from rerank.backends.hf import Hf  # noqa: E402
from rerank.errors import UsageError  # noqa: E402
from rerank.finetune.component_registry import LOSSES  # noqa: E402
from rerank.finetune.components import ListTarget  # noqa: E402
from rerank.finetune.labels.lists import TrainingList  # noqa: E402
from rerank.finetune.recipe import ScoreSource  # noqa: E402
from rerank.finetune.trainer import packed_attention  # noqa: E402
from rerank.finetune.trainer.examples import ExampleBuilder, LossInputs, TrainingExample, check_judge  # noqa: E402
from rerank.finetune.trainer.listwise_module import (  # noqa: E402
    AttentionScorer,
    ListwiseModule,
    WeightedLoss,
    collate_examples,
    enable_activation_checkpointing,
)
from rerank.judges import Limits, open_judge  # noqa: E402
from rerank.prompts import load_prompt  # noqa: E402
from rerank.selector import Selector  # noqa: E402
from rerank.types import Document, Query, Window  # noqa: E402
from tests.finetune.small import WORDS, byte_tokenizer  # noqa: E402
from tests.finetune.tiny import tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

HEADS = [(layer, head) for layer in (1, 2) for head in range(4)]


class Seen:
    """A loss that keeps the scores that it is shown."""

    of: ClassVar[Literal["scores"]] = "scores"
    paper = summary = ""

    def __init__(self) -> None:
        self.scores: list[Any] = []

    def __call__(self, scores: Any, wanted: ListTarget) -> Any:
        self.scores.append(scores.detach())
        return scores.sum()


def backend(**options: Any) -> Any:
    tokenizer = byte_tokenizer()
    model = tiny_model(layers=3, vocabulary=len(tokenizer), max_position_embeddings=4096, **options)
    return Hf.from_loaded(model, tokenizer)


def training_list(n: int = 5, query: str = "lift of a wing") -> TrainingList:
    docs = tuple(Document(id=f"d{at}", text=" ".join([*WORDS[at : at + 3], "and so on"][: 2 + at])) for at in range(n))
    order = tuple(reversed(range(n)))
    return TrainingList(query=Query(id="q", text=query), docs=docs, order=order, scores=tuple(map(float, range(n))))


def read(
    asked: Any, judge: Any, lists: Sequence[TrainingList], looks: LossInputs, loss: Any, source: ScoreSource = "logits"
) -> dict[str, Any]:
    examples = [ExampleBuilder(judge, looks).make(one) for one in lists]
    readout = AttentionScorer(HEADS, learnt=True) if looks.attention else None
    module = ListwiseModule(asked.model, [WeightedLoss(name="it", loss=loss, source=source)], readout)
    before = asked.model.config._attn_implementation
    packed_attention.register()
    asked.model.set_attn_implementation(packed_attention.ATTENTION_NAME)
    try:
        found: dict[str, Any] = module(**collate_examples(examples))
        return found
    finally:
        asked.model.set_attn_implementation(before)


def judge_of(asked: Any, selector: str, prompt: str) -> Any:
    return open_judge(selector, asked, load_prompt(prompt), Limits(max_passage_tokens=30, min_passage_tokens=1))


def judged(asked: Any, judge: Any, one: TrainingList) -> list[Any]:
    return [reply.scores for reply in asked.generate(judge.make_requests(Window(one.query, one.docs)))]


@pytest.mark.parametrize("options", ["", ",best_first=true"])
def test_attention_is_what_the_judge_sees(options: str) -> None:
    asked = backend()
    judge = judge_of(asked, f"attention,layers=1-2,calibrate=false{options}", "icr_ie")
    lists = [training_list(), training_list(4, "a jet")]
    seen = Seen()
    read(asked, judge, lists, LossInputs(attention=True), seen, "attention")
    for one, scores in zip(lists, seen.scores, strict=True):
        (said,) = judged(asked, judge, one)
        assert scores.tolist() == pytest.approx([score / len(HEADS) for score in said], rel=1e-4)


def test_first_token_logits_are_what_the_judge_sees() -> None:
    asked = backend()
    judge = judge_of(asked, "logits", "listwise_letters")
    seen = Seen()
    read(asked, judge, [training_list(), training_list(3)], LossInputs(logits=True), seen)
    for one, scores in zip([training_list(), training_list(3)], seen.scores, strict=True):
        (said,) = judged(asked, judge, one)
        assert scores.tolist() == pytest.approx(list(said), rel=1e-4)


def test_pointwise_scores_are_what_the_judge_says() -> None:
    asked = backend()
    judge = judge_of(asked, "score,yes=Y,no=N", "pointwise")
    seen = Seen()
    read(asked, judge, [training_list()], LossInputs(logits=True), seen)
    said = [yes - no for yes, no in judged(asked, judge, training_list())]
    assert seen.scores[0].tolist() == pytest.approx(said, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("query", ["lift of a wing", "jet", "a <|im_end|> of  two\nlines"])
def test_query_likelihoods_are_what_the_judge_says(query: str) -> None:
    asked = backend()
    judge = judge_of(asked, "likelihood", "query_likelihood")
    lists = [training_list(query=query), training_list(3, "heat and flow")]
    seen = Seen()
    read(asked, judge, lists, LossInputs(logits=True), seen)
    for one, scores in zip(lists, seen.scores, strict=True):
        assert scores.tolist() == pytest.approx([said for (said,) in judged(asked, judge, one)], rel=1e-4)


def test_the_target_of_query_likelihood_is_the_query_after_the_best_document() -> None:
    asked = backend()
    judge = judge_of(asked, "likelihood", "query_likelihood")
    example = ExampleBuilder(judge, LossInputs(tokens=True)).make(training_list())
    assert asked.tokens.text([token for _, token in example.target]) == "lift of a wing"
    found = read(asked, judge, [training_list()], LossInputs(tokens=True), LOSSES.get("lm")())
    (best,) = judged(asked, judge, training_list())[-1]
    assert float(found["loss"].detach()) == pytest.approx(-best / len(example.target), rel=1e-4)


@pytest.mark.parametrize(
    ("judge", "inputs"),
    [
        ("likelihood", LossInputs(attention=True)),
        ("score", LossInputs(tokens=True)),
        ("pick", LossInputs(tokens=True)),
        ("attention", LossInputs(attention=True)),
        ("attention,calibrate=yes", LossInputs(attention=True)),
    ],
)
def test_losses_that_do_not_suit_the_judge_are_refused(judge: str, inputs: LossInputs) -> None:
    """A pointwise judge has no attention, only the likelihood judge a target, and trained attention no calibration."""
    with raises(UsageError):
        check_judge(Selector.parse(judge), inputs)
    check_judge(Selector.parse("attention,calibrate=false"), LossInputs(attention=True))


def test_letters_and_the_order_behind_them_in_one_pass() -> None:
    asked = backend()
    judge = judge_of(asked, "generate,identifiers=letters", "listwise_letters")
    example = ExampleBuilder(judge, LossInputs(tokens=True, logits=True)).make(training_list())
    alone = ExampleBuilder(judge_of(asked, "logits", "listwise_letters"), LossInputs(logits=True)).make(training_list())
    assert [term[0][1:] for term in example.terms] == [term[0][1:] for term in alone.terms]
    assert example.terms[0][0][0] == alone.terms[0][0][0]


@pytest.mark.parametrize("prompt", ["listwise", "listwise_examples"])
def test_the_lm_loss_is_transformers_own(prompt: str) -> None:
    asked = backend()
    judge = judge_of(asked, "generate", prompt)
    lists = [training_list(), training_list(4)]
    found = read(asked, judge, lists, LossInputs(tokens=True), LOSSES.get("lm")())
    own = []
    for one in lists:
        example = ExampleBuilder(judge, LossInputs(tokens=True)).make(one)
        ids = torch.tensor([example.texts[0]])
        labels = ids.clone()
        labels[:, : example.target[0][0] + 1] = -100
        own.append(float(asked.model(input_ids=ids, labels=labels).loss.detach()))
    assert float(found["loss"].detach()) == pytest.approx(sum(own) / 2, rel=1e-5)


def test_a_constant_weight_is_the_lm_loss_times_it() -> None:
    class Twice:
        of: ClassVar[Literal["tokens"]] = "tokens"
        paper = summary = ""

        def weights(self, ranks: Any) -> Any:
            return torch.full_like(ranks, 2.0)

    asked = backend()
    judge = judge_of(asked, "generate", "listwise")
    once = read(asked, judge, [training_list()], LossInputs(tokens=True), LOSSES.get("lm")())
    twice = read(asked, judge, [training_list()], LossInputs(tokens=True), Twice())
    assert float(twice["loss"].detach()) == pytest.approx(2 * float(once["loss"].detach()), rel=1e-6)


def test_only_the_label_gets_logits() -> None:
    asked = backend()
    judge = judge_of(asked, "generate", "listwise")
    shapes: list[tuple[int, ...]] = []
    handle = asked.model.lm_head.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape)))
    example = ExampleBuilder(judge, LossInputs(tokens=True)).make(training_list())
    read(asked, judge, [training_list()], LossInputs(tokens=True), LOSSES.get("lm")())
    handle.remove()
    assert shapes == [(1, len(example.target_ranks), len(asked.tokens.tokenizer))]


def gradients(asked: Any, batches: Sequence[Sequence[TrainingExample]], *, again: bool) -> dict[str, Any]:
    asked.model.zero_grad()
    asked.model.requires_grad_(True).train()
    module = ListwiseModule(
        asked.model,
        [
            WeightedLoss(name="lm", loss=LOSSES.get("importance")()),
            WeightedLoss(name="at", loss=LOSSES.get("distill")(), source="log-attention"),
        ],
        AttentionScorer(HEADS, learnt=True),
    )
    if again:
        enable_activation_checkpointing(asked.model)
    packed_attention.register()
    asked.model.set_attn_implementation(packed_attention.ATTENTION_NAME)
    for batch in batches:
        (module(**collate_examples(batch))["loss"] / len(batches)).backward()
    return {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}


def test_packed_lists_and_recomputed_activations_have_the_same_gradients() -> None:
    asked = backend()
    judge = judge_of(asked, "generate", "listwise")
    looks = LossInputs(tokens=True, attention=True)
    examples = [ExampleBuilder(judge, looks).make(training_list(n)) for n in (5, 3)]
    alone = gradients(asked, [[example] for example in examples], again=False)
    packed = gradients(asked, [examples], again=False)
    again = gradients(asked, [examples], again=True)
    assert "readout.logits" in alone
    for name, value in alone.items():
        torch.testing.assert_close(packed[name], value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-6)


def windowed() -> Any:
    """A model whose rows see 64 keys."""
    transformers = pytest.importorskip("transformers")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=len(tokenizer),
        sliding_window=64,
        max_position_embeddings=4096,
    )
    return Hf.from_loaded(transformers.MistralForCausalLM(config), tokenizer)


def test_attention_in_a_sliding_window_is_what_the_judge_sees() -> None:
    asked = windowed()
    judge = judge_of(asked, "attention,layers=1-2,calibrate=false", "icr_ie")
    seen = Seen()
    read(asked, judge, [training_list()], LossInputs(attention=True), seen, "attention")
    (said,) = judged(asked, judge, training_list())
    assert min(said) == 0  # the window has let go of the first
    assert seen.scores[0].tolist() == pytest.approx([score / len(HEADS) for score in said], rel=1e-4, abs=1e-9)


def test_a_sliding_window_is_kept() -> None:
    asked = windowed()
    judge = judge_of(asked, "generate", "listwise")
    found = read(asked, judge, [training_list()], LossInputs(tokens=True), LOSSES.get("lm")())
    example = ExampleBuilder(judge, LossInputs(tokens=True)).make(training_list())
    ids = torch.tensor([example.texts[0]])
    labels = ids.clone()
    labels[:, : example.target[0][0] + 1] = -100
    assert ids.shape[1] > 200
    own = float(asked.model(input_ids=ids, labels=labels).loss.detach())
    assert float(found["loss"].detach()) == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("window", [0, 5])
def test_packed_attention_of_16_bits_is_computed_in_32_on_a_cpu(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 19, 8, dtype=torch.bfloat16) for heads in (4, 2, 2))
    own, seen = torch.nn.functional.scaled_dot_product_attention, list[Any]()

    def kernel(*states: Any, **more: Any) -> Any:
        seen.extend(state.dtype for state in states[:3])
        return own(*states, **more)

    monkeypatch.setattr(packed_attention, "scaled_dot_product_attention", kernel)
    row = packed_attention.PackedTrainingRow(texts=[(0, 7), (7, 19)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = packed_attention.compute_packed(
            SimpleNamespace(layer_idx=0), query.float(), key.float(), value, None, packing=row, sliding_window=window
        )
    assert out.dtype is torch.bfloat16
    assert set(seen) == {torch.float32}
    positions = torch.arange(19)
    text = (positions >= 7).long()
    distance = positions[:, None] - positions
    seen_by = (distance >= 0) & (text[:, None] == text) & (distance < (window or 19))
    scores = query.double() @ key.double().repeat_interleave(2, dim=1).transpose(2, 3) / 8**0.5
    shares = scores.masked_fill(~seen_by, -torch.inf).softmax(-1)
    expected = (shares @ value.double().repeat_interleave(2, dim=1)).transpose(1, 2)
    torch.testing.assert_close(out, expected.bfloat16(), rtol=0.01, atol=0.001)
