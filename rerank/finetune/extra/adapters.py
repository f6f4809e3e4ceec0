"""Experimental adapters of research papers. Imports no heavy package."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rerank.errors import MissingResourceError, UsageError, ensure
from rerank.finetune import kernels
from rerank.finetune.adapters import LinearTargets, LoraFamily, NamedPeftAdapter, PeftAdapter, check_ranks_fit
from rerank.finetune.components import CalibrationBatches, ParameterKind, Shapes, option, read_methods
from rerank.finetune.recipe import Recipe
from rerank.models.adapters import read_settings
from rerank.registry import plugin_class_name

if TYPE_CHECKING:
    import torch

#: Function that takes a module name and the module's float32 weight (rows, columns), and returns the modules that
#: replace A and B.
FactorBuilder = Callable[[str, "torch.Tensor"], tuple["torch.nn.Module", "torch.nn.Module"]]
#: Name of the file with the integers and step sizes of LR-QAT.
INTEGERS = "integers.safetensors"


@dataclass(frozen=True, kw_only=True)
class FrozenBasis(LinearTargets, PeftAdapter):
    """Base class of adapters with the update B R A, where only R is trained; they are saved as plain LoRAs."""

    vllm: ClassVar[bool] = True

    r: int = option(16, at_least=1)  #: Number of basis vectors.
    dropout: float = option(0.0, at_least=0, below=1)  #: Dropout probability of the inputs to A.

    def peft_config(self, model: Any, seed: int) -> Any:
        ranks = self.ranks(model)
        # With alpha = r, the scaling factor alpha / r is 1, and the update is exactly B R A.
        alphas = {name: float(rank) for name, rank in ranks.items()}
        return kernels.peft_files.lora_config(ranks, alphas, lora_dropout=self.dropout)

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        build_factors = self.factor_builder(model, list(self.ranks(model)), calibrate)
        wrapped = super().attach(model, calibrate, seed=seed)
        kernels.frozen_bases.replace_factors(wrapped, build_factors, seed=seed)
        return wrapped.train(model.training)

    def save(self, model: Any, folder: Path) -> None:
        kernels.peft_files.save_factors(model, kernels.peft_files.read_factors(model), folder)

    def ranks(self, model: Any) -> dict[str, int]:
        ranks = dict.fromkeys(self.module_names(model), self.r)
        check_ranks_fit("r", ranks, self.shapes(model))
        return ranks

    def factor_builder(self, model: Any, names: Sequence[str], calibrate: CalibrationBatches) -> FactorBuilder:
        return lambda name, weight: self.factor_modules(weight)

    def count_trainable(self, shapes: Shapes) -> int:
        return self.r**2 * len(shapes)

    @abstractmethod
    def factor_modules(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Return the modules that replace A and B for a float32 matrix of shape (rows, columns)."""


