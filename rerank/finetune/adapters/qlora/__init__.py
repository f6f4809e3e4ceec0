"""QLoRA."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from rerank.errors import MissingPrerequisiteError, UsageError
from rerank.finetune.adapters.base.peft_methods import LoraFamily
from rerank.finetune.adapters.base.targets import LinearTargets, fits
from rerank.finetune.parts import Calibrate


@dataclass(frozen=True, kw_only=True)
class Qlora(LoraFamily):
    """LoRA on a base model whose linear layers are packed to four bits (NF4) by bitsandbytes.

    A model that is loaded in four bits is taken as it is; of another, all linear layers but the output head are packed,
    whatever the targets, with steps that are quantised as well. That is a change at the start already (`identity` is
    False). A model that does not fit into memory in 16 bits is to be loaded in four. What is saved is a plain LoRA: it
    is right on the base model packed in the same way (``BitsAndBytesConfig(load_in_4bit=True,
    bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)``), and about right on the base model as it is. Merging
    packed weights would round them again (`merges` is False): load the adapter on the model in 16 bits and merge there.

    Attributes:
        init: What the factors begin with: ``lora`` for B = 0; ``loftq`` for the best product of their rank for what
            packing loses, which needs the model in 16 or 32 bits. That is one step of LoftQ; further ones would pack
            the base model otherwise than loaders do.
    """

    init: Literal["lora", "loftq"] = "lora"

    paper: ClassVar[str] = "Dettmers et al., NeurIPS 2023, arXiv 2305.14314 (QLoRA); LoftQ: arXiv 2310.08659"
    summary: ClassVar[str] = "LoRA on a base model of four bits"
    identity: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    needs: ClassVar[str] = "cuda"

    def attach(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """See `Adapter`.

        Raises:
            MissingPrerequisiteError: See `check_machine`.
            UsageError: ``loftq`` for a model that is packed already, or for a matrix smaller than the rank.
        """
        self.check_machine()
        from rerank.finetune.adapters.qlora import four_bit

        ranks, packed = self.ranks(model), getattr(model, "is_loaded_in_4bit", False)
        before = {}
        if self.init == "loftq":
            if packed:
                raise UsageError(
                    "init=loftq needs the weights before they are packed, and the model is loaded in four bits",
                    remedy="Load it in 16 bits, or leave init out",
                )
            fits("r", ranks, self.shapes(model))
            before = {name: model.get_submodule(name).weight.detach().cpu().clone() for name in ranks}
        if not packed:
            four_bit.pack(_on_device(model), LinearTargets().names(model))
        wrapped = super().attach(model, calibrate, seed=seed)
        if before:
            four_bit.make_up(wrapped, before)
        return wrapped

    def check_machine(self) -> None:
        """See `RunsOnSome`.

        Raises:
            MissingPrerequisiteError: No CUDA device, or no bitsandbytes.
        """
        import torch

        if not torch.cuda.is_available():
            raise MissingPrerequisiteError(
                "The adapter 'qlora' trains on a base model of four bits, and there is no CUDA device",
                remedy="Run it on a machine with an NVIDIA GPU, or take another adapter, such as lora",
            )
        if find_spec("bitsandbytes") is None:
            raise MissingPrerequisiteError(
                "The adapter 'qlora' packs the base model with bitsandbytes, which is not installed",
                remedy="pip install bitsandbytes",
            )


def _on_device(model: Any) -> Any:
    return model.cuda() if model.device.type == "cpu" else model
