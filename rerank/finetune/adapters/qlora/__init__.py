"""The adapter QLoRA: LoRA on a base model quantised to four bits."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from rerank.errors import MissingPrerequisiteError, UsageError
from rerank.finetune.adapters.base.peft_methods import LoraFamily
from rerank.finetune.adapters.base.targets import LinearTargets, require_ranks_fit
from rerank.finetune.components import CalibrationBatches


@dataclass(frozen=True, kw_only=True)
class Qlora(LoraFamily):
    """LoRA on a base model whose linear layers are quantised to four bits (NF4) by bitsandbytes.

    A model that was loaded in four bits is used without changes. Otherwise all linear layers except the output head are
    quantised with double quantisation, including those that are not targets. Quantisation changes the model before
    training starts (`identity` is False). A model that does not fit into memory in 16 bits has to be loaded in four
    bits. The saved adapter is a plain LoRA: it is exact on a base model that is quantised in the same way
    (``BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)``) and
    approximate on the original model. Merging into quantised weights would round them again (`merges` is False): load
    the adapter on the 16-bit model and merge it there.

    Attributes:
        init: Initialisation of the factors. ``lora`` starts with B = 0. ``loftq`` starts with the best rank-r
            approximation of the quantisation error, and needs the model in 16 or 32 bits. This is one iteration of
            LoftQ; further iterations would change the quantised base model in a way that loaders could not reproduce.
    """

    init: Literal["lora", "loftq"] = "lora"

    paper: ClassVar[str] = "Dettmers et al., NeurIPS 2023, arXiv 2305.14314 (QLoRA); LoftQ: arXiv 2310.08659"
    summary: ClassVar[str] = "LoRA on a base model quantised to four bits"
    differs: ClassVar[str] = 'init = "loftq" is one iteration of LoftQ on the base model of QLoRA'
    identity: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    needs: ClassVar[str] = "cuda"

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the quantised model with LoRA layers."""
        self.check_machine()
        from rerank.finetune.adapters.qlora import four_bit
        from rerank.finetune.extra.adapters.base.loftq import initialise_loftq

        ranks, is_quantised = self.ranks(model), getattr(model, "is_loaded_in_4bit", False)
        originals = {}
        if self.init == "loftq":
            if is_quantised:
                raise UsageError(
                    "init=loftq needs the weights before quantisation, but the model is already loaded in four bits",
                    remedy="Load the model in 16 bits, or omit init",
                )
            require_ranks_fit("r", ranks, self.shapes(model))
            # The error W - Q(W) needs W, which quantisation overwrites; the copies of W stay on the CPU.
            originals = {name: model.get_submodule(name).weight.detach().cpu().clone() for name in ranks}
        if not is_quantised:
            four_bit.quantise_qlora_layers(_move_qlora_model_to_gpu(model), LinearTargets().module_names(model))
        wrapped = super().attach(model, calibrate, seed=seed)
        if originals:
            initialise_loftq(wrapped, originals, four_bit.dequantise_qlora_weight)
        return wrapped

    def check_machine(self) -> None:
        """Check that CUDA and bitsandbytes are available."""
        import torch

        if not torch.cuda.is_available():
            raise MissingPrerequisiteError(
                "The adapter 'qlora' quantises the base model to four bits, which needs a CUDA device; none was found",
                remedy="Train on a machine with an NVIDIA GPU, or use another adapter, such as lora",
            )
        if find_spec("bitsandbytes") is None:
            raise MissingPrerequisiteError(
                "The adapter 'qlora' quantises the base model with bitsandbytes, which is not installed",
                remedy="pip install bitsandbytes",
            )


def _move_qlora_model_to_gpu(model: Any) -> Any:
    return model.cuda() if model.device.type == "cpu" else model
