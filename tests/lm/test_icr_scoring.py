"""Scores from attention, against the definition: two full passes, all weights of all layers, no cache."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from rerank.backends.hf import Hf
from rerank.errors import UsageError
from rerank.lm import icr_scoring
from rerank.lm.icr_scoring import sum_calibrated
from rerank.lm.loading import quiet_transformers
from rerank.prompts.base import Message, Prompt
from rerank.tasks import AttentionTask, Request, Sampling
from rerank.types import Document, Query, Window
from tests.backends.conftest import in_memory, make_model, make_tokenizer
from tests.raising import raises

PASSAGES = ("[1] snow falls", "[2] ", "[3] rain in the hills, all day long", "[4] x", "[5] snow falls")
HEAD, TAIL = "Here are paragraphs:\n\n", "\n\nFind what is relevant.\n\nQuery: "
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 120},
    "Qwen2": {},
    "Qwen3": {},
    "Gemma2": {"sliding_window": 40, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "Gemma3": {"sliding_window": 40, "num_hidden_layers": 6},
    "GptOss": {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 40, "initializer_range": 0.2},
    "GPTNeoX": {},
    "Olmo2": {},
    "Phi3": {},
}


def content(query: str, passages: Sequence[str] = PASSAGES) -> str:
    return HEAD + "\n\n".join(passages) + TAIL + query


def spans(passages: Sequence[str] = PASSAGES) -> tuple[tuple[int, int], ...]:
    found, at = [], len(HEAD)
    for passage in passages:
        found.append((at, at + len(passage)))
        at += len(passage) + 2
    return tuple(found)


def chat(query: str, passages: Sequence[str] = PASSAGES) -> Prompt:
    return (Message("user", content(query, passages)),)


def task(**more: Any) -> AttentionTask:
    passages = more.pop("passages", PASSAGES)
    tail = len(HEAD + "\n\n".join(passages)) + 2
    return AttentionTask(spans=spans(passages), tail=tail, **{"null": chat("N/A", passages), **more})


def ask(
    hf: Hf, asked: AttentionTask, query: str = "when does snow fall?", passages: Sequence[str] = PASSAGES
) -> list[float]:
    docs = tuple(Document(id=str(at)) for at in range(len(passages)))
    request = Request(
        prompt=chat(query, passages),
        sampling=Sampling(max_tokens=0),
        window=Window(Query(id="q", text=query), docs),
        task=asked,
    )
    (reply,) = hf.generate([request])
    assert reply.finish == "stop", reply.error
    return list(reply.scores)


class Reference:
    """The authors' two full passes, by eager attention with all its weights."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer

    def weights(self, query: str, asked: AttentionTask) -> tuple[torch.Tensor, int]:
        """(layers, heads, tokens), mean over the rows that ask; and where the user's text begins (a byte a token)."""
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content(query)}], tokenize=False, add_generation_prompt=True
        )
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        begin = 1 + len("user\n")  # the turn's mark is one token
        assert self._tokenizer.decode(ids[begin : begin + len(HEAD)]) == HEAD
        own = self._model.config._attn_implementation
        self._model.set_attn_implementation("eager")
        with torch.inference_mode():
            out = self._model(torch.tensor([ids]), output_attentions=True, use_cache=False)
        self._model.set_attn_implementation(own)
        tail = begin + asked.tail
        return torch.stack([a[0, :, tail:, :tail].double().mean(1) for a in out.attentions]), begin

    def kept(self, query: str, asked: AttentionTask, pick: Callable[[torch.Tensor], torch.Tensor]) -> list[list[float]]:
        """Of each passage, what its tokens add, those left out being nan."""
        (real, begin), (null, _) = self.weights(query, asked), self.weights("N/A", asked)
        made = []
        for start, end in asked.spans:
            c = (pick(real) - pick(null))[begin + start : begin + end].tolist()
            limit = statistics.mean(c) - 2 * statistics.stdev(c) if len(c) > 1 and len(set(c)) > 1 else -math.inf
            made.append([value if value > limit else math.nan for value in c])
        return made

    def scores(self, query: str, asked: AttentionTask, pick: Callable[[torch.Tensor], torch.Tensor]) -> list[float]:
        return [sum(v for v in values if v == v) for values in self.kept(query, asked, pick)]


def everything(weights: torch.Tensor) -> torch.Tensor:
    return weights.sum((0, 1))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def close(found: Sequence[float], expected: Sequence[float]) -> bool:
    largest = max(map(abs, expected))
    return all(abs(a - b) <= 1e-3 * largest for a, b in zip(found, expected, strict=True))


def test_scores_equal_the_definition(kind: str) -> None:
    model, tokenizer = make_model(kind, **KINDS[kind]), make_tokenizer()
    with quiet_transformers():
        found = ask(in_memory(model, tokenizer), task())
        expected = Reference(model, tokenizer).scores("when does snow fall?", task(), everything)
    assert close(found, expected)
    assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("piece", [7, 20, 64])
@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Gemma2"])
def test_long_prompts_are_prefilled_in_blocks(monkeypatch: pytest.MonkeyPatch, name: str, piece: int) -> None:
    hf = in_memory(make_model(name, **KINDS[name]), make_tokenizer())
    whole = ask(hf, task())
    monkeypatch.setattr(icr_scoring, "_PREFILL_BLOCK", piece)
    assert close(ask(hf, task()), whole)


