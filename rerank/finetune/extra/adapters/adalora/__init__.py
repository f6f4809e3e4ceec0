"""The adapter AdaLoRA: low-rank updates in SVD form whose ranks are reallocated during training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftAdapter
from rerank.finetune.adapters.base.targets import (
    LinearTargets,
    require_adapter_fraction,
    require_adapter_option_at_least,
)
from rerank.finetune.components import CalibrationBatches


@dataclass(frozen=True, kw_only=True)
class Adalora(LinearTargets, PeftAdapter):
    """AdaLoRA: the weight becomes W + alpha / init_r P diag(e) Q, and the least important terms of this sum are pruned.

    The importance of a term is a running mean of |weight times gradient| (section 3.2 of the paper). It is compared
    across all matrices, so that ranks differ between matrices at the end. Terms are pruned by the trainer callback that
    `callbacks` returns; without it, each matrix keeps ``init_r`` terms. The adapter is saved as a plain LoRA of rank
    ``init_r``: e is multiplied into Q, and pruned terms are 0. Implemented with `peft.AdaLoraConfig`, except for the
    penalty that keeps P and Q orthogonal (equation 4): peft adds it only if the model computes the loss from
    ``labels``, and the losses of this package do not use ``labels``, so the trainer adds `penalty`.

    AdaLoRA is the closest available method to TriAdaptLoRA, which increases ranks instead.

    Attributes:
        r: Mean rank at the end of training.
        init_r: Rank at the start; None for 1.5 r, as in the paper.
        alpha: Numerator of the scaling factor alpha / init_r.
        dropout: Dropout probability of the inputs to Q.
        tinit: Fraction of the optimizer steps before pruning starts. The paper and peft give a number of steps.
        tfinal: Fraction of the optimizer steps, at the end of training, during which ranks no longer change.
        delta_t: Number of optimizer steps between two changes of the ranks.
        orthogonality: Weight of the penalty, the mean of ||P'P - I|| and ||QQ' - I|| over all factors, in the
            Frobenius norm; 0.5 as in peft. Equation 4 has squared norms; the authors' code and peft do not square them.
    """

    r: int = 16
    init_r: int | None = None
    alpha: int = 32
    dropout: float = 0.0
    tinit: float = 0.1
    tfinal: float = 0.3
    delta_t: int = 10
    orthogonality: float = 0.5

    paper: ClassVar[str] = "Zhang et al., ICLR 2023, arXiv 2303.10512 (AdaLoRA)"
    summary: ClassVar[str] = "LoRA that reallocates rank between matrices during training"
    differs: ClassVar[str] = "The norms of the penalty are not squared, as in the authors' code"
    vllm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check that the options are in range and leave steps for pruning."""
        super().__post_init__()
        for option, value in (("r", self.r), ("alpha", self.alpha), ("delta_t", self.delta_t)):
            require_adapter_option_at_least(option, value, 1)
        require_adapter_option_at_least("orthogonality", self.orthogonality, 0)
        require_adapter_option_at_least("init_r", self.initial_rank, self.r)
        for option, fraction in (("dropout", self.dropout), ("tinit", self.tinit), ("tfinal", self.tfinal)):
            require_adapter_fraction(option, fraction)
        if self.tinit + self.tfinal >= 1:
            raise UsageError(
                f"tinit={self.tinit} and tfinal={self.tfinal} leave no optimizer steps for pruning",
                expected="a sum below 1",
            )

    @property
    def initial_rank(self) -> int:
        """Rank of every matrix before pruning: ``init_r``, or its default of 1.5 ``r``."""
        return self.r * 3 // 2 if self.init_r is None else self.init_r

    def peft_config(self, model: Any, seed: int) -> Any:
        """Return peft's configuration of AdaLoRA for the model."""
        from peft import AdaLoraConfig

        return AdaLoraConfig(
            init_r=self.initial_rank,
            target_r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            deltaT=self.delta_t,
            total_step=1,  # peft requires a number; the callback sets the correct one when training begins
            target_modules=self.module_names(model),
            task_type="CAUSAL_LM",
        )

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model with AdaLoRA layers and with buffers for the importance of their terms."""
        from rerank.finetune.extra.adapters.adalora.rank_allocation import register_importance_buffers

        wrapped = super().attach(model, calibrate, seed=seed)
        register_importance_buffers(wrapped)
        return wrapped

    def callbacks(self, model: Any) -> list[Any]:
        """Return the callback that prunes terms between optimizer steps."""
        from rerank.finetune.extra.adapters.adalora.rank_allocation import RankAllocationCallback

        return [RankAllocationCallback(model, tinit=self.tinit, tfinal=self.tfinal)]

    def penalty(self, model: Any) -> Any:
        """Return ``orthogonality`` times the mean of ||P'P - I|| and ||QQ' - I|| over all factors, a scalar tensor."""
        from rerank.finetune.extra.adapters.adalora.rank_allocation import orthogonality_penalty

        return self.orthogonality * orthogonality_penalty(model)

    def save(self, model: Any, folder: Path) -> None:
        """Write a plain LoRA of rank ``init_r``, with e multiplied into Q."""
        from rerank.finetune.adapters.base import peft_files
        from rerank.finetune.extra.adapters.adalora.rank_allocation import fold_adalora_factors

        peft_files.save_adapter_factors(model, fold_adalora_factors(model), folder)

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of trainable parameters before pruning: init_r (rows + columns + 1) per matrix."""
        return sum(self.initial_rank * (rows + columns + 1) for rows, columns in shapes)
