"""Models of all kinds whose weights were damaged: refused in one line, or the damaged weight is not used."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers")

import torch
from safetensors.torch import load_file, save_file

from rerank.errors import RerankError
from tests.attacks.scale import attack_share
from tests.models.kinds import KINDS

Weights = dict[str, torch.Tensor]
#: Share of the weights that are damaged in each way.
SHARE = attack_share()


def _filled(value: float) -> Callable[[Weights, str], object]:
    return lambda weights, name: weights.update({name: torch.full_like(weights[name], value)})


DAMAGES: dict[str, Callable[[Weights, str], object]] = {
    "dropped": lambda weights, name: weights.pop(name),
    "renamed": lambda weights, name: weights.update({f"x.{name}": weights.pop(name)}),
    "shape": lambda weights, name: weights.update({name: weights[name].repeat(2, *[1] * (weights[name].ndim - 1))}),
    "nan": _filled(torch.nan),
    "inf": _filled(torch.inf),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_damaged_weight_changes_a_ranking_silently(kind: str, tmp_path: Path) -> None:
    folder, rng = KINDS[kind].save(tmp_path / "m"), random.Random(kind)
    before = KINDS[kind].use(folder)
    for path in sorted(folder.rglob("*.safetensors")):
        whole = load_file(path)
        for name in whole:
            for what, damage in DAMAGES.items():
                if rng.random() >= SHARE or not whole[name].is_floating_point():
                    continue
                weights = {**whole}
                damage(weights, name)
                save_file(weights, path, {"format": "pt"})
                message = ""
                try:
                    after = KINDS[kind].use(folder)
                except RerankError as error:
                    after, message = before, str(error)
                assert after == before, (path.name, name, what)
                assert "\n" not in message, (path.name, name, what)
        save_file(whole, path, {"format": "pt"})
