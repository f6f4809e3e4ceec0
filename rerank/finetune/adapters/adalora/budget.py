"""AdaLoRA between steps, and when it is saved. Knows peft's AdaLoRA and transformers' trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import TrainerCallback

from rerank.finetune.adapters.base import peft_files

#: What peft's allocator remembers of every number: means of its importance, and of how far that goes up and down.
_MEANS = ("exp_avg_ipt", "exp_avg_unc")


def remember(model: Any) -> None:
    """Give a wrapped model buffers for what peft's allocator remembers, so that checkpoints have it."""
    for name, parameter in list(_numbers(model)):
        for kind in _MEANS:
            model.register_buffer(_buffer(kind, name), torch.zeros_like(parameter))


class Budget(TrainerCallback):
    """Tells peft how long training is and, after each step, to weigh terms and take some away.

    Args:
        model: A `peft.PeftModel` with AdaLoRA.
        tinit: Share of the steps before anything is taken away.
        tfinal: Share of the steps, at the end, in which ranks are final.
    """

    def __init__(self, model: Any, *, tinit: float, tfinal: float) -> None:
        """Remember the model; the number of steps comes when training begins."""
        self.model = model
        self.tinit = tinit
        self.tfinal = tfinal

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the schedule from the number of steps."""
        config = self.model.peft_config[peft_files.ADAPTER]
        config.total_step = state.max_steps
        config.tinit = int(state.max_steps * self.tinit)
        config.tfinal = int(state.max_steps * self.tfinal)
        if state.global_step >= config.total_step - config.tfinal and not config.rank_pattern:
            # Gone on with when ranks are final: what was taken away is 0, and nothing else is.
            kept = ((name, value) for name, value in _numbers(self.model) if "lora_E" in name)
            config.rank_pattern = {name: (value != 0).view(-1).tolist() for name, value in kept}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Weigh and take away, while the step's gradients are there; ``global_step`` does not count it yet."""
        allocator, model = self.model.base_model.rankallocator, self.model
        for name, parameter in _numbers(model):
            for kind in _MEANS:
                getattr(allocator, kind)[name] = getattr(model, _buffer(kind, name))
            allocator.ipt.setdefault(name, torch.zeros_like(parameter))
            if parameter.grad is None:  # of a matrix that the loss does not depend on; peft would stop at it
                parameter.grad = torch.zeros_like(parameter)
        model.base_model.update_and_allocate(state.global_step + 1)
        for name, _ in _numbers(model):
            for kind in _MEANS:
                found = getattr(allocator, kind).get(name)  # forgotten once ranks are final
                if found is not None:
                    getattr(model, _buffer(kind, name)).copy_(found)


def _numbers(model: Any) -> Iterator[tuple[str, Any]]:
    """What AdaLoRA trains, under the names that its allocator uses."""
    for name, parameter in model.base_model.model.named_parameters():
        if parameter.requires_grad and "lora_" in name and peft_files.ADAPTER in name:
            yield name, parameter


def _buffer(kind: str, name: str) -> str:
    return f"adalora_{kind}_{name.replace('.', '-')}"


def folded(model: Any) -> peft_files.Factors:
    """The factors (B, A) of a plain LoRA without a factor, which compute what the model does."""
    found = {}
    for name, layer in peft_files.lora_layers(model):
        b, a, e = (getattr(layer, key)[peft_files.ADAPTER].detach() for key in ("lora_B", "lora_A", "lora_E"))
        # peft adds the same small number to the rank.
        scale = layer.scaling[peft_files.ADAPTER] / (layer.ranknum[peft_files.ADAPTER].detach() + 1e-5)
        found[name] = (b, a * e * scale)
    return found