@pytest.mark.parametrize("name", ["Llama", "Gemma2"])
def test_heads_and_layers_are_chosen(name: str) -> None:
    model, tokenizer = make_model(name, **KINDS[name], num_hidden_layers=4), make_tokenizer()
    hf, reference = in_memory(model, tokenizer), Reference(model, tokenizer)
    query = "when does snow fall?"
    with quiet_transformers():
        heads = ask(hf, task(heads=((2, 1), (0, 3))))
        band = ask(hf, task(layers=(1, 2)))
        weighted = ask(hf, task(heads=((2, 1), (0, 3)), weights=(0.25, 2.0)))
        assert close(weighted, reference.scores(query, task(), lambda w: 0.25 * w[2, 1] + 2 * w[0, 3]))
        assert close(heads, reference.scores(query, task(), lambda w: w[2, 1] + w[0, 3]))
        assert close(band, reference.scores(query, task(), lambda w: w[1:3].sum((0, 1))))
        (real, begin), (null, _) = reference.weights(query, task()), reference.weights("N/A", task())
        each = torch.tensor(ask(hf, task(per_head=True))).view(4, 4, len(PASSAGES))
    sums = [(real - null)[:, :, begin + start : begin + end].sum(2) for start, end in spans()]
    assert torch.allclose(each, torch.stack(sums, 2).float(), atol=1e-5)


def test_without_a_null_query_nothing_is_subtracted_or_filtered() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    found = ask(in_memory(model, tokenizer), task(null=()))
    with quiet_transformers():
        weights, begin = Reference(model, tokenizer).weights("when does snow fall?", task())
    expected = [float(everything(weights)[begin + start : begin + end].sum()) for start, end in spans()]
    assert close(found, expected)
    assert all(score > 0 for score in found)


def test_layers_above_the_last_one_used_do_not_run() -> None:
    model = make_model(num_hidden_layers=4)
    ran: list[int] = []
    for at, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, at=at: ran.append(at))
    model.lm_head.register_forward_hook(lambda *_: ran.append(99))
    ask(in_memory(model, make_tokenizer()), task(layers=(1, 2)))
    assert sorted(set(ran)) == [0, 1]  # of the last layer no more than its attention


def test_passages_are_prefilled_once_and_memory_is_not_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    plain = icr_scoring._WeightFormula.weights

    def measured(self: Any, scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        shapes.append((scores.shape[1], scores.shape[2]))
        return plain(self, scores, visible)

    monkeypatch.setattr(icr_scoring._WeightFormula, "weights", measured)
    model = make_model()
    read: list[int] = []
    model.model.embed_tokens.register_forward_hook(lambda _, given, __: read.append(given[0].shape[1]))
    ask(in_memory(model, make_tokenizer()), task())
    documents, real, null = read
    assert documents > 100
    assert max(rows for rows, _ in shapes) == max(real, null) < documents
    assert len(shapes) == 2 * 2


def test_ties_stay_ties_and_one_passage_is_enough() -> None:
    even = make_model()  # attends to everything alike
    for weights in even.parameters():
        weights.data.zero_()
    hf = in_memory(even, make_tokenizer())
    same = ("[1] abc", "[2] abc")
    scores = ask(hf, task(passages=same), passages=same)
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert len(ask(hf, task(passages=("[1] abc",)), passages=("[1] abc",))) == 1


def test_special_tokens_in_a_passage_move_nothing() -> None:
    hf = in_memory(make_model(), make_tokenizer())
    marked = ("[1] <|im_end|> snow <|im_start|>", "[2] falls")
    written = tuple(text.replace("<|", "< |") for text in marked)
    assert ask(hf, task(passages=marked), passages=marked) == pytest.approx(
        ask(hf, task(passages=written), passages=written)
    )


def test_a_model_with_recurrent_states_is_refused() -> None:
    mamba = make_model("Mamba", state_size=4, num_hidden_layers=2, head_dim=None)
    mamba.config.num_attention_heads = 4
    hf = Hf(mamba, make_tokenizer(), identity={"model": "mamba"}, options=_context())
    with quiet_transformers(), pytest.raises(UsageError):
        ask(hf, task())


def _context() -> Any:
    from rerank.tasks import BackendOptions

    return BackendOptions(context_size=512)


@pytest.mark.parametrize(("asked", "named"), [({"heads": ((7, 0),)}, ("(7, 0)",)), ({"layers": (1, 5)}, ("1", "5"))])
def test_heads_that_the_model_lacks_are_refused(asked: dict[str, Any], named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        ask(in_memory(make_model(), make_tokenizer()), task(**asked))


def test_a_query_before_the_passages_is_refused() -> None:
    null = (Message("user", "Something else entirely; " + content("N/A")),)
    with raises(UsageError, "--prompt icr_qa"):
        ask(in_memory(make_model(), make_tokenizer()), task(null=null))


def test_the_settings_of_the_model_are_restored() -> None:
    model = make_model()
    hf = in_memory(model, make_tokenizer())
    before = hf.generate([Request(prompt=chat("a"), sampling=Sampling(max_tokens=5))])
    ask(hf, task())
    assert model.config._attn_implementation == "sdpa"
    assert hf.generate([Request(prompt=chat("a"), sampling=Sampling(max_tokens=5))])[0].text == before[0].text


def test_the_token_filter_by_hand() -> None:
    def score(*c: float, filtered: bool = True) -> float:
        return sum_calibrated(torch.tensor(c), torch.zeros(len(c)), filtered=filtered)

    outlier = (1.0,) * 9 + (-5.0,)
    assert score(*outlier) == 9.0
    assert score(*outlier, filtered=False) == 4.0
    # mean 0; two sd of n - 1 are 4.147, of n 3.786: only the latter would leave -4 out
    assert score(2.0, 1.0, 0.5, 0.5, 0.0, -4.0) == 0.0
    assert score(-1.0, -2.0) == -3.0
    assert score(0.5) == 0.5
    assert score() == 0.0
    assert score(0.1, 0.1, 0.1) == pytest.approx(0.3)
