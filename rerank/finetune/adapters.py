"""Adapters: methods that decide which parameters of a model are trained. Importing this module imports no torch."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rerank.errors import MissingPrerequisiteError, UsageError, ensure, error_repr
from rerank.finetune import kernels
from rerank.finetune.components import CalibrationBatches, ComponentBase, ParameterKind, Shapes, check_range, option
from rerank.finetune.recipe import Recipe
from rerank.installation import check_modules

if TYPE_CHECKING:
    from rerank.finetune.kernels.peft_files import PeftBehaviour

#: Number of module names that a message lists.
_SHOWN = 8
#: Pattern of comma-separated module names; any other string is a regular expression.
_NAMES = re.compile(r"[\w.,-]+")


@dataclass(frozen=True, kw_only=True)
class LinearTargets(ComponentBase):
    """Options that select the linear layers to adapt."""

    #: ``all-linear`` (all linear layers except the output head), ``attention`` (linear layers inside attention blocks),
    #: names of modules (``q_proj``, or ``self_attn.q_proj,mlp.up_proj``), or a regular expression for the full name.
    targets: str | tuple[str, ...] = "all-linear"
    layers: int | None = option(None, at_least=1)  #: Adapt only the first N transformer layers; None for all.

    def module_names(self, model: Any) -> list[str]:
        """Return the full names of the modules that are adapted, in the order of the unmodified model."""
        import torch

        head = model.get_output_embeddings()
        candidates = [
            name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
        ]
        if not (names := [name for name in candidates if self.selects(name)]):
            shown = sorted({name.rpartition(".")[2] for name in candidates})[:_SHOWN]
            raise UsageError(
                f"No linear layer of the model matches targets={error_repr(self.targets)}, layers={self.layers}",
                expected=f"all-linear, attention, a regular expression, or names such as {', '.join(shown)}",
            )
        return names

    def selects(self, name: str) -> bool:
        # The first number in a module's name is its layer, as in model.layers.3.self_attn.q_proj.
        layer = re.search(r"\.(\d+)\.", name)
        if self.layers is not None and (layer is None or int(layer[1]) >= self.layers):
            return False
        if self.targets == "all-linear":
            return True
        if self.targets == "attention":
            return any("attn" in part or "attention" in part for part in name.split("."))
        if isinstance(self.targets, str) and not _NAMES.fullmatch(self.targets):
            return re.fullmatch(self.targets, name) is not None
        targets = self.targets.split(",") if isinstance(self.targets, str) else self.targets
        return any(name == target or name.endswith(f".{target}") for target in targets)

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        # The weight tensor is not used, because it has another shape if it is quantised.
        modules = map(model.get_submodule, self._adapted_names(model))
        return [(module.out_features, module.in_features) for module in modules]

    def _adapted_names(self, model: Any) -> list[str]:
        return self.module_names(model)


@dataclass(frozen=True, kw_only=True)
class LowRankTargets(LinearTargets):
    """Options of adapters that add a scaled product of factors B (rows x r) and A (r x columns) to each matrix."""

    r: int = option(16, at_least=1)  #: Rank of the product.
    alpha: int = option(32, at_least=1)  #: Numerator of the scaling factor alpha / r.
    dropout: float = option(0.0, at_least=0, below=1)  #: Dropout probability of the inputs to A.
    #: Mapping from module name to rank, with exactly the modules of ``targets``; modules of rank 0 are not adapted. All
    #: modules have the same scaling factor alpha / r, so that the adapter also works with loaders that support only a
    #: single factor, such as vLLM.
    rank_pattern: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, rank in (self.rank_pattern or {}).items():
            check_range(f"rank_pattern[{name}]", rank, at_least=0)

    def ranks(self, model: Any) -> dict[str, int]:
        names = self.module_names(model)
        if self.rank_pattern is None:
            return dict.fromkeys(names, self.r)
        if wrong := set(names) ^ set(self.rank_pattern):
            raise UsageError(
                f"The rank pattern and the targets differ in {len(wrong)} modules, such as {min(wrong)}",
                expected="a rank for each target and for no other module",
            )
        ranks = {name: rank for name, rank in self.rank_pattern.items() if rank}
        ensure(ranks, "The rank pattern is 0 for all modules", expected="at least one module with a rank above 0")
        return ranks

    def _adapted_names(self, model: Any) -> list[str]:
        return list(self.ranks(model))  # in the order of `rank_pattern` if it is set

    def count_trainable(self, shapes: Shapes) -> int:
        ranks = [self.r] * len(shapes)
        if self.rank_pattern is not None:
            ranks = [rank for rank in self.rank_pattern.values() if rank]
        ensure(
            len(ranks) == len(shapes),
            f"The rank pattern adapts {len(ranks)} matrices",
            expected=f"{len(shapes)}, one per shape",
        )
        return sum(r * (rows + columns) for r, (rows, columns) in zip(ranks, shapes, strict=True))


def check_ranks_fit(name_of_rank: str, ranks: Mapping[str, int], shapes: Shapes) -> None:
    """Check that no rank exceeds the smaller side of its matrix.

    ``name_of_rank`` is for the message; ``shapes`` are those of the modules of ``ranks``, in the same order.
    """
    for (name, rank), (rows, columns) in zip(ranks.items(), shapes, strict=True):
        ensure(
            rank <= min(rows, columns),
            f"{name_of_rank} = {rank} is too large for {name}, which has {rows} x {columns} weights",
            expected=f"at most {min(rows, columns)}",
            remedy="Lower r, or exclude the module from targets",
        )


class PeftAdapter(ComponentBase, ABC):
    """Base class of adapters that peft implements; each subclass supplies the `peft.PeftConfig` of its method."""

    shape: ClassVar[ParameterKind] = "other"
    identity: ClassVar[bool] = True
    moves_base: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    saves: ClassVar[Literal["adapter", "model"]] = "adapter"
    vllm: ClassVar[bool] = False
    needs: ClassVar[str] = ""

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        return kernels.peft_files.wrap(model, self.peft_config(model, seed), seed=seed)

    def save(self, model: Any, folder: Path) -> None:
        kernels.peft_files.save_adapter(model, folder)

    @abstractmethod
    def peft_config(self, model: Any, seed: int) -> Any:
        """Return the `peft.PeftConfig` for an unmodified model."""


@dataclass(frozen=True, kw_only=True)
class NamedPeftAdapter(LinearTargets, PeftAdapter):
    """Base class of adapters that are completely defined by the name and the options of a configuration of peft."""

    @property
    @abstractmethod
    def configuration(self) -> str:
        """Type or class name of the configuration, such as ``boft``."""

    @abstractmethod
    def peft_options(self) -> Mapping[str, Any]:
        """Return the fields to set in the configuration of peft, as a mapping from name to value."""

    def peft_config(self, model: Any, seed: int) -> Any:
        options = self.peft_options()
        given = "target_modules" in options
        targets = [] if given else kernels.peft_files.default_target_modules(self.configuration, self, model)
        return kernels.peft_files.make_configuration(self.configuration, options, targets, seed=seed)

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        config = self.peft_config(model, seed)
        with kernels.peft_files.convert_errors(self.configuration):
            return kernels.peft_files.wrap(model, config, seed=seed)

    def count_trainable(self, shapes: Shapes) -> int:
        return kernels.peft_files.count_trained(self.configuration, self.peft_options(), shapes)


@dataclass(frozen=True, kw_only=True)
class LoraFamily(LowRankTargets, PeftAdapter):
    """Base class of LoRA variants that peft implements; they differ in `lora_options`."""

    shape: ClassVar[ParameterKind] = "lora"
    vllm: ClassVar[bool] = True
    #: Fields of `peft.LoraConfig` that define the variant.
    lora_options: ClassVar[Mapping[str, Any]] = {}

    def peft_config(self, model: Any, seed: int) -> Any:
        ranks = self.ranks(model)
        alphas = {name: self.alpha_for(rank) for name, rank in ranks.items()}
        return kernels.peft_files.lora_config(ranks, alphas, lora_dropout=self.dropout, **self.lora_options)

    def alpha_for(self, rank: int) -> float:
        """Return the alpha that gives a matrix of rank ``rank`` the same scaling factor as a matrix of rank ``r``."""
        return self.alpha * rank / self.r


@dataclass(frozen=True, kw_only=True)
class Lora(LoraFamily):
    """LoRA: the weight becomes W + alpha / r B A (equation 3), with B = 0 and a uniform A (normal in the paper)."""


@dataclass(frozen=True, kw_only=True)
class Dora(LoraFamily):
    """DoRA: the weight becomes m (W + alpha / r B A) / ||W + alpha / r B A||, with row-wise norms (equation 5).

    The row magnitudes m are trained too. vLLM does not load DoRA adapters: merge the adapter first.
    """

    vllm: ClassVar[bool] = False
    lora_options: ClassVar[Mapping[str, Any]] = {"use_dora": True}

    def count_trainable(self, shapes: Shapes) -> int:
        return super().count_trainable(shapes) + sum(rows for rows, _ in shapes)


@dataclass(frozen=True, kw_only=True)
class Rslora(LoraFamily):
    """rsLoRA: the weight becomes W + alpha / sqrt(r) B A, so that updates do not shrink as the rank grows."""

    lora_options: ClassVar[Mapping[str, Any]] = {"use_rslora": True}

    alpha: int = option(16, at_least=1)  #: Numerator of the factor alpha / sqrt(r); the default gives 4 at r = 16.

    def alpha_for(self, rank: int) -> float:
        return self.alpha * math.sqrt(rank / self.r)


@dataclass(frozen=True, kw_only=True)
class Qlora(LoraFamily):
    """LoRA on a base model whose linear layers are quantised to four bits (NF4, double quantisation) by bitsandbytes.

    A model that was loaded in four bits is used without changes; otherwise all linear layers except the output head are
    quantised, including those that are not targets. The saved adapter is a plain LoRA: it is exact on a base model that
    is quantised in the same way, and approximate on the original model. Merging into quantised weights would round them
    again (`merges` is False).
    """

    identity: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    needs: ClassVar[str] = "cuda"

    #: Initialisation of the factors. ``lora`` starts with B = 0. ``loftq`` starts with the best rank-r approximation of
    #: the quantisation error, and needs the model in 16 or 32 bits. This is one iteration of LoftQ; further iterations
    #: would change the quantised base model in a way that loaders could not reproduce.
    init: Literal["lora", "loftq"] = "lora"

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        self.check_machine()

        ranks, is_quantised = self.ranks(model), getattr(model, "is_loaded_in_4bit", False)
        originals = {}
        if self.init == "loftq":
            if is_quantised:
                raise UsageError(
                    "init=loftq needs the weights before quantisation, but the model is already loaded in four bits",
                    remedy="Load the model in 16 bits, or omit init",
                )
            check_ranks_fit("r", ranks, self.shapes(model))
            # The error W - Q(W) needs W, which quantisation overwrites; the copies of W stay on the CPU.
            originals = {name: model.get_submodule(name).weight.detach().cpu().clone() for name in ranks}
        if not is_quantised:
            on_gpu = model.cuda() if model.device.type == "cpu" else model
            kernels.factor_starts.quantise_layers(on_gpu, LinearTargets().module_names(model))
        wrapped = super().attach(model, calibrate, seed=seed)
        if originals:
            kernels.factor_starts.start_from_quantisation_error(wrapped, originals)
        return wrapped

    def check_machine(self) -> None:
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


@dataclass(frozen=True, kw_only=True)
class Full(ComponentBase):
    """Full fine-tuning: every parameter is trained, and the whole model is saved with its configuration."""

    shape: ClassVar[ParameterKind] = "full"
    identity: ClassVar[bool] = True
    moves_base: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    saves: ClassVar[Literal["adapter", "model"]] = "model"
    vllm: ClassVar[bool] = False
    needs: ClassVar[str] = ""

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        return model.requires_grad_(True)

    def save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """Return the shape of every parameter; parameters that are not two-dimensional have the shape (1, size)."""
        return [
            (parameter.shape[0], parameter.shape[1]) if parameter.ndim == 2 else (1, parameter.numel())
            for parameter in model.parameters()  # yields tied parameters once
        ]

    def count_trainable(self, shapes: Shapes) -> int:
        return sum(rows * columns for rows, columns in shapes)


@dataclass(frozen=True, kw_only=True, init=False)
class Peft(NamedPeftAdapter):
    """Any adapter of the library peft; the options are the fields of its configuration.

    The adapted matrices are those of ``targets`` and ``layers``, unless the options contain ``target_modules``. Fields
    for random seeds have the seed of the recipe by default. The properties `identity`, `moves_base` and `merges` are
    determined by applying the configuration to a small model.
    """

    config: str = ""  #: Type of the configuration, such as ``boft``, or its class, such as ``BOFTConfig``.
    #: Values of the configuration's fields; further keyword arguments of the constructor are added to these values.
    options: Mapping[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        *,
        config: str = "",
        targets: str | tuple[str, ...] = "all-linear",
        layers: int | None = None,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        values = {"config": config, "targets": targets, "layers": layers, "options": {**(options or {}), **more}}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    @property
    def configuration(self) -> str:
        return self.config

    def peft_options(self) -> Mapping[str, Any]:
        return self.options

    @property
    def shape(self) -> ParameterKind:  # type: ignore[override]
        kinds: Mapping[str, ParameterKind] = {"lora": "lora", "osf": "full"}
        return kinds.get(self.config.lower().removesuffix("config"), "other")

    @property
    def identity(self) -> bool:  # type: ignore[override]
        return self._behaviour.identity

    @property
    def moves_base(self) -> bool:  # type: ignore[override]
        return self._behaviour.moves_base

    @property
    def merges(self) -> bool:  # type: ignore[override]
        return self._behaviour.merges

    @property
    def vllm(self) -> bool:  # type: ignore[override]
        from rerank.backends.vllm import unsupported_features

        config = kernels.peft_files.make_configuration(self.config, self.options, ["linear"], seed=0)
        return not unsupported_features(config.to_dict())

    def check_recipe(self, recipe: Recipe) -> None:
        if not self.config:
            raise UsageError(
                "The adapter 'peft' is used without its option config",
                expected="the name of a configuration of peft, such as config = 'boft'",
            )
        check_modules("The adapter 'peft'", ("peft",), "train")
        if "target_modules" in self.options and (self.targets != "all-linear" or self.layers is not None):
            raise UsageError(
                "The adapter 'peft' has both target_modules and targets or layers",
                expected="either target_modules, or targets and layers",
            )
        kernels.peft_files.make_configuration(self.config, self.options, ["linear"], seed=recipe.seed)

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        wrapped = super().attach(model, calibrate, seed=seed)
        with kernels.peft_files.convert_errors(self.config):
            calibrate.forward(wrapped, lists=1)
        return wrapped

    @cached_property
    def _behaviour(self) -> PeftBehaviour:
        return kernels.peft_files.try_configuration(self.config, self.options, LinearTargets())
