"""Experimental optimizers of research papers. Only `build` imports torch."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import MissingPrerequisiteError, UsageError
from rerank.finetune import kernels
from rerank.finetune.components import FULL, LORA, ParameterKind, Shapes, option
from rerank.finetune.optimizers import AdamOptions, SubspaceOptions
from rerank.finetune.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Dct(SubspaceOptions):
    """GaLore whose basis consists of r columns of the cosine transform, selected by the gradient.

    No singular value decomposition is needed; when columns are selected, the whole transform of the shorter side is
    computed. Moments of columns that remain are kept. The paper selects columns at every step: set ``gap=1``.
    """

    basis = "cosine"


@dataclass(frozen=True, kw_only=True)
class Fira(SubspaceOptions):
    """GaLore plus the part of the gradient outside the subspace, scaled row by row as Adam scales the projected rows.

    The norm of this scaled part may grow by at most 1 % per step; for this limit, one more number per matrix is kept.
    """

    rest = "add"

    #: Factor of the update inside the subspace and of the projection that is subtracted from the gradient; 1, the
    #: default of the authors' code, is as in the paper.
    scale: float = option(1.0, above=0)


@dataclass(frozen=True, kw_only=True)
class NaturalGalore(SubspaceOptions):
    """GaLore in which the input of Adam is (F + damping I)^-1 times the projected gradient.

    F is the sum of the outer products of the last ``history`` projected gradients in the same subspace, including the
    current one. Storing them takes more memory than `adamw`, although the abstract claims otherwise: 1.74 times for a
    7B model with ``history=20`` and r = 512.
    """

    history: int = option(20, above=0)
    damping: float = option(1e-3, above=0)


@dataclass(frozen=True, kw_only=True)
class Gradnormlorp(SubspaceOptions):
    """`galore` on the gradients of the factors of `dora`, with plain AdamW for the magnitude vectors.

    The paper combines DoRA, which trains the norms of the rows of W + alpha / r B A separately, with GaLore.
    """

    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It projects the gradients of the factors of dora, which other adapters lack"

    #: Dimension of the subspace, a quarter of the default rank of `dora`; it should be below the rank of the adapter.
    rank: int = option(4, above=0)

    def check_recipe(self, recipe: Recipe) -> None:
        if recipe.adapter.name != "dora":
            raise _needs_dora(f"The optimizer 'gradnormlorp' is combined with the adapter {recipe.adapter.name!r}")

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        if not any(".lora_magnitude_vector." in name for name, _ in kernels.adamw.trainable_parameters(model)):
            raise _needs_dora("The optimizer 'gradnormlorp' needs DoRA's magnitudes, which the model lacks")
        return super().build(model, lr=lr, weight_decay=weight_decay)


def _needs_dora(problem: str) -> UsageError:
    return UsageError(problem, expected="the adapter dora", remedy="For other adapters, use galore with factors = true")


@dataclass(frozen=True, kw_only=True)
class LoraFa(AdamOptions):
    """AdamW on the LoRA factor B with the gradient dB (A A')^-1 / s^2, the least-squares optimum; `build` freezes A.

    For the backward pass, a layer then keeps r numbers per token instead of its whole input. peft's LoraFAOptimizer
    uses the same correction, but it treats DoRA's magnitudes as factors, computes in bfloat16 wherever it is available,
    keeps moments in the data type of the weights, and fails on a factor without a gradient.
    """

    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It freezes lora_A and trains lora_B, which other adapters lack"

    damping: float = option(1e-8, above=0)  #: Term added to the diagonal of A A' before it is inverted.

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        pairs = kernels.adamw_variants.find_factor_pairs(model)
        for pair in pairs:
            pair.a.requires_grad_(False)
        groups = kernels.adamw.make_parameter_groups(model, weight_decay)
        options = {"damping": self.damping, "lr": lr, **self.moments}
        return kernels.adamw_variants.LoraFaAdamW(groups, pairs=pairs, **options)


@dataclass(frozen=True, kw_only=True)
class LoraPro(AdamOptions):
    """AdamW on the equivalent gradient of each factor pair; every update is mapped back to the two factors.

    The equivalent gradient is the gradient of the matrix that a joint change of both factors corresponds to. Adam's
    moments have the size of the adapted matrix, m n: as much memory as full fine-tuning of the adapted matrices.
    """

    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It adjusts the gradients of lora_A and lora_B together, which other adapters lack"

    damping: float = option(1e-8, above=0)  #: Term added to the diagonals of A A' and B'B before their inversion.

    def count_state(self, shapes: Shapes) -> int:
        """Return the number of state values: 2 m n per pair of A (r x n) and B (m x r), and 2 per vector entry."""
        vectors = sum(2 * size for rows, size in shapes if rows == 1)
        matrices = [shape for shape in shapes if min(shape) > 1]
        return vectors + sum(2 * m * n for (_, n), (m, _) in zip(matrices[::2], matrices[1::2], strict=True))

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        pairs = kernels.adamw_variants.find_factor_pairs(model)
        options = {"damping": self.damping, "lr": lr, **self.moments}
        groups = kernels.adamw.make_parameter_groups(model, weight_decay)
        return kernels.adamw_variants.EquivalentGradientAdamW(groups, pairs=pairs, **options)


@dataclass(frozen=True, kw_only=True)
class Riemannian(AdamOptions):
    """AdamW on peft's preconditioned gradients: (B'B + reg I)^-1 dA for A, and dB (A A' + reg I)^-1 for B."""

    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It preconditions lora_A by lora_B and vice versa, which other adapters lack"

    reg: float = option(1e-2, above=0)  #: Term added to the diagonals of B'B and A A' before they are inverted.

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        try:
            from peft.optimizers import create_riemannian_optimizer
        except ImportError as error:
            raise MissingPrerequisiteError(
                "The installed version of peft lacks create_riemannian_optimizer",
                remedy="Run: pip install --upgrade peft",
            ) from error

        kernels.adamw_variants.find_factor_pairs(model)  # an error with a remedy if there are none
        options = {"lr": lr, "weight_decay": weight_decay, **self.moments}
        optimizer = create_riemannian_optimizer(model, kernels.adamw.ExactAdamW, reg=self.reg, **options)
        optimizer.param_groups = kernels.adamw.exempt_vectors_from_decay(optimizer.param_groups)
        return optimizer


@dataclass(frozen=True, kw_only=True)
class Sara(AdamOptions):
    """AdamW on the weights with the smallest absolute values; all other weights stay bit-identical.

    SaRA keeps 3 numbers per trained entry: two moments and the index of the entry. The paper has one threshold for all
    weights; here the same fraction of each parameter is trained, so that the memory is known in advance. The
    implementation in pytorch_optimizer keeps a mask over all entries and casts the state that it loads to the data type
    of the weights.
    """

    fits: ClassVar[frozenset[ParameterKind]] = FULL
    reason: ClassVar[str] = "It trains the smallest of the model's own weights, which adapters freeze"

    share: float = option(0.1, above=0, at_most=1)  #: Fraction of the entries of every parameter that are trained.
    #: Number of steps after which entries that are no longer among the smallest are frozen; 0 for never. The paper does
    #: so halfway through training.
    refine: int = option(0, at_least=0)

    def count_state(self, shapes: Shapes) -> int:
        """Return the number of state values: two moments and an index per trained entry, before ``refine``."""
        return sum(3 * math.ceil(self.share * (rows * columns)) for rows, columns in shapes)

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        groups = kernels.adamw.make_parameter_groups(model, weight_decay)
        return kernels.adamw_variants.SparseAdamW(groups, lr=lr, share=self.share, refine=self.refine, **self.moments)