@dataclass(frozen=True, kw_only=True)
class LoraXs(FrozenBasis):
    """LoRA-XS: the weight becomes W + U S R V', where U S V' is the truncated SVD of W with r singular values.

    Only R of shape (r, r) is trained. It starts at 0, so that the model is unchanged at the start; the paper draws R
    from a narrow normal distribution. The gradient at R = 0 is as large as at these small random values.
    """

    r: int = option(64, at_least=1)

    def factor_modules(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        return kernels.frozen_bases.lora_xs_modules(matrix, self.r)


@dataclass(frozen=True, kw_only=True)
class LoraSb(FrozenBasis):
    """LoRA-SB: the weight becomes W + U R V', where only R (r x r) is trained.

    U S V' is the truncated SVD of the first step of full fine-tuning, D = -eta sign(G), where G is the gradient of the
    training loss. R starts as S, so the model has already changed when training begins (`identity` is False).

    With a ``basis``, no gradient is computed: U, V and the initial R are taken from another trained LoRA-SB adapter.
    Adapters that were trained from the same basis on shards of the data have bit-identical U, so that averaging their
    cores is exact (Fed-SB, Singhal et al., arXiv 2502.15436).
    """

    identity: ClassVar[bool] = False

    r: int = option(64, at_least=1)
    #: Size of the first step; None for the recipe's learning rate / number of warm-up steps, as in the authors' code.
    eta: float | None = option(None, above=0)
    #: Maximum number of training lists over which the gradient is averaged; 50 as in the authors' code.
    samples: int = option(50, at_least=1)
    #: Folder of a LoRA-SB adapter with the same base model, targets and r; if empty, U, V and the initial R come from
    #: the gradient.
    basis: str = ""

    def check_recipe(self, recipe: Recipe) -> None:
        folder = Path(self.basis)
        if not self.basis:
            return
        if not (folder / "adapter_config.json").is_file():
            raise MissingResourceError(
                f"basis = {self.basis!r} contains no adapter",
                expected="the folder of a LoRA-SB adapter, or of an average of such adapters",
            )
        if (trained := read_settings(folder)) and trained.model != recipe.model:
            raise UsageError(
                f"basis = {self.basis!r} was trained on {trained.model!r}, but the recipe's model is {recipe.model!r}",
                expected="the same base model, under the same name",
            )

    def factor_builder(self, model: Any, names: Sequence[str], calibrate: CalibrationBatches) -> FactorBuilder:
        if self.basis:
            basis = kernels.frozen_bases.read_lora_sb(Path(self.basis), dict.fromkeys(names, self.r))
            between = kernels.frozen_bases.modules_between
            return lambda name, weight: between(*(f.to(weight.device) for f in basis[name]))
        gradients = kernels.factor_starts.mean_loss_gradients(model, names, calibrate, lists=self.samples)
        eta = calibrate.first_lr if self.eta is None else self.eta
        # The first step of a sign-based optimizer such as Adam: D = -eta sign(G).
        return lambda name, weight: self.factor_modules(-eta * gradients[name].sign())

    def factor_modules(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        return kernels.frozen_bases.lora_sb_modules(matrix, self.r)


@dataclass(frozen=True, kw_only=True)
class Loldu(FrozenBasis):
    """LoLDU: W = P L D U with unit triangular factors L and U; the first r diagonal entries of D are trained.

    The update of W is P L (Z - D) U, restricted to the first r columns of L and the first r rows of U; Z is trained and
    starts as D. The paper also trains a scale per matrix; it is omitted, because it would only multiply Z.
    """

    r: int = option(256, at_least=1)  #: Number of trained diagonal entries per matrix; all if it has fewer.

    def ranks(self, model: Any) -> dict[str, int]:
        sizes = zip(self.module_names(model), self.shapes(model), strict=True)
        return {name: min(self.r, *shape) for name, shape in sizes}

    def factor_modules(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        return kernels.frozen_bases.loldu_modules(matrix, self.r)

    def count_trainable(self, shapes: Shapes) -> int:
        return sum(min(self.r, *shape) for shape in shapes)


@dataclass(frozen=True, kw_only=True)
class Salt(FrozenBasis):
    """SALT: in W = U S V', the r largest singular values s become a s + b, and the other directions get an update X Y.

    X (rest x d) and Y (d x rest) with rest = min(rows, columns) - r update the block of S of the other directions. At
    the start, a = 1, b = 0 and Y = 0. The adapter is saved as a LoRA of rank r + d. All singular directions are kept in
    memory during training, which takes about as much memory as the model.
    """

    r: int = option(64, at_least=1)  #: Number of singular values that are scaled and shifted.
    d: int = option(8, at_least=1)  #: Rank of the update among the other singular directions.

    def ranks(self, model: Any) -> dict[str, int]:
        return {name: rank + self.d for name, rank in super().ranks(model).items()}

    def factor_modules(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        return kernels.frozen_bases.salt_modules(matrix, self.r, self.d)

    def count_trainable(self, shapes: Shapes) -> int:
        return sum(2 * self.r + 2 * self.d * (min(shape) - self.r) for shape in shapes)


@dataclass(frozen=True, kw_only=True)
class ResidualBaseLora(LoraFamily):
    """Base class of LoRA variants that start from a nonzero product s B0 A0 and subtract it from the base weights.

    An adapter (B, A) would be valid only for the modified weights W - s B0 A0. `save` therefore writes the learnt
    difference s (B A - B0 A0), which is valid for the unmodified model, as a LoRA of twice the rank. Each layer holds
    the initial factors in buffers, so that they move to other devices together with the model.
    """

    moves_base: ClassVar[bool] = True

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        wrapped = super().attach(model, calibrate, seed=seed)
        kernels.factor_starts.store_start(wrapped)
        return wrapped

    def save(self, model: Any, folder: Path) -> None:
        kernels.factor_starts.save_difference(model, folder)


@dataclass(frozen=True, kw_only=True)
class Pissa(ResidualBaseLora):
    """PiSSA: LoRA that starts from the r largest singular directions of W: B0 = U sqrt(S), A0 = sqrt(S) V'.

    U S V' is the truncated SVD of W; the residual W - B0 A0 stays in the base model (equations 2 to 4 of the paper,
    which exchanges the names A and B). If the base model is in 16 bits, the residual is rounded again, and the saved
    adapter does not correct this rounding error.
    """

    alpha: int = option(16, at_least=1)  #: Numerator of the scaling factor alpha / r; the default gives 1.
    niter: int = option(0, at_least=0)  #: Subspace iterations of a fast approximate SVD; 0 for the exact SVD.

    @property
    def lora_options(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {"init_lora_weights": f"pissa_niter_{self.niter}" if self.niter else "pissa"}

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        check_ranks_fit("r", self.ranks(model), self.shapes(model))
        return super().attach(model, calibrate, seed=seed)


@dataclass(frozen=True, kw_only=True)
class LoraGa(ResidualBaseLora):
    """LoRA initialised with singular vectors of the gradient G = U S V' of the training loss.

    A0 consists of the first r rows of V', and B0 of columns r + 1 to 2 r of U, both multiplied by rows^(1/4) /
    sqrt(gamma). alpha / r B0 A0 is subtracted from the base weight. A matrix that the loss does not depend on is
    initialised as in LoRA. The formula is that of the authors' code: peft multiplies B0 by the singular values of G and
    does not scale A0.
    """

    gamma: int = option(16, at_least=1)  #: Stability constant; larger values make the initial factors smaller.

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        ranks = self.ranks(model)
        # A0 takes the first r singular directions of the gradient, B0 the next r.
        check_ranks_fit("2 r", {name: 2 * rank for name, rank in ranks.items()}, self.shapes(model))
        gradients = kernels.factor_starts.mean_loss_gradients(model, list(ranks), calibrate)
        wrapped = super().attach(model, calibrate, seed=seed)
        kernels.factor_starts.start_along_gradients(wrapped, gradients, self.gamma)
        return wrapped


@dataclass(frozen=True, kw_only=True)
class Adalora(LinearTargets, PeftAdapter):
    """AdaLoRA: the weight becomes W + alpha / init_r P diag(e) Q, and the least important terms of this sum are pruned.

    The importance of a term is a running mean of |weight times gradient| (section 3.2 of the paper), compared across
    all matrices. The callback prunes; without it, each matrix keeps ``init_r`` terms. The adapter is saved as a plain
    LoRA of rank ``init_r``: e is multiplied into Q, and pruned terms are 0. The trainer adds the penalty that keeps P
    and Q orthogonal (equation 4): peft does so only if the model computes the loss from ``labels``.
    """

    vllm: ClassVar[bool] = True

    r: int = option(16, at_least=1)  #: Mean rank at the end of training.
    init_r: int | None = None  #: Rank at the start; None for 1.5 r, as in the paper.
    alpha: int = option(32, at_least=1)  #: Numerator of the scaling factor alpha / init_r.
    dropout: float = option(0.0, at_least=0, below=1)  #: Dropout probability of the inputs to Q.
    #: Fraction of the optimizer steps before pruning starts. The paper and peft give a number of steps.
    tinit: float = option(0.1, at_least=0, below=1)
    #: Fraction of the optimizer steps, at the end of training, during which ranks no longer change.
    tfinal: float = option(0.3, at_least=0, below=1)
    delta_t: int = option(10, at_least=1)  #: Number of optimizer steps between two changes of the ranks.
    #: Weight of the penalty, the mean of ||P'P - I|| and ||QQ' - I|| over all factors, in the Frobenius norm; 0.5 as in
    #: peft. Equation 4 has squared norms; the authors' code and peft do not square them.
    orthogonality: float = option(0.5, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        ensure(self.initial_rank >= self.r, f"Option init_r is {self.init_r}", expected=f"at least {self.r}")
        ensure(
            self.tinit + self.tfinal < 1,
            f"tinit={self.tinit} and tfinal={self.tfinal} leave no optimizer steps for pruning",
            expected="a sum below 1",
        )

    @property
    def initial_rank(self) -> int:
        return self.r * 3 // 2 if self.init_r is None else self.init_r

    def peft_config(self, model: Any, seed: int) -> Any:
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
        wrapped = super().attach(model, calibrate, seed=seed)
        kernels.step_callbacks.register_importance(wrapped)
        return wrapped

    def callbacks(self, model: Any) -> list[Any]:
        return [kernels.step_callbacks.RankAllocationCallback(model, tinit=self.tinit, tfinal=self.tfinal)]

    def penalty(self, model: Any) -> Any:
        return self.orthogonality * kernels.step_callbacks.orthogonality_penalty(model)

    def save(self, model: Any, folder: Path) -> None:
        kernels.peft_files.save_factors(model, kernels.step_callbacks.fold_factors(model), folder)

    def count_trainable(self, shapes: Shapes) -> int:
        return sum(self.initial_rank * (rows + columns + 1) for rows, columns in shapes)


@dataclass(frozen=True, kw_only=True)
class Lift(LinearTargets, PeftAdapter):
    """LIFT: trains only those weights of each matrix that are largest in its low-rank approximation.

    The trained weights are saved as a SHiRA adapter (Bhardwaj et al., NeurIPS 2024, arXiv 2406.13175), which can be
    loaded without this package. The paper selects the weights again every few hundred steps. Here they are selected
    once: after a second selection, the difference from the base model would have more entries than a SHiRA adapter can
    store.
    """

    r: int = option(128, at_least=1)  #: Rank of the LoRA that would have the same number of trained weights.
    filter_rank: int = option(64, at_least=1)  #: Number of singular directions of the approximation, at most all.

    def peft_config(self, model: Any, seed: int) -> Any:
        import torch
        from peft import ShiraConfig

        checks: Any = torch.sparse.check_sparse_tensor_invariants
        if not checks.is_enabled():
            checks.disable()  # already off, but torch warns about peft's sparse tensors until this is set explicitly
        names = self.module_names(model)
        for name, (rows, columns) in zip(names, self.shapes(model), strict=True):
            if self.r * (rows + columns) > rows * columns:
                raise UsageError(
                    f"r={self.r} selects {self.r * (rows + columns)} of the {rows * columns} weights of {name}",
                    remedy="Lower r, or exclude the module from targets",
                )
        # A mask type that peft knows, since peft warns otherwise; loading reads the indices from the file.
        config: Any = ShiraConfig(r=self.r, mask_type="random", target_modules=names, task_type="CAUSAL_LM")
        config.mask_fn = self.mask
        return config

    def mask(self, layer: torch.nn.Linear, r: int, **_: Any) -> torch.Tensor:
        """Return a mask of shape (rows, columns) in the weight's data type, 1 for the r (rows + columns) trained."""
        import torch

        weight = layer.weight.detach()
        u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
        # W_k = U_k S_k V_k', the best rank-k approximation of W, shape (rows, columns).
        k = min(self.filter_rank, len(s))
        selected = ((u[:, :k] * s[:k]) @ v[:k]).abs().flatten().topk(r * sum(weight.shape)).indices
        mask = weight.new_zeros(weight.numel())
        mask[selected] = 1
        return mask.view(weight.shape)

    def count_trainable(self, shapes: Shapes) -> int:
        return sum(self.r * (rows + columns) for rows, columns in shapes)


@dataclass(frozen=True, kw_only=True)
class LrQat(LinearTargets, PeftAdapter):
    """LR-QAT: the weight becomes s clip(round(W / s + alpha / r B A)), and the low-rank factors A and B are trained.

    The step size s is the largest |weight| of a row, or of ``group`` columns of a row, divided by 2^(bits-1) - 1; it is
    not trained. Gradients pass through the rounding unchanged (straight-through estimator).

    The product B A is inside the rounding, so no LoRA can represent the learnt difference. `save` therefore writes the
    whole model with the rounded weights. It also writes ``integers.safetensors`` with ``NAME.weight`` (int8) and
    ``NAME.step`` (float32, shape rows x groups) per matrix, where weight = step times integer. In a 16-bit model, the
    weights in the model files are these products rounded to 16 bits.
    """

    shape: ClassVar[ParameterKind] = "lora"
    identity: ClassVar[bool] = False
    saves: ClassVar[Literal["adapter", "model"]] = "model"

    r: int = option(32, at_least=1)  #: Rank of the product.
    #: Numerator of the scaling factor alpha / r; the product is in units of the step size.
    alpha: int = option(32, at_least=1)
    bits: int = option(4, at_least=2, at_most=8)  #: Number of bits of each integer, including the sign.
    group: int | None = option(None, at_least=1)  #: Number of columns that share a step size; None for a whole row.

    def peft_config(self, model: Any, seed: int) -> Any:
        names = self.module_names(model)
        for name, (_, columns) in zip(names, self.shapes(model), strict=True):
            if self.group and columns % self.group:
                raise UsageError(
                    f"group={self.group} does not divide the {columns} columns of {name}",
                    expected="a group size that divides the number of columns of every adapted matrix",
                )
        return kernels.fake_quantisation.peft_config(
            names, r=self.r, alpha=self.alpha, bits=self.bits, group=self.group
        )

    def save(self, model: Any, folder: Path) -> None:
        kernels.fake_quantisation.save(model, folder, INTEGERS, bits=self.bits)

    def count_trainable(self, shapes: Shapes) -> int:
        return sum(self.r * (rows + columns) for rows, columns in shapes)


@dataclass(frozen=True, kw_only=True)
class Shadow(PeftAdapter):
    """ShadowPEFT: a small network of the model's architecture corrects the input of each layer.

    Let h be the hidden state before a layer and s the hidden state of the shadow network. The input of the layer is
    h + alpha U D (h - s), and a gate moves s towards T(output of the layer). U, D, T, the gate and the network are
    trained; U starts at 0. The paper's second loss, on the outputs of the network, is not applied: peft adds it only if
    the model computes the loss from ``labels``.
    """

    merges: ClassVar[bool] = False

    r: int = option(8, at_least=1)  #: Width of the corrections, of T and of the gate.
    alpha: float = 0.1  #: Weight of the corrections.
    dropout: float = option(0.0, at_least=0, below=1)  #: Dropout probability of h - s.
    depth: int = option(1, at_least=1)  #: Number of layers of the network beside the model.
    layers: int | None = None  #: Correct only the first N layers; None for all.

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        wrapped = super().attach(model, calibrate, seed=seed)
        last = [module for module in wrapped.modules() if hasattr(module, "shadow_update_gate")][-1]
        # The shadow state after the last layer is not used.
        last.shadow_update_gate.requires_grad_(False)
        last.shadow_update_transform.requires_grad_(False)
        # The network is trained in float32, but its inputs come from a model that may be in 16 bits.
        for network in wrapped.base_model.shadow_backbone.values():
            network.register_forward_pre_hook(_widen_inputs, with_kwargs=True)
        return wrapped

    def check_recipe(self, recipe: Recipe) -> None:
        from rerank.methods import open_method

        watched = [loss.name for loss in recipe.losses if loss.on in ("attention", "log-attention")]
        judge, size = open_method(recipe.method.method).judge.name, recipe.training.batch_size
        reasons = [
            *([f"the loss {watched[0]!r} on attention"] if watched else []),
            *([f"batch_size = {size}"] if size > 1 else []),
            *(["a method that scores one document at a time"] if judge == "score" else []),
        ]
        if reasons:
            raise UsageError(
                f"The adapter 'shadow' does not support {' and '.join(reasons)}: its network can neither separate "
                "packed texts nor provide attention weights",
                expected="losses on tokens or logits, batch_size = 1 and a method that judges lists",
                remedy="Raise accumulation instead of batch_size, or use another adapter, such as lora",
            )

    def peft_config(self, model: Any, seed: int) -> Any:
        from peft import ShadowConfig

        return ShadowConfig(
            r=self.r,
            shadow_alpha=self.alpha,
            shadow_dropout=self.dropout,
            shadow_num_hidden_layers=self.depth,
            target_modules=sorted({re.sub(r"(\.\d+)\..*", r"\1", name) for name in self._inside.module_names(model)}),
            task_type="CAUSAL_LM",
        )

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        return self._inside.shapes(model)

    @property
    def _inside(self) -> LinearTargets:
        # Any limit on the layers, however large, selects only modules inside a numbered layer.
        return LinearTargets(layers=2**31 if self.layers is None else self.layers)

    def count_trainable(self, shapes: Shapes) -> int:
        """Return the number of parameters of the shadow network, the corrections and the updates of the shadow state.

        The network has ``depth`` copies of a layer with two norms, and a final norm. With the hidden size h, each
        corrected layer has one correction with 2 h r parameters, and each corrected layer except the last has one
        update of s with 4 h r + 2 r + 2 h parameters. The formula is for layers with two norms and no biases, as in
        Llama; other models have a few more parameters. ``shapes`` are in the model's order.
        """
        # One layer: the shortest prefix of the shapes whose repetition is the whole sequence.
        prefixes = (shapes[:n] for n in range(1, len(shapes) + 1) if len(shapes) % n == 0)
        layer = next(part for part in prefixes if list(part) * (len(shapes) // len(part)) == list(shapes))
        layers, hidden = len(shapes) // len(layer), layer[0][1]
        network = self.depth * (sum(rows * columns for rows, columns in layer) + 2 * hidden) + hidden
        return network + layers * 2 * hidden * self.r + (layers - 1) * (4 * hidden * self.r + 2 * self.r + 2 * hidden)


# Names for configurations of peft, with the options and defaults of methods.toml


@dataclass(frozen=True, kw_only=True)
class PeftPreset(NamedPeftAdapter):
    """Base class of the presets. Each subclass is one row of ``methods.toml``, whose options are its fields."""

    #: The row: the options of the preset, and fixed values of fields.
    preset: ClassVar[Mapping[str, Any]] = {}

    def peft_options(self) -> Mapping[str, Any]:
        values = {}
        for name, declared in self.preset["options"].items():
            value = getattr(self, name)
            # Without a default, an option is a multiple of the option r.
            values[declared["field"]] = declared["times_r"] * getattr(self, "r") if value is None else value  # noqa: B009
        return {**values, **self.preset.get("fixed", {})}


def _widen_inputs(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs | {"inputs_embeds": kwargs["inputs_embeds"].float()}


def _make_preset(name: str, row: Mapping[str, Any]) -> type[PeftPreset]:
    options: list[tuple[str, Any, Any]] = []
    for key, declared in row["options"].items():
        default = declared.get("default")
        limits = {words: declared[words] for words in ("at_least", "below") if words in declared}
        options.append((key, int | None if default is None else type(default), option(default, **limits)))
    attributes = {
        "__module__": __name__,
        "__doc__": f"{row['summary']}; `peft` with the configuration {row['configuration']}.",
        "preset": row,
        "configuration": row["configuration"],
        "paper": row["paper"],
        "summary": row["summary"],
        "differs": row.get("differs", ""),
        "shape": row["trains"],
    }
    return make_dataclass(
        plugin_class_name(name), options, bases=(PeftPreset,), namespace=attributes, frozen=True, kw_only=True
    )


globals().update({plugin_class_name(name): _make_preset(name, row) for name, row in read_methods()["presets"].items()})
