"""What an objective is: something else than losses on labels that a training makes large. Knows none in particular."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rerank.finetune.adapters.base import Adapter
from rerank.finetune.parts import Part

if TYPE_CHECKING:
    from rerank.finetune.recipe import Parts, Recipe


class Objective(Part, Protocol):
    """An objective. Its fields are its options; a recipe that names one has no losses."""

    def check(self, recipe: Recipe, adapter: Adapter) -> None:
        """Refuse what it cannot train, before anything is loaded.

        Args:
            recipe: The whole recipe.
            adapter: Its adapter.

        Raises:
            UsageError: The method, the adapter or a setting does not go with it; the message says why.
        """

    def run(self, recipe: Recipe, parts: Parts, folder: Path, *, device: str) -> Any:
        """The training, ready to begin: a `rerank.finetune.trainer.run.Run`.

        Args:
            recipe: What to do.
            parts: Its parts.
            folder: Where everything goes.
            device: Torch device.

        Raises:
            MissingPrerequisiteError: A package that it needs is not installed.
            RerankError: What `rerank.finetune.trainer.training.train` names.
        """
