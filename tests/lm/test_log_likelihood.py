"""Log-probabilities of continuations, against one forward pass a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from rerank.errors import UsageError
from rerank.lm import log_likelihood
from rerank.lm.log_likelihood import compute_log_likelihoods
from tests.backends.conftest import make_model

GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
#: Class of model -> its settings; windows are shorter than the prompts, so that they matter.
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Gemma2": {"sliding_window": 8, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 10.0},
    "GPT2": {},
    "Mistral": {"sliding_window": 8},
}
PROMPTS = [list(range(40, 70)), [7], list(range(100, 112)), list(range(200, 221))]
CONTINUATIONS: list[list[list[int]]] = [
    [[65], [66], [67]],  # identifiers
    [[10, 11, 12, 13, 14]],  # a query
    [[9, 1], [9, 2], [9]],  # a common beginning, then one token at most
    [[3, 4, 5], [3, 7], [8], [], [6, 6, 6, 6]],  # anything
]


def make(kind: str, *, dtype: str = "float32") -> Any:
    if kind == "GPT2":
        import transformers

        torch.manual_seed(0)
        settings: Any = {"vocab_size": 260, "bos_token_id": 256, "eos_token_id": 257, **GPT2}
        config = transformers.GPT2Config(**settings)
        config.initializer_range = 0.5
        model: Any = transformers.GPT2LMHeadModel(config)
        return model.eval().to(getattr(torch, dtype))
    return make_model(kind, **KINDS[kind]).to(getattr(torch, dtype))


def plainly(model: Any, prompt: Sequence[int], text: Sequence[int]) -> float:
    """One pass a token, nothing padded, nothing cached."""
    total = 0.0
    with torch.inference_mode():
        for at, token in enumerate(text):
            logits = model(input_ids=torch.tensor([[*prompt, *text[:at]]]), use_cache=False).logits[0, -1]
            total += float(logits.double().log_softmax(dim=-1)[token])
    return total


def expected(model: Any) -> list[list[float]]:
    pairs = zip(PROMPTS, CONTINUATIONS, strict=True)
    return [[plainly(model, prompt, text) for text in texts] for prompt, texts in pairs]


def largest_difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    assert [len(row) for row in one] == [len(row) for row in other]
    return max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_equals_one_pass_a_token(kind: str) -> None:
    model = make(kind)
    assert largest_difference(compute_log_likelihoods(model, PROMPTS, CONTINUATIONS), expected(model)) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_near_what_its_weights_mean(kind: str) -> None:
    model = make(kind, dtype="bfloat16")
    found = compute_log_likelihoods(model, PROMPTS, CONTINUATIONS)
    wanted = expected(model.float())
    size = max(abs(value) for row in wanted for value in row)
    assert largest_difference(found, wanted) < 0.05 * size


def test_bfloat16_models_give_float32_logits_and_are_left_as_they_were() -> None:
    """Rounded logits of a vocabulary are few different numbers, so that identifiers tie."""
    model = make("Llama", dtype="bfloat16")
    every = [[token] for token in range(260)]
    (found,) = compute_log_likelihoods(model, [PROMPTS[0]], [every])
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    assert logits.dtype == torch.bfloat16
    assert len(set(found)) > 255 > len(set(logits.tolist()))
    assert sum(torch.tensor(found).exp()) == pytest.approx(1, abs=1e-4)
    assert not model.lm_head._forward_hooks
    assert model.config._attn_implementation == "sdpa"


def test_a_head_with_a_bias_is_multiplied_with_it() -> None:
    model = make("Llama", dtype="bfloat16")
    model.lm_head = torch.nn.Linear(32, 260, bias=True).to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.bias[65] = 30.0
    ((value, _, _),) = compute_log_likelihoods(model, [PROMPTS[0]], [CONTINUATIONS[0]])
    assert value == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.25)])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_padding_do_not_matter(kind: str, dtype: str, tolerance: float) -> None:
    model = make(kind, dtype=dtype)
    together = compute_log_likelihoods(model, PROMPTS, CONTINUATIONS)
    pairs = zip(PROMPTS, CONTINUATIONS, strict=True)
    alone = [compute_log_likelihoods(model, [prompt], [texts])[0] for prompt, texts in pairs]
    turned = compute_log_likelihoods(model, PROMPTS[::-1], CONTINUATIONS[::-1], pad=258)[::-1]
    assert largest_difference(together, alone) < tolerance
    assert largest_difference(together, turned) < tolerance


def test_more_continuations_than_are_read_side_by_side() -> None:
    model = make("Llama")
    texts = [[65 + at % 3, at, at + 1] for at in range(2 * log_likelihood._BATCH + 1)]
    (found,) = compute_log_likelihoods(model, [PROMPTS[0]], [texts])
    assert found == pytest.approx([plainly(model, PROMPTS[0], text) for text in texts], abs=1e-4)


def test_fewer_continuations_are_read_side_by_side_if_memory_runs_out() -> None:
    model, tried = make("Llama"), list[int]()
    texts = [[65 + at % 3, at, at + 1] for at in range(log_likelihood._BATCH)]

    def check(_: Any, inputs: Any, values: dict[str, Any]) -> None:
        tried.append(len(values["input_ids"]))
        if tried[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    (expected,) = compute_log_likelihoods(model, [PROMPTS[0]], [texts])
    model.register_forward_pre_hook(check, with_kwargs=True)
    (found,) = compute_log_likelihoods(model, [PROMPTS[0]], [texts])
    assert found == pytest.approx(expected, abs=1e-4)
    assert tried[:2] == [1, 8]
    assert sum(tried[1:]) > sum(size for size in tried[1:] if size <= 3) == 8


def test_a_state_that_cannot_be_copied_is_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("Llama")
    wanted = compute_log_likelihoods(model, PROMPTS, CONTINUATIONS)
    monkeypatch.setattr(log_likelihood, "kv_cache_of_output", lambda *_: object())
    assert largest_difference(compute_log_likelihoods(model, PROMPTS, CONTINUATIONS), wanted) < 1e-4


def test_passes_are_few() -> None:
    """Identifiers and queries of a whole batch: one pass, and of the prompt only the last logits."""
    model = make("Llama")
    shapes: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda _, inputs, out: shapes.append(tuple(out.shape)))
    compute_log_likelihoods(model, PROMPTS[:3], [CONTINUATIONS[0], CONTINUATIONS[0], [[9, 1], [9, 2], [9]]])
    assert shapes == [(3, 2, 260)]
    shapes.clear()
    compute_log_likelihoods(model, [PROMPTS[3]], [CONTINUATIONS[3]])
    assert [shape[0] for shape in shapes] == [1, 3]


def test_nothing_to_weigh() -> None:
    model = make("Llama")
    assert compute_log_likelihoods(model, [], []) == []
    assert compute_log_likelihoods(model, [[1], [2]], [[], [[]]]) == [[], [0.0]]
    assert compute_log_likelihoods(model, [[1]], [[[], [5]]])[0][0] == 0.0


def test_an_empty_prompt_predicts_nothing() -> None:
    with pytest.raises(UsageError):
        compute_log_likelihoods(make("Llama"), [[]], [[[1]]])
