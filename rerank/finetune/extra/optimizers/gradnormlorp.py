"""GradNormLoRP: GaLore on the factors of normalised weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.optimizers.base.options import LORA, Subspace
from rerank.finetune.parts import Shape

if TYPE_CHECKING:
    from rerank.finetune.recipe import Recipe

_ADAPTER = "dora"


@dataclass(frozen=True, kw_only=True)
class Gradnormlorp(Subspace):
    """`galore` on the gradients of the factors of `dora`, whose vectors of magnitudes step by plain AdamW.

    The paper normalises the rows of W + alpha / r B A and trains their lengths apart, which is DoRA, and projects the
    gradients of B and A, which is GaLore. Its name for the subspace's size, and its step between two choices, are
    ``rank`` and ``gap`` here.

    Attributes:
        rank: As in `galore`, and to be below the adapter's, of whose factors it is the shorter side; a quarter of
            `dora`'s default by default.
    """

    paper: ClassVar[str] = "Huang et al., AAAI 2025, arXiv 2412.19616 (GradNormLoRP)"
    summary: ClassVar[str] = "GaLore on the factors of the adapter dora"
    fits: ClassVar[frozenset[Shape]] = LORA
    reason: ClassVar[str] = "It projects the gradients of the factors of dora, and nothing else has them"

    rank: int = 4

    def check_recipe(self, recipe: Recipe) -> None:
        """See `rerank.finetune.parts.FitsSome`.

        Raises:
            UsageError: The adapter is not `dora`.
        """
        if recipe.adapter.name != _ADAPTER:
            raise _other(f"The optimizer 'gradnormlorp' with the adapter {recipe.adapter.name!r}")

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """See `rerank.finetune.optimizers.base.Optimizer`.

        Raises:
            UsageError: The model has no magnitudes that train beside its factors.
        """
        from rerank.finetune.optimizers.base.parameter_groups import trained

        if not any(".lora_magnitude_vector." in name for name, _ in trained(model)):
            raise _other("The optimizer 'gradnormlorp' for a model without DoRA's magnitudes")
        return super().build(model, lr=lr, weight_decay=weight_decay)


def _other(found: str) -> UsageError:
    return UsageError(
        found, expected=f"the adapter {_ADAPTER}", remedy="For other factors take galore with factors = true"
    )
