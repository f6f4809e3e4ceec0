"""Constrained decoding with skipping, against plain greedy decoding under the same mask: same tokens, fewer passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import GenerationConfig

from rerank.errors import BackendError
from rerank.lm.decoding import decode_permutations
from rerank.lm.forward_pass import make_kv_cache
from rerank.lm.loading import quiet_transformers
from rerank.lm.permutation_grammar import PermutationGrammar, tokenize_identifiers
from rerank.prompts.base import Message
from rerank.tasks import PermutationTask, Request, Sampling
from rerank.types import Document, Query, Window
from tests.backends.conftest import in_memory, make_model, make_tokenizer
from tests.raising import raises

SEPARATOR = " > "
GREEDY = Sampling(max_tokens=1)


def items(size: int) -> tuple[str, ...]:
    return tuple(f"[{number}]" for number in range(1, size + 1))


def grammar(size: int, count: int) -> set[str]:
    """Every text that is right, written out: knows nothing of trees."""
    return {SEPARATOR.join(order) for order in permutations(items(size), count)}


def next_bytes(texts: set[str], written: str) -> list[int]:
    return sorted({ord(text[len(written)]) for text in texts if text.startswith(written) and text != written})


class Plain:
    """One token a pass, no cache, no padding, nothing skipped."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.passes = 0

    def __call__(self, prompt: Sequence[int], texts: set[str]) -> str:
        written = ""
        while ways := next_bytes(texts, written):
            tokens = [self._tokenizer.convert_tokens_to_ids(self._tokenizer.tokenize(chr(way))[0]) for way in ways]
            ids = [*prompt, *self._tokenizer(written)["input_ids"]]
            with torch.inference_mode():
                logits = self._model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            self.passes += 1
            written += chr(ways[int(logits[tokens].argmax())])
        return written


def chain(tokenizer: Any, size: int, count: int) -> PermutationGrammar:
    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    return PermutationGrammar(*tokenize_identifiers(encode, items(size), SEPARATOR), count)


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Mistral", "Gemma2"])
@pytest.mark.parametrize(("size", "count"), [(6, 6), (12, 3)])
def test_it_is_greedy_decoding_under_the_same_mask(kind: str, size: int, count: int) -> None:
    more: dict[str, Any] = {"sliding_window": 16} if kind in ("Mistral", "Gemma2") else {}
    model, tokenizer = make_model(kind, **more), make_tokenizer()
    rows, texts = prompts(40, 7, 23), grammar(size, count)
    plain = Plain(model, tokenizer)
    expected = [plain(row, texts) for row in rows]
    with quiet_transformers():
        made = decode_permutations(model, rows, [chain(tokenizer, size, count)] * 3, [GREEDY] * 3, [0] * 3)
    assert [tokenizer.decode(row.tokens) for row in made] == expected
    assert sum(row.steps + 1 for row in made) < plain.passes / 2


def test_it_is_what_generate_gives_under_the_same_mask() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    (prompt,), texts = prompts(30), grammar(5, 5)

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        written = tokenizer.decode(ids[30:])
        ways = next_bytes(texts, written)
        return [tokenizer(chr(way))["input_ids"][0] for way in ways] or [257]

    config = GenerationConfig(max_new_tokens=60, do_sample=False, eos_token_id=257, pad_token_id=258)  # type: ignore[no-untyped-call]
    with quiet_transformers():
        out = model.generate(torch.tensor([prompt]), generation_config=config, prefix_allowed_tokens_fn=allowed)
        (row,) = decode_permutations(model, [prompt], [chain(tokenizer, 5, 5)], [GREEDY], [0])
    assert out[0, 30:-1].tolist() == row.tokens


def test_the_best_few_take_fewer_steps() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    (prompt,) = prompts(30)
    (whole,) = decode_permutations(model, [prompt], [chain(tokenizer, 30, 30)], [GREEDY], [0])
    (few,) = decode_permutations(model, [prompt], [chain(tokenizer, 30, 3)], [GREEDY], [0])
    assert few.state.order == whole.state.order[:3]
    assert few.steps < whole.steps / 5
    assert sorted(whole.state.order) == list(range(30))


def test_logits_that_are_not_numbers_are_an_error_and_no_order() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    model.lm_head.weight.data[:] = float("nan")
    with raises(BackendError, "not numbers", "--dtype float32"):
        decode_permutations(model, prompts(5), [chain(tokenizer, 5, 5)], [GREEDY], [0])


def test_chance_is_each_rows_own() -> None:
    model, made = make_model(), chain(make_tokenizer(), 9, 9)
    warm = Sampling(max_tokens=1, temperature=1.5)
    rows = prompts(20, 33)
    together = decode_permutations(model, rows, [made, made], [warm, warm], [4, 5])
    (second,) = decode_permutations(model, rows[1:], [made], [warm], [5])
    assert second.state.order == together[1].state.order
    orders = {tuple(decode_permutations(model, rows[:1], [made], [warm], [seed])[0].state.order) for seed in range(8)}
    assert len(orders) > 4


