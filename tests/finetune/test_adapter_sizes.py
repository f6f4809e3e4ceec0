"""Numbers of trainable parameters by formula, against figures of papers, manual computation and peft's own count."""

from __future__ import annotations

from typing import Any

import pytest

from rerank.errors import UsageError
from rerank.finetune.adapters import Dora, Full, Lora, Qlora, Rslora
from rerank.finetune.component_registry import ADAPTERS
from rerank.finetune.components import SupportsCallbacks
from rerank.finetune.extra.adapters import Adalora, Lift, Loldu, LoraGa, LoraSb, LoraXs, LrQat, Pissa, Salt, Shadow
from rerank.selector import build_from_selector
from tests.raising import raises

# The counts of these names for configurations of peft are peft's.
pytest.importorskip("peft")
LOKR, OFT, OSF, RANDLORA, VERA = map(ADAPTERS.get, ("lokr", "oft", "osf", "randlora", "vera"))
Shapes = list[tuple[int, int]]


def layers(count: int, hidden: int, inner: int, heads: int) -> Shapes:
    """Return the shapes of the matrices of N layers of a Llama; ``heads`` is the size of keys and values."""
    return [
        *((hidden, hidden), (heads, hidden), (heads, hidden), (hidden, hidden)),
        *((inner, hidden), (inner, hidden), (hidden, inner)),
    ] * count


LARGE = layers(28, 3584, 18944, 512)  # of a model of 7.6 billion parameters
SMALL = layers(4, 128, 256, 64)


def test_the_large_model_has_the_weights_of_one() -> None:
    assert sum(rows * columns for rows, columns in LARGE) == pytest.approx(6.53e9, rel=1e-3)


@pytest.mark.parametrize(
    ("adapter", "millions"),
    [
        (Lora(r=16), 40.37),
        (Rslora(r=16), 40.37),
        (Pissa(r=16), 40.37),
        (LoraGa(r=16), 40.37),
        (Qlora(r=16), 40.37),
        (LrQat(r=16), 40.37),
        (Lora(r=64), 161.5),
        (Dora(r=16), 41.76),
        (RANDLORA(r=32), 57.2),
        (LoraSb(r=64), 0.803),
        (LoraSb(r=32), 0.201),
        (LoraXs(r=64), 0.803),
        (Loldu(r=256), 0.050),
        (Lift(r=64), 161.5),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.r}" if hasattr(value, "r") else "",
)
def test_a_model_of_seven_billion(adapter: Any, millions: float) -> None:
    assert adapter.count_trainable(LARGE) / 1e6 == pytest.approx(millions, rel=5e-3)


@pytest.mark.parametrize(
    ("adapter", "numbers"),
    [
        (Lora(r=8), 65_536),
        (Dora(r=8), 69_632),
        (RANDLORA(r=32), 14_336),
        (RANDLORA(r=8), 48_128),
        (LoraXs(r=16), 7_168),
        (OSF(keep=0.5), 476_672),
        (Lift(r=4), 32_768),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_counts_that_were_seen_in_peft(adapter: Any, numbers: int) -> None:
    assert adapter.count_trainable(SMALL) == numbers


def test_by_hand() -> None:
    one = [(6, 4)]
    assert Full().count_trainable([(6, 4), (1, 6)]) == 30
    assert Adalora(r=2, init_r=3).count_trainable(one) == 3 * (6 + 4 + 1)
    assert VERA(r=5).count_trainable(one) == 6 + 5
    assert OFT(block=2).count_trainable(one) == 2 * 1  # two blocks of 2 x 2, with one angle each
    assert Salt(r=1, d=2).count_trainable(one) == 2 * 1 + 2 * (2 * 3)  # three singular values are left
    assert LOKR(r=8).count_trainable(one) == 2 * 2 + 3 * 2  # 6 = 2 x 3, 4 = 2 x 2
    assert LOKR(r=1).count_trainable([(64, 64)]) == 8 * 8 + 1 * (8 + 8)
    assert VERA(r=64).count_trainable([(128, 128)] * 8) == 1_536


def test_a_shadow_by_hand() -> None:
    hidden, inner, heads, r = 4, 6, 2, 3
    network = 2 * 4 * 4 + 2 * 2 * 4 + 3 * 6 * 4 + 2 * 4 + 4  # a layer, its norms, the last norm
    correction = 2 * 4 * 3
    move = 2 * (4 * 3 + 3 + 3 * 4 + 4)
    assert Shadow(r=r).count_trainable(layers(5, hidden, inner, heads)) == network + 5 * correction + 4 * move


def test_a_pattern_of_ranks_counts_in_its_order() -> None:
    adapter = Lora(r=2, rank_pattern={"a": 3, "b": 0, "c": 1})
    assert adapter.count_trainable([(6, 4), (10, 10)]) == 3 * 10 + 1 * 20
    with raises(UsageError, "2", "1"):
        adapter.count_trainable([(6, 4)])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lora,r=0", ("r", "0", "1")),
        ("lora,alpha=0", ("alpha", "0", "1")),
        ("lora,dropout=1", ("dropout", "1.0")),
        ("lora,layers=0", ("layers", "0", "1")),
        ("adalora,init_r=3", ("init_r", "3", "16")),
        ("lora-ga,gamma=0", ("gamma", "0")),
        ("adalora,orthogonality=-1", ("orthogonality", "-1")),
        ("adalora,tinit=0.5,tfinal=0.5", ("tinit=0.5", "tfinal=0.5")),
        ("osf,keep=1", ("keep", "1.0")),
        ("lr-qat,bits=1", ("bits", "1", "at least 2 and at most 8")),
        ("lora-sb,eta=0", ("eta", "0.0")),
        ("oft,block=1", ("block", "1", "2")),
        ("shadow,depth=0", ("depth", "0", "1")),
        ("salt,d=0", ("d", "0", "1")),
        ("qlora,init=gptq", ("gptq", "lora, loftq")),
        ("lora,rank_pattern=x", ("rank_pattern",)),
    ],
)
def test_options_out_of_range_are_refused(text: str, named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        build_from_selector(ADAPTERS, text)


def test_adapters_are_built_from_selectors() -> None:
    assert build_from_selector(ADAPTERS, "lora") == Lora()
    assert build_from_selector(ADAPTERS, "lora,r=8,targets=attention,layers=4") == Lora(
        r=8, targets="attention", layers=4
    )
    assert build_from_selector(ADAPTERS, "lora-xs,targets=q_proj,v_proj,r=8").targets == "q_proj,v_proj"
    assert build_from_selector(ADAPTERS, "lora-ga,gamma=64").gamma == 64


def test_adapters_with_callbacks() -> None:
    acts = [name for name in ADAPTERS.names() if issubclass(ADAPTERS.get(name), SupportsCallbacks)]
    assert acts == ["adalora"]
