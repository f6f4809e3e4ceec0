"""The optimizer GradNormLoRP: GaLore on the factors of DoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.components import ParameterKind
from rerank.finetune.optimizers.base.options import LORA
from rerank.finetune.optimizers.base.subspace_options import SubspaceOptions

if TYPE_CHECKING:
    from rerank.finetune.recipe import Recipe

_ADAPTER = "dora"


@dataclass(frozen=True, kw_only=True)
class Gradnormlorp(SubspaceOptions):
    """`galore` on the gradients of the factors of `dora`, with plain AdamW for the magnitude vectors.

    The paper combines two methods: it normalises the rows of W + alpha / r B A and trains their norms separately
    (DoRA), and it projects the gradients of B and A (GaLore). The options ``rank`` and ``gap`` are the rank of the
    paper's subspace and its update interval.

    Attributes:
        rank: Dimension of the subspace. It should be below the rank of the adapter, which is the shorter side of the
            factors. The default is a quarter of the default rank of `dora`.
    """

    paper: ClassVar[str] = "Huang et al., AAAI 2025, arXiv 2412.19616 (GradNormLoRP)"
    summary: ClassVar[str] = "GaLore on the factors of the adapter dora"
    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It projects the gradients of the factors of dora, which other adapters lack"

    rank: int = 4

    def check_recipe(self, recipe: Recipe) -> None:
        """Check that the adapter is `dora`."""
        if recipe.adapter.name != _ADAPTER:
            raise _gradnormlorp_error(
                f"The optimizer 'gradnormlorp' is combined with the adapter {recipe.adapter.name!r}"
            )

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return the optimizer for a model with DoRA layers."""
        from rerank.finetune.optimizers.base.parameter_groups import trainable_parameters

        if not any(".lora_magnitude_vector." in name for name, _ in trainable_parameters(model)):
            raise _gradnormlorp_error("The optimizer 'gradnormlorp' needs DoRA's magnitudes, which the model lacks")
        return super().build(model, lr=lr, weight_decay=weight_decay)


def _gradnormlorp_error(problem: str) -> UsageError:
    return UsageError(
        problem, expected=f"the adapter {_ADAPTER}", remedy="For other adapters, use galore with factors = true"
    )
