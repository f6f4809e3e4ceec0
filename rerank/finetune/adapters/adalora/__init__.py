"""AdaLoRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftMethod
from rerank.finetune.adapters.base.targets import LinearTargets, at_least, share
from rerank.finetune.parts import Calibrate


@dataclass(frozen=True, kw_only=True)
class Adalora(LinearTargets, PeftMethod):
    """W + alpha / init_r P diag(e) Q, whose least important terms are taken away in training; `peft.AdaLoraConfig`.

    Importance is a running mean of |weight times gradient|, over all matrices at once, so that ranks differ by matrix
    in the end. That needs `callbacks`; without them every matrix keeps its ``init_r`` terms. Saved as a plain LoRA of
    rank ``init_r``, with e in the second factor and zeros for what was taken away. The paper's penalty that keeps P and
    Q orthogonal is left out: peft adds it where the model computes the loss from ``labels``, which the losses here do
    not use.

    The nearest to be had to TriAdaptLoRA, which lets ranks grow instead.

    Attributes:
        r: Mean rank in the end.
        init_r: Rank at the start; None for 1.5 r, as in the paper.
        alpha: What the product is multiplied by, times ``init_r``.
        dropout: Share of the inputs to Q that is dropped in training.
        tinit: Share of the steps before anything is taken away. Paper and peft count the steps themselves.
        tfinal: Share of the steps, at the end, in which ranks are final.
        delta_t: Ranks change every so many steps between.
    """

    r: int = 16
    init_r: int | None = None
    alpha: int = 32
    dropout: float = 0.0
    tinit: float = 0.1
    tfinal: float = 0.3
    delta_t: int = 10

    paper: ClassVar[str] = "Zhang et al., ICLR 2023, arXiv 2303.10512 (AdaLoRA)"
    summary: ClassVar[str] = "LoRA that moves rank to the matrices that need it while it trains"
    vllm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        for option, value in (("r", self.r), ("alpha", self.alpha), ("delta_t", self.delta_t)):
            at_least(option, value, 1)
        at_least("init_r", self.begins, self.r)
        for option, part in (("dropout", self.dropout), ("tinit", self.tinit), ("tfinal", self.tfinal)):
            share(option, part)
        if self.tinit + self.tfinal >= 1:
            raise UsageError(
                f"tinit={self.tinit} and tfinal={self.tfinal} leave no steps to take terms away in",
                expected="a sum below 1",
            )

    @property
    def begins(self) -> int:
        """The rank at the start."""
        return self.r * 3 // 2 if self.init_r is None else self.init_r

    def config(self, model: Any, seed: int) -> Any:
        """See `PeftMethod`."""
        from peft import AdaLoraConfig

        return AdaLoraConfig(
            init_r=self.begins,
            target_r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            deltaT=self.delta_t,
            total_step=1,  # peft wants a number; the real one is known when training begins
            target_modules=self.names(model),
            task_type="CAUSAL_LM",
        )

    def attach(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """See `Adapter`; what importance is measured by becomes part of the model's state."""
        from rerank.finetune.adapters.adalora.budget import remember

        wrapped = super().attach(model, calibrate, seed=seed)
        remember(wrapped)
        return wrapped

    def callbacks(self, model: Any) -> list[Any]:
        """See `SupportsCallbacks`."""
        from rerank.finetune.adapters.adalora.budget import Budget

        return [Budget(model, tinit=self.tinit, tfinal=self.tfinal)]

    def save(self, model: Any, folder: Path) -> None:
        """See `Adapter`."""
        from rerank.finetune.adapters.adalora.budget import folded
        from rerank.finetune.adapters.base import peft_files

        peft_files.save_factors(model, folded(model), folder)

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: init_r (rows + columns + 1); what is taken away is set to 0 and still counts."""
        return sum(self.begins * (rows + columns + 1) for rows, columns in shapes)
