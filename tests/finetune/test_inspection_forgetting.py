"""General texts and sentences, asked before and after: what a model answers, and how two answers are compared."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import BackendError, UsageError
from rerank.finetune.inspection.forgetting import (
    ForgettingMaterial,
    MeasuredLikelihoods,
    SentenceItem,
    compare_forgetting_likelihoods,
    load_forgetting_material,
)

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

from rerank.finetune.inspection import forgetting  # noqa: E402
from rerank.finetune.inspection.inspected_model import open_inspected_model  # noqa: E402
from rerank.tasks import BackendOptions  # noqa: E402
from tests.backends.conftest import make_tokenizer  # noqa: E402
from tests.finetune.inspected import VOCABULARY, load_base, lora, noisy, write_adapter, write_base  # noqa: E402
from tests.finetune.tiny import tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

SMALL = ForgettingMaterial(
    texts=(("own", "A first text."), ("own", "Another one, which is longer than ten bytes."), ("pydoc", "def f()")),
    items=(
        SentenceItem(kind="fact", start="One and", ends=("two", "three", "tea")),
        SentenceItem(kind="word", start="b", ends=("c", "d")),
    ),
    tokens=10,
)


def test_what_is_shipped() -> None:
    asked = load_forgetting_material()
    own = [text for source, text in asked.texts if source == "own"]
    assert (len(own), len(asked.texts)) == (12, 60)
    assert 800 < sum(len(text.split()) for text in own) < 1000
    assert len(asked.items) >= 60
    assert {len(item.ends) for item in asked.items} == {2, 3, 4}
    assert all(len(set(item.ends)) == len(item.ends) for item in asked.items)
    assert len({item.start for item in asked.items}) == len(asked.items)
    texts = [item.start for item in asked.items] + [end for item in asked.items for end in item.ends]
    assert all(text == text.strip() and "\n" not in text for text in texts + own)
    assert load_forgetting_material() == asked
    assert len(load_forgetting_material(docs=5).texts) == 17


def plain(model: Any, tokenizer: Any, start: str, end: str) -> float:
    """Log-likelihood of a text behind another, token by token from the logits: a second way."""
    head, tail = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (start, end))
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([head + tail])).logits[0].log_softmax(-1)
    return sum(float(logs[len(head) + at - 1, token]) for at, token in enumerate(tail))


@pytest.mark.parametrize("begin", [False, True])
def test_a_model_is_asked_right(begin: bool) -> None:
    model, tokenizer = tiny_model(vocabulary=VOCABULARY, initializer_range=0.5), make_tokenizer()
    bos = tokenizer.bos_token
    if begin:
        from tokenizers.processors import TemplateProcessing

        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
    said: list[int] = []
    found = forgetting.measure_forgetting_likelihoods(model, tokenizer, SMALL, advance=said.append)
    assert sum(said) == 5
    for (_, text), (value, tokens) in zip(SMALL.texts, found.texts, strict=True):
        assert tokens == min(10, len(text) + begin) - 1
        start, rest = (bos, text[: 10 - 1]) if begin else (text[0], text[1:10])
        assert value == pytest.approx(plain(model, tokenizer, start, rest), abs=1e-3)
    for item, values in zip(SMALL.items, found.items, strict=True):
        start = f"{bos if begin else ''}{item.start}"
        assert values == pytest.approx([plain(model, tokenizer, start, f" {end}") for end in item.ends], abs=1e-3)


def test_a_model_that_is_broken_is_not_compared() -> None:
    model = tiny_model(vocabulary=VOCABULARY)
    model.model.norm.weight.data[0] = float("nan")
    with raises(BackendError, "nan"):
        forgetting.measure_forgetting_likelihoods(model, make_tokenizer(), SMALL)
    far = MeasuredLikelihoods(texts=((-1e5, 4),) * 3, items=((-1.0, -2.0, -3.0), (-1.0, -2.0)))
    assert compare_forgetting_likelihoods(far, far, SMALL).texts[0].after == math.exp(700)


def test_two_answers_are_compared_pair_by_pair() -> None:
    items = tuple(SentenceItem(kind=kind, start=str(at), ends=("a", "b")) for at, kind in enumerate("xxxxxxxy"))
    asked = ForgettingMaterial(texts=(("own", "1"), ("own", "2"), ("own", "3"), ("pydoc", "4")), items=items)
    before = MeasuredLikelihoods(
        texts=((-4.0, 4), (-6.0, 3), (-2.0, 1), (-5.0, 5)),
        items=(*([(-1.0, -2.0)] * 7), (-3.0, -3.0)),
    )
    after = MeasuredLikelihoods(
        texts=((-8.0, 4), (-9.0, 3), (-5.0, 1), (-5.0, 5)),
        items=(*([(-2.5, -2.0)] * 7), (-2.0, -3.0)),
    )
    found = compare_forgetting_likelihoods(before, after, asked)
    own, pydoc = found.texts
    assert (own.source, own.texts, own.tokens, pydoc.source) == ("own", 3, 8, "pydoc")
    assert (own.before, own.after) == pytest.approx((math.exp(12 / 8), math.exp(22 / 8)))
    assert own.difference == pytest.approx((-1 - 1 - 3) / 3)
    # Differences -1, -1, -3: mean -5/3, standard deviation 2/sqrt(3), so t = -2.5 with 2 degrees of freedom.
    assert own.p == pytest.approx(1 - 2.5 / math.sqrt(2 + 2.5**2))
    assert (pydoc.difference, pydoc.p) == (0.0, 1.0)
    x, y, every = found.items
    assert (x.kind, x.items, x.before, x.after, x.lost, x.gained) == ("x", 7, 7, 0, 7, 0)
    assert x.p == pytest.approx(2 / 2**7)
    assert x.difference == pytest.approx(-1.5)
    assert x.p_margin == 1.0  # all differences are the same: no sample that t could judge
    assert (y.before, y.after, y.gained) == (0, 1, 1)  # a tie is not right
    assert (every.kind, every.items, every.lost, every.gained) == ("all", 8, 7, 1)
    assert every.p == pytest.approx(2 * (1 + 8) / 2**8)
    assert found.to_dict()["items"][2]["gained"] == 1


def test_an_adapter_and_a_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "load_forgetting_material", lambda: SMALL)
    base = write_base(tmp_path / "base", initializer_range=0.5)
    write_adapter(tmp_path / "a", base, lora(), partial(noisy, std=0.5))
    options = BackendOptions(device="cpu", dtype="float32")
    subject = open_inspected_model(str(tmp_path / "a"))
    said: list[int] = []
    found = forgetting.measure_forgetting(subject, options, advance=said.append)
    assert sum(said) == 2 * forgetting.count_forgetting_items() == 10
    before = forgetting.measure_forgetting_likelihoods(load_base(base), make_tokenizer(), SMALL)
    own = sum(value for value, _ in before.texts[:2])
    assert found.texts[0].before == pytest.approx(math.exp(-own / found.texts[0].tokens), rel=1e-4)
    assert found.texts[0].after != pytest.approx(found.texts[0].before, rel=1e-3)
    with raises(UsageError, "'other'"):
        forgetting.measure_forgetting(subject, BackendOptions(adapter="other"))

    from rerank.finetune.inspection.merging import merge_adapter

    merge_adapter(subject, tmp_path / "whole")
    whole = forgetting.measure_forgetting(open_inspected_model(str(tmp_path / "whole"), str(base)), options)
    assert whole.texts[0].after == pytest.approx(found.texts[0].after, rel=1e-3)
