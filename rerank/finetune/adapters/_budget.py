"""AdaLoRA between steps, and when it is saved. Knows peft's AdaLoRA and transformers' trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from rerank.finetune.adapters import _peft


class Budget(TrainerCallback):
    """Tells peft how long training is and, after each step, to weigh terms and take some away.

    Args:
        model: A `peft.PeftModel` with AdaLoRA.
        warm: Share of the steps before anything is taken away.
        rest: Share of the steps, at the end, in which ranks are final.
    """

    def __init__(self, model: Any, *, warm: float, rest: float) -> None:
        """Remember the model; the number of steps comes when training begins."""
        self.model = model
        self.warm = warm
        self.rest = rest

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the schedule from the number of steps."""
        config = self.model.peft_config[_peft.ADAPTER]
        config.total_step = state.max_steps
        config.tinit = int(state.max_steps * self.warm)
        config.tfinal = int(state.max_steps * self.rest)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Weigh and take away, while the step's gradients are there; ``global_step`` does not count it yet."""
        self.model.base_model.update_and_allocate(state.global_step + 1)


def folded(model: Any) -> _peft.Factors:
    """The factors (B, A) of a plain LoRA without a factor, which compute what the model does."""
    found = {}
    for name, layer in _peft.lora_layers(model):
        b, a, e = (getattr(layer, key)[_peft.ADAPTER].detach() for key in ("lora_B", "lora_A", "lora_E"))
        # peft adds the same small number to the rank.
        scale = layer.scaling[_peft.ADAPTER] / (layer.ranknum[_peft.ADAPTER].detach() + 1e-5)
        found[name] = (b, a * e * scale)
    return found
