"""The losses of sentence-transformers for cross-encoders, which a recipe selects by class name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rerank.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from rerank.finetune.recipe import Recipe

#: Losses on whole lists, and losses on single pairs of query and document.
_LIST_LOSSES = ("ADRMSELoss", "LambdaLoss", "ListMLELoss", "ListNetLoss", "PListMLELoss", "RankNetLoss")
_PAIR_LOSSES = ("BinaryCrossEntropyLoss", "MSELoss")


@dataclass(frozen=True, kw_only=True)
class SentenceTransformers:
    """A loss of sentence-transformers on the teacher's scores, for cross-encoders.

    Unlike all other losses, this loss runs the model itself, so it cannot be combined with another loss. The scores of
    the label file are passed to the loss unchanged.

    Attributes:
        loss: Name of the class.
        options: Further keyword arguments of the class.
    """

    of: ClassVar[Literal["texts"]] = "texts"
    paper: ClassVar[str] = "Wang et al., CIKM 2018 (LambdaLoss); the pages of the other classes name theirs"
    summary: ClassVar[str] = "A loss of sentence-transformers by its class name, for cross-encoders"

    loss: str = "LambdaLoss"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that ``loss`` is one of the supported classes."""
        if self.loss not in _LIST_LOSSES + _PAIR_LOSSES:
            raise UnknownNameError("loss of sentence-transformers", self.loss, _LIST_LOSSES + _PAIR_LOSSES)

    @property
    def reads_pairs(self) -> bool:
        """Whether the loss processes one query-document pair at a time."""
        return self.loss in _PAIR_LOSSES

    def check_recipe(self, recipe: Recipe) -> None:
        """Check that the recipe trains a cross-encoder, and that it has no other loss."""
        method = recipe.method.method
        if method.partition(",")[0] != "cross-encoder":
            raise UsageError(
                f"The loss 'sentence-transformers' does not support method = {method!r}",
                expected="method = 'cross-encoder'",
            )
        if len(recipe.losses) > 1:
            raise UsageError(
                f"The recipe has {len(recipe.losses)} losses, one of which is 'sentence-transformers'",
                expected="this loss alone, because it runs the model itself",
            )

    def build(self, model: Any) -> Any:
        """Return the loss for a ``sentence_transformers.CrossEncoder``."""
        from sentence_transformers.cross_encoder import losses

        # Without this default, a batch would have only as many pairs as there are lists.
        defaults = {} if self.reads_pairs else {"mini_batch_size": -1}
        try:
            return getattr(losses, self.loss)(model, **(defaults | dict(self.options)))
        except (TypeError, ValueError) as error:
            raise UsageError(f"The loss {self.loss} rejected options = {dict(self.options)}: {error}") from error