def test_where_there_is_no_choice_the_model_is_not_asked() -> None:
    (row,) = decode_permutations(_Silent(), [[1, 2]], [chain(make_tokenizer(), 1, 1)], [GREEDY], [0])
    assert (row.state.order, row.steps, row.log_probs) == ([0], 0, [0])


def choice_log_probs(model: Any, tokenizer: Any, prompt: Sequence[int], text: str, texts: set[str]) -> list[float]:
    """Log-probabilities of the identifiers of a reply: a softmax over the bytes that any allowed text has next."""
    values, value = [], 0.0
    for length, char in enumerate(text):
        ways = next_bytes(texts, text[:length])
        ids = [*prompt, *tokenizer(text[:length])["input_ids"]]
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        tokens = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(chr(way))[0]) for way in ways]
        value += float(logits[tokens].log_softmax(-1)[ways.index(ord(char))])
        if char == "]":
            values.append(value)
            value = 0.0
    return values


@pytest.mark.parametrize(("size", "count"), [(1, 1), (5, 5), (12, 3)])
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_each_identifier_has_its_log_probability_among_the_unused(size: int, count: int, temperature: float) -> None:
    model, tokenizer = make_model(), make_tokenizer()
    sampling, rows = Sampling(max_tokens=1, temperature=temperature), prompts(20, 9)
    made = decode_permutations(model, rows, [chain(tokenizer, size, count)] * 2, [sampling] * 2, [1, 2])
    for prompt, row in zip(rows, made, strict=True):
        expected = choice_log_probs(model, tokenizer, prompt, tokenizer.decode(row.tokens), grammar(size, count))
        assert len(row.log_probs) == count
        assert row.log_probs == pytest.approx(expected, abs=1e-4)
        assert row.log_probs[-1] == 0 if size == count else row.log_probs[-1] < 0


def test_the_probabilities_of_all_permutations_sum_to_one() -> None:
    model, made = make_model(), chain(make_tokenizer(), 3, 3)
    (prompt,), warm = prompts(20), Sampling(max_tokens=1, temperature=3.0)
    rows = decode_permutations(model, [prompt] * 60, [made] * 60, [warm] * 60, range(60))
    probabilities = {tuple(row.state.order): sum(row.log_probs) for row in rows}
    assert len(probabilities) == 6
    assert sum(map(math.exp, probabilities.values())) == pytest.approx(1, abs=1e-4)


class _Silent:
    """A model that fails when asked."""

    def __init__(self) -> None:
        from types import SimpleNamespace

        self.config = SimpleNamespace(model_type="silent", _attn_implementation="sdpa")
        self.device = torch.device("cpu")
        self.generation_config = None

    def get_output_embeddings(self) -> None:
        """It has none."""

    def parameters(self) -> tuple[()]:
        """None either."""
        return ()


def test_the_backend_writes_the_chain_behind_a_begun_reply() -> None:
    hf = in_memory(make_model(), make_tokenizer())
    docs = tuple(Document(id=str(at)) for at in range(4))
    asked = [
        Request(
            prompt=(Message("user", "Order these."), *begun),
            sampling=Sampling(max_tokens=40),
            window=Window(Query(id="q", text="q"), docs),
            task=PermutationTask(items=items(4), count=count),
        )
        for begun in ((), (Message("assistant", "["),))
        for count in (4, 2)
    ]
    replies = hf.generate(asked)
    for request, reply in zip(asked, replies, strict=True):
        assert isinstance(request.task, PermutationTask)
        named = reply.text.split(SEPARATOR)
        assert len(set(named)) == len(named) == request.task.count
        assert set(named) <= set(items(4))
        assert (reply.finish, reply.error) == ("stop", "")
        assert 0 < reply.steps + 1 < reply.tokens_out
        assert len(reply.scores) == request.task.count
    assert replies[1].text.split(SEPARATOR) == replies[0].text.split(SEPARATOR)[:2]


def test_the_cache_has_about_the_size_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not that of the sum of the longest permutations of all rows: 5,622 positions here."""
    caches: list[Any] = []

    def record(config: Any, capacity: int) -> Any:
        caches.append(make_kv_cache(config, capacity))
        return caches[-1]

    model, made = make_model(), chain(make_tokenizer(), 40, 40)
    alone = [decode_permutations(model, [prompt], [made], [GREEDY], [0])[0] for prompt in prompts(*range(2, 22))]
    monkeypatch.setattr("rerank.lm.decoding.make_kv_cache", record)
    rows = decode_permutations(model, prompts(*range(2, 22)), [made] * 20, [GREEDY] * 20, [0] * 20)
    assert [row.state.order for row in rows] == [row.state.order for row in alone]
    layer = caches[0].layers[0]
    used, reserved = layer.keys.shape[2], layer._buffers[0].shape[2]
    assert made.max_tokens < used  # it grew
    assert used <= reserved <= 1.2 * used + 64
