"""The module: what it reads off a model is what the judges see, packed or not, and no more logits than are wanted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402

from rerank.errors import UsageError  # noqa: E402
from rerank.finetune.component_registry import LOSSES  # noqa: E402
from rerank.finetune.components import ListTarget  # noqa: E402
from rerank.finetune.extra.adapters import Shadow  # noqa: E402
from rerank.finetune.inspection.checkpoints import CheckpointReader, missing_adapter_modules, read_peft_config  # noqa: E402
from rerank.finetune.labels.lists import TrainingList  # noqa: E402
from rerank.finetune.recipe import Recipe, ScoreSource  # noqa: E402
from rerank.finetune.trainer import packed_attention  # noqa: E402
from rerank.finetune.trainer.base_model import CpuDropout, use_cpu_dropout  # noqa: E402
from rerank.finetune.trainer.examples import (  # noqa: E402
    ExampleBuilder,
    LossInputs,
    TargetTokens,
    TrainingExample,
    check_judge,
    render_target_order,
    tokenize_target_text,
)
from rerank.finetune.trainer.listwise_module import (  # noqa: E402
    AttentionScorer,
    ListwiseModule,
    WeightedLoss,
    collate_examples,
    enable_activation_checkpointing,
    fit_head_weights,
)
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from rerank.judges import Limits, open_judge  # noqa: E402
from rerank.lm.tokenizers import HfTokens  # noqa: E402
from rerank.prompts import load_prompt  # noqa: E402
from rerank.selector import Selector  # noqa: E402
from rerank.types import Document, Query, Window  # noqa: E402
from tests.backends.conftest import in_memory  # noqa: E402
from tests.finetune.small import (  # noqa: E402
    ATTENTION,
    WORDS,
    byte_tokenizer,
    collection_folder,
    model_folder,
    recipe,
    word_tokenizer,
)
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
    return in_memory(model, tokenizer)


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
    return in_memory(transformers.MistralForCausalLM(config), tokenizer)


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


def transformers_loss(asked: Any, example: TrainingExample) -> float:
    ids = torch.tensor([example.texts[0]])
    labels = ids.clone()
    labels[:, : example.target[0][0] + 1] = -100
    return float(asked.model(input_ids=ids, labels=labels).loss.detach())


@pytest.mark.parametrize("prompt", ["listwise", "listwise_examples"])
def test_the_lm_loss_is_transformers_own(prompt: str) -> None:
    asked = backend()
    judge = judge_of(asked, "generate", prompt)
    lists = [training_list(), training_list(4)]
    found = read(asked, judge, lists, LossInputs(tokens=True), LOSSES.get("lm")())
    own = [transformers_loss(asked, ExampleBuilder(judge, LossInputs(tokens=True)).make(one)) for one in lists]
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
    assert len(example) > 200
    assert float(found["loss"].detach()) == pytest.approx(transformers_loss(asked, example), rel=1e-5)


@pytest.mark.parametrize("window", [0, 5])
def test_packed_attention_of_16_bits_is_computed_in_32_on_a_cpu(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 19, 8, dtype=torch.bfloat16) for heads in (4, 2, 2))
    own, seen, calls = torch.nn.functional.scaled_dot_product_attention, list[Any](), list[Any]()

    def kernel(*states: Any, **more: Any) -> Any:
        seen.extend(state.dtype for state in states[:3])
        calls.append((states[1].shape[1], states[3] is None, more["is_causal"], more["enable_gqa"]))
        return own(*states, **more)

    monkeypatch.setattr(packed_attention, "scaled_dot_product_attention", kernel)
    row = packed_attention.PackedTrainingRow(texts=[(0, 7), (7, 19)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = packed_attention.compute_packed(
            SimpleNamespace(layer_idx=0), query.float(), key.float(), value, None, packing=row, sliding_window=window
        )
    assert out.dtype is torch.bfloat16
    assert set(seen) == {torch.float32}
    grouped = (2, True, True, True)  # heads of keys, no mask, causal, and the kernel groups the heads
    masked = (4, False, False, False)
    assert calls == ([masked] * 2 if window else [grouped] * 2)
    positions = torch.arange(19)
    text = (positions >= 7).long()
    distance = positions[:, None] - positions
    seen_by = (distance >= 0) & (text[:, None] == text) & (distance < (window or 19))
    scores = query.double() @ key.double().repeat_interleave(2, dim=1).transpose(2, 3) / 8**0.5
    shares = scores.masked_fill(~seen_by, -torch.inf).softmax(-1)
    expected = (shares @ value.double().repeat_interleave(2, dim=1)).transpose(1, 2)
    torch.testing.assert_close(out, expected.bfloat16(), rtol=0.01, atol=0.001)


ORDER = (11, 0, 99)
NAMES = tuple(str(at) for at in range(1, 101))


def made(tokenizer: Any, begun: str = "") -> tuple[TargetTokens, list[str]]:
    tokens = HfTokens(tokenizer, context_size=4096)
    text, spans = render_target_order(ORDER, NAMES, begun)
    label = tokenize_target_text(tokens, f"Order them: {begun}", text, spans)
    return label, [tokenizer.decode([at]) for at in label.ids]


def test_digits_apart() -> None:
    label, shown = made(byte_tokenizer())
    assert shown[:7] == ["[", "1", "2", "]", " ", ">", " "]
    assert label.ranks == (1, 1, 1, 1, 0, 0, 2, 2, 2, 2, 0, 0, 3, 3, 3, 3, 3, 3, 0)
    assert label.first == 1


def test_numbers_whole() -> None:
    label, shown = made(word_tokenizer())
    assert shown == ["[", "12", "]", ">", "[", "1", "]", ">", "[", "100", "]", "</s>"]
    assert label.ranks == (1, 1, 1, 0, 2, 2, 2, 0, 3, 3, 3, 0)


def test_marks_joined() -> None:
    merges = ("Ġ >", "Ġ [", "] Ġ>")
    label, shown = made(byte_tokenizer(merges=merges, across=True))
    assert shown[:6] == ["[", "1", "2", "] >", " [", "1"]
    assert label.ranks == (1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 0), "a token is its first visible character's"


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), word_tokenizer(), byte_tokenizer(merges=("Ġ >", "Ġ ["))])
def test_every_identifier_gets_its_weight_in_every_tokenizer(tokenizer: Any) -> None:
    label, _ = made(tokenizer)
    weights = LOSSES.get("importance")().weights(torch.tensor(label.ranks, dtype=torch.float32))
    seen = {rank: float(weight) for rank, weight in zip(label.ranks, weights, strict=True)}
    assert seen == pytest.approx({1: 2.0, 2: 1.6309, 3: 1.5, 0: 1.0}, abs=1e-4)


def test_a_reply_that_the_prompt_has_begun() -> None:
    label, shown = made(byte_tokenizer(), begun="[")
    assert shown[:4] == ["1", "2", "]", " "]
    assert label.ranks[:4] == (1, 1, 1, 0)
    assert label.first == 0


def test_a_token_over_the_border_is_cut() -> None:
    tokenizer = byte_tokenizer(merges=("Ġ [",), across=True)
    label, shown = made(tokenizer)
    assert shown[0] == "[", "the prompt ends with a space that would be joined to the bracket"
    assert tokenizer.decode(label.ids[:4]) == "[12]"


LAYER_HEADS = [(0, head) for head in range(4)]


def module(*, learnt: bool = True) -> ListwiseModule:
    term = WeightedLoss(name="distill", loss=LOSSES.get("distill")(normalise=False), source="log-attention")
    return ListwiseModule(tiny_model(), [term], AttentionScorer(LAYER_HEADS, learnt=learnt))


def seen(lists: int = 12, *, power: float, head: int = 2) -> list[tuple[Any, TrainingExample]]:
    """Lists in which one head, less what long documents get for their length, is what the teacher says."""
    chance = torch.Generator().manual_seed(0)
    found = []
    for _ in range(lists):
        lengths = torch.randint(5, 60, (6,), generator=chance).float()
        worth = torch.rand(6, generator=chance) + 0.1
        shares = torch.rand(4, 6, generator=chance)
        shares[head] = worth * lengths**-power
        ends = lengths.cumsum(0).int().tolist()
        passages = tuple(zip([0, *ends[:-1]], ends, strict=True))
        ranks = tuple((-worth).argsort().argsort().add(1).tolist())
        scores = tuple((worth.log()).tolist())
        found.append((shares / 100, TrainingExample(texts=((0,),), passages=passages, ranks=ranks, scores=scores)))
    return found


@pytest.mark.parametrize(("power", "learnt"), [(0.0, True), (-1.0, False)])
def test_the_head_that_knows_is_found_and_so_is_the_power(power: float, learnt: bool) -> None:
    made = module(learnt=learnt)
    fit_head_weights(made, seen(power=power))
    readout = made.readout
    assert readout is not None
    weights = dict(zip(readout.heads, readout.weights.tolist(), strict=True))
    assert max(weights, key=weights.__getitem__) == (0, 2)
    assert weights[0, 2] > 0.5
    assert float(readout.power.detach()) == pytest.approx(power, abs=0.25)
    assert readout.logits.requires_grad is learnt
    assert readout.logits.grad is None


def test_what_was_fitted_is_kept_and_read(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    collection = collection_folder(tmp_path / "collection")
    asked = recipe(
        model,
        collection,
        method={"method": "full:attention,calibrate=false", "prompt": "attention_both"},
        losses=[{"name": "distill", "on": "log-attention"}],
        readout={"layers": "0-1", "fit": 6, "learn": False},
        validation={"collection": f"jsonl:{collection}", "depth": 6, "max_queries": 4, "every": 2},
    )
    train_adapter(asked, tmp_path / "out", device="cpu")
    heads = json.loads((tmp_path / "out" / "heads.json").read_text())
    assert len(heads["weights"]) == len(heads["heads"]) == 8
    assert sum(heads["weights"]) == pytest.approx(1, abs=1e-4)
    assert heads["weights"] == sorted(heads["weights"], reverse=True)
    assert heads["length_power"] != 0


WATCHED: dict[str, Any] = {**ATTENTION, "training": {"steps": 2, "accumulation": 1, "dtype": "float32"}}
#: Of layer 1, the last that is watched.
BEHIND = ("v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": {"name": "lora-ga", "r": 4}},
        {"adapter": {"name": "lora-sb", "r": 4, "eta": 1e-4}},
        {"adapter": {"name": "lora", "r": 4}, "ranks": {"name": "contribution"}},
        {"adapter": {"name": "lora-ga", "r": 4}, "ranks": {"name": "contribution", "least": 1}},
    ],
    ids=["lora-ga", "lora-sb", "contribution", "both"],
)
def test_what_lies_behind_stays_and_all_else_trains(changes: dict[str, Any], tmp_path: Path) -> None:
    model, collection = model_folder(tmp_path / "model"), collection_folder(tmp_path / "collection")
    train_adapter(recipe(model, collection, **WATCHED, **changes), tmp_path / "out", device="cpu")
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers"

    def change(name: str) -> Any:
        return saved[f"{prefix}.{name}.lora_B.weight"] @ saved[f"{prefix}.{name}.lora_A.weight"]

    there = {key.removeprefix(f"{prefix}.").rpartition(".lora_")[0] for key in saved}
    behind = {f"1.{part}.{name}" for name in BEHIND for part in ("self_attn", "mlp")}
    assert all(torch.isfinite(one).all() for one in saved.values())
    assert not any(change(name).any() for name in there & behind)
    assert all(change(name).any() for name in there - behind)
    assert {"0.self_attn.v_proj", "1.self_attn.q_proj"} <= there
    if changes.get("ranks") == {"name": "contribution"}:
        assert not there & behind
    # The model had three layers and was cut to two: the settings say which matrices the adapter is for.
    stored = CheckpointReader(tmp_path / "out" / "adapter_model.safetensors")
    settings = read_peft_config(tmp_path / "out")
    assert missing_adapter_modules(stored, CheckpointReader(model), settings) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (WATCHED, "'distill'"),
        ({"training": {"batch_size": 2}}, "batch_size = 2"),
        ({"method": {"method": "pointwise"}, "losses": [{"name": "ranknet"}]}, "one document"),
    ],
)
def test_a_network_of_its_own_is_refused_where_texts_are_packed_or_watched(
    changes: dict[str, Any], reason: str
) -> None:
    given = {"data": {"lists": ["lists.jsonl"]}, "adapter": {"name": "shadow"}, **changes}
    with raises(UsageError, "'shadow'", reason):
        Shadow().check_recipe(Recipe.make(given))
    Shadow().check_recipe(Recipe.make({"data": {"lists": ["lists.jsonl"]}, "adapter": {"name": "shadow"}}))


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.9])
def test_the_share_of_zeros_and_the_scale_are_those_of_dropout(probability: float) -> None:
    torch.manual_seed(1)
    out = CpuDropout(probability)(torch.ones(401, 997))
    share = float((out == 0).float().mean())
    assert share == pytest.approx(probability, abs=5 * (probability * (1 - probability) / out.numel()) ** 0.5)
    assert out[out != 0].unique().tolist() == [pytest.approx(1 / (1 - probability), rel=1e-3)]


def test_neighbouring_elements_are_independent() -> None:
    """Four elements share a random number."""
    torch.manual_seed(1)
    kept = (CpuDropout(0.5)(torch.ones(1 << 20)) != 0).float().view(-1, 4)
    assert torch.corrcoef(kept.T).fill_diagonal_(0).abs().max() < 0.01


def test_gradients_pass_through_what_is_kept_and_the_seed_decides() -> None:
    layer, values = CpuDropout(0.3), torch.randn(7, 13, requires_grad=True)
    torch.manual_seed(3)
    out = layer(values)
    (gradient,) = torch.autograd.grad(out.sum(), values)
    torch.testing.assert_close(gradient, out.detach() / values.detach())
    torch.manual_seed(3)
    assert torch.equal(layer(values), out)


@pytest.mark.parametrize("values", [torch.ones(6, 9).T.bfloat16(), torch.ones(3, 0), torch.ones(())])
def test_every_shape_and_data_type(values: Any) -> None:
    out = CpuDropout(0.5)(values)
    assert (out.dtype, out.shape) == (values.dtype, values.shape)
    assert set(out.flatten().tolist()) <= {0.0, 2.0}


def test_in_evaluation_and_at_the_ends_it_is_torchs() -> None:
    values = torch.randn(5, 3)
    assert torch.equal(CpuDropout(0.5).eval()(values), values)
    assert torch.equal(CpuDropout(0.0)(values), values)
    assert torch.equal(CpuDropout(1.0)(values), torch.zeros(5, 3))


def test_each_dropout_of_a_model_is_replaced_but_no_subclass() -> None:
    inner = nn.Sequential(nn.Dropout(0.2), nn.Dropout1d(0.3))
    model = nn.Sequential(nn.Dropout(0.1), inner).eval()
    use_cpu_dropout(model)
    assert [type(layer) for layer in (model[0], *inner)] == [CpuDropout, CpuDropout, nn.Dropout1d]
    assert [layer.p for layer in model.modules() if isinstance(layer, CpuDropout)] == [0.1, 0.2]
    assert not any(layer.training for layer in model.modules())


def test_trainings_use_it(model: Path, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    own, calls = CpuDropout.forward, []

    def forward(self: CpuDropout, values: Any) -> Any:
        calls.append(self.p)
        return own(self, values)

    monkeypatch.setattr(CpuDropout, "forward", forward)
    asked = recipe(model, collection, adapter={"name": "lora", "r": 4, "dropout": 0.1}, training={"steps": 1})
    train_adapter(asked, tmp_path / "out", device="cpu")
    assert set(calls) == {0.1}
