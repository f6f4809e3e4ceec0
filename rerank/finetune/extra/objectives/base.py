"""The protocol of training objectives that replace losses on labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rerank.finetune.adapters.base import Adapter
from rerank.finetune.components import TrainingComponent

if TYPE_CHECKING:
    from rerank.finetune.components import RecipeComponents
    from rerank.finetune.recipe import Recipe


class Objective(TrainingComponent, Protocol):
    """A training objective that replaces the losses of a recipe, such as GRPO. Dataclass fields are its options."""

    def check(self, recipe: Recipe, adapter: Adapter) -> None:
        """Check that the recipe can be trained with this objective, before anything is loaded.

        Args:
            recipe: The complete recipe.
            adapter: The adapter of the recipe.

        Raises:
            UsageError: The objective does not support the method, the adapter or a setting; the message states the
                reason.
        """

    def run(
        self, recipe: Recipe, parts: RecipeComponents, folder: Path, *, device: str, report_to: Sequence[str] = ()
    ) -> Any:
        """Prepare the training; return a `rerank.finetune.trainer.training_run.TrainingRun` that can be started.

        Args:
            recipe: The recipe.
            parts: The components of the recipe.
            folder: Folder of all outputs.
            device: Torch device.
            report_to: Names of the services to which metrics are reported.

        Raises:
            MissingPrerequisiteError: A required package is not installed.
            RerankError: One of the errors of `rerank.finetune.trainer.training.train_adapter` occurred.
        """
