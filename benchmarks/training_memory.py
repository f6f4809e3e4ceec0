"""Compares the planned memory of a training with the tensors that it keeps, at full size and without data.

    python benchmarks/training_memory.py

Qwen3-8B, one list of 8,192 tokens with 500 target positions, in bfloat16: a forward and a backward pass on fake tensors
(`torch._subclasses.fake_tensor`), which have a shape and no data, so that no memory is needed. They are said to be on a
CPU, since autocast acts on no meta tensor. The attention is transformers' `sdpa`, one fused call.

- ``saved``: bytes of the tensors that autograd saves for the backward pass, with rows per token or target; the plan is
  ``activations`` of `training_memory` without the buffers of the backward pass, and without the layer that
  checkpointing recomputes.
- ``peak``: bytes of all tensors that are alive at once, without weights and optimizer state; the plan is
  ``activations``, ``gathered`` and ``gradients``. With all weights trained, gradients come while activations go, so
  that the plan is too large.
- ``mask``: what is saved if transformers builds the mask of its own, as it does for fake tensors: it cannot see that
  positions are not those of several texts. The mask is dense, keys and values are copied for every head. With real
  tensors there is none (tests/finetune/test_training_cost.py).

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import weakref
from typing import Any

import peft
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface, Qwen3Config
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rerank.finetune.trainer.cost_estimate import TrainingSetup, model_size, training_memory
from rerank.finetune.trainer.listwise_module import autocast, enable_activation_checkpointing
from rerank.lm.memory import make_empty_model

LENGTH, TARGETS = 8192, 500
AttentionInterface.register("sdpa_without_mask", sdpa_attention_forward)
AttentionMaskInterface.register("sdpa_without_mask", lambda **_: None)


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The largest number of bytes of tensors that were alive at the same time, except those of ``known`` storages."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = known

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self._known:
                self._known.add(key)
                self.now += tensor.untyped_storage().nbytes()
                weakref.finalize(tensor.untyped_storage(), self._free, key, tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, self.now)
        return output

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def fake_model(*, layers: int, full: bool, attention: str) -> tuple[Any, Any, FakeTensorMode]:
    """Return a model whose weights are fake tensors, its sizes, and the mode in which it runs."""
    options: dict[str, Any] = {"num_hidden_layers": layers, "attn_implementation": attention}
    config = Qwen3Config(
        hidden_size=4096,
        intermediate_size=12288,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
        **options,
    )
    model = make_empty_model(config, (), auto="AutoModelForCausalLM").to(torch.float32 if full else torch.bfloat16)
    size, mode, cpu = model_size(model), FakeTensorMode(), torch.device("cpu")
    if not full:
        lora = peft.LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(model.requires_grad_(False), lora)
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            fake: Any = FakeTensor(mode, value.data, cpu)
            setattr(module, name, torch.nn.Parameter(fake, requires_grad=value.requires_grad))
        for name, value in module.named_buffers(recurse=False):
            setattr(module, name, FakeTensor(mode, value, cpu))
    return model.train(), size, mode


def measure(*, layers: int, full: bool, checkpointing: bool, attention: str = "sdpa_without_mask") -> dict[str, Any]:
    """Return the measured and the planned bytes of one forward and backward pass."""
    model, size, mode = fake_model(layers=layers, full=full, attention=attention)
    if checkpointing:
        enable_activation_checkpointing(model if full else model.get_base_model())
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    weights = {value.untyped_storage()._cdata for value in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        if {LENGTH, TARGETS, 256, TARGETS - 256} & set(tensor.shape):  # other tensors are weights, and small
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with mode, Alive(set(weights)) as alive:
        ids, rows = torch.zeros(1, LENGTH, dtype=torch.long), torch.arange(TARGETS)
        positions = torch.arange(LENGTH)[None]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast("cpu", "bfloat16"):
            options = {"position_ids": positions, "use_cache": False, "logits_to_keep": rows}
            logits = model(input_ids=ids, **options).logits[0]
            # as `ListwiseModule` computes log-probabilities
            normalisers = torch.cat([chunk.float().logsumexp(dim=-1) for chunk in torch.split(logits, 256)])
            loss = (normalisers - logits[rows, rows].float()).mean()
        saved = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)
        kept.clear()
        del logits, normalisers
        loss.backward()
    setup = TrainingSetup(
        full=full,
        trained=trained,
        state=2 * trained,
        processes=1,
        sharded=False,
        half=True,
        checkpointing=checkpointing,
        tokens=LENGTH,
        outputs=TARGETS,
        inputs=size.inputs,
    )
    memory = training_memory(size, setup)
    return {
        "adapter": "full" if full else "lora",
        "checkpointing": checkpointing,
        "attention": attention,
        "saved": saved,
        "saved_planned": memory["activations"] - LENGTH * recomputed(size, setup),
        "peak": alive.peak,
        "peak_planned": memory["activations"] + memory["gathered"] + memory["gradients"],
    }


def recomputed(size: Any, setup: TrainingSetup) -> int:
    """Return the planned bytes per token of buffers of the backward pass, and of the layer that is recomputed."""
    buffers = 12 * int(size.inner)
    if not setup.checkpointing:
        return buffers
    width = (4 if setup.full else setup.bytes) * size.width * size.layers
    outputs = setup.outputs * size.vocabulary * (setup.bytes + 8)
    return int((training_memory(size, setup)["activations"] - outputs) // setup.tokens - width)


def main() -> None:
    """Measure everything, and print a table and one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=36, help="number of layers, 36 in Qwen3-8B")
    layers = parser.parse_args().layers
    rows = [measure(layers=layers, full=f, checkpointing=c) for f in (False, True) for c in (False, True)]
    rows.append(measure(layers=layers, full=False, checkpointing=False, attention="sdpa"))
    print("| trained | checkpointing | mask | GB saved, planned | GB at the peak, planned |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        cells = [row["adapter"], row["checkpointing"], "dense" if row["attention"] == "sdpa" else "none"]
        cells += [f"{row[name] / 1e9:.2f}, {row[f'{name}_planned'] / 1e9:.2f}" for name in ("saved", "peak")]
        print("| " + " | ".join(map(str, cells)) + " |")
    print(json.dumps({"benchmark": "training_memory", "layers": layers, "length": LENGTH, "rows": rows}))


if __name__ == "__main__":
    main()
