"""What our adapters save loads in vLLM where they say so, and ranks there as in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from rerank.backends.hf import Hf
from rerank.backends.vllm import Vllm
from rerank.finetune.component_registry import ADAPTERS
from rerank.models.adapters import PROMPT, AdapterSettings
from rerank.reranker import Reranker
from rerank.tasks import BackendOptions
from tests.backends.conftest import make_model
from tests.vllm.conftest import SHAPE

#: The tiny model has 512 positions, and a token for every byte.
SHORT = 'method: listwise\nbody: "[{rank}] {candidate}"\nsuffix: "Query: {query}"\n'
DOCS = ["snow falls in winter", "rain", "the hills are high", "a river in the hills", "wind"]


def trained(folder: Path, name: str, model: Path) -> Path:
    """An adapter with random weights, as a training would leave it."""
    import torch

    made = ADAPTERS.get(name)(r=4)
    base: Any = make_model(**SHAPE)
    wrapped = made.attach(base, None, seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    folder.mkdir()
    made.save(wrapped, folder)
    (folder / PROMPT).write_text(SHORT, encoding="utf-8")
    AdapterSettings(model=str(model), method="fullrank", min_passage_tokens=1).write(folder)
    return folder


def test_some_adapters_are_for_vllm() -> None:
    assert {"lora", "rslora", "pissa"} <= {name for name in ADAPTERS.names() if ADAPTERS.get(name).vllm}


@pytest.mark.parametrize("name", ["lora", "rslora", "pissa", "lora_xs"])
def test_the_same_order_as_in_transformers(tiny: Path, tmp_path: Path, name: str) -> None:
    options = BackendOptions(dtype="float32", adapter=str(trained(tmp_path / "adapter", name, tiny)))
    orders = []
    for backend in (Vllm.load(tiny, options), Hf.load(tiny, options)):
        reranker = Reranker.from_backend(backend, prompt=str(tmp_path / "adapter" / PROMPT))
        orders.append([hit.corpus_id for hit in reranker.rank("hills", DOCS)])
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(len(DOCS)))
