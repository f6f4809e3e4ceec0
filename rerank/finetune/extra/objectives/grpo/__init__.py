"""GRPO: reinforcement learning on what a written order is worth."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import MissingPrerequisiteError, UsageError
from rerank.finetune.adapters.base import Adapter
from rerank.methods import open_method

if TYPE_CHECKING:
    from rerank.finetune.recipe import Parts, Recipe


@dataclass(frozen=True, kw_only=True)
class Grpo:
    """Writes a group of orders for each list and makes those likelier that are worth more; `trl.GRPOTrainer`.

    The advantage of a reply is its reward less the mean of its group, over the group's standard deviation; a group
    whose replies are all worth the same teaches nothing. The reward is nDCG of the order as it would be read at
    inference, with gains from the label (`rerank.finetune.extra.objectives.grpo.reward`), and 0 for a reply without any
    identifier. Prompts are the judge's own. Replies are written freely, whatever the judge's ``constrain`` says, so
    that the form is learnt too. Every reply is used for one step, so nothing is clipped.

    In a recipe, ``batch_size`` is lists a batch and ``accumulation`` batches a step, as ever, each list with ``group``
    replies; the loss in the metrics hovers around 0 and says nothing: look at ``reward``. Parts that look at batches
    before they train see the labels' orders under the plain language-model loss.

    Attributes:
        group: Replies to each list.
        temperature: Of sampling.
        beta: Weight of the divergence from the base model (KL, the estimator of the paper's equation 4); 0 for none.
        max_tokens: Longest reply; None for what the judge grants for as many documents.
        together: Replies that are learnt from at a time, to save memory; a divisor of ``group``, None for all.
        cutoff: Ranks of nDCG.
    """

    group: int = 8
    temperature: float = 1.0
    beta: float = 0.0
    max_tokens: int | None = None
    together: int | None = None
    cutoff: int = 10

    paper: ClassVar[str] = "Shao et al., 2024, arXiv 2402.03300 (DeepSeekMath, GRPO)"
    summary: ClassVar[str] = "Makes written orders likelier by the nDCG that they are worth"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: One is out of its range.
        """
        least: tuple[tuple[str, int | None, int], ...] = (
            ("group", self.group, 2),
            ("max_tokens", self.max_tokens, 1),
            ("together", self.together, 1),
            ("cutoff", self.cutoff, 1),
        )
        for option, value, low in least:
            if value is not None and value < low:
                raise UsageError(f"{option}={value}", expected=f"at least {low}")
        if self.temperature <= 0:
            raise UsageError(f"temperature={self.temperature}", expected="above 0: equal replies teach nothing")
        if self.beta < 0:
            raise UsageError(f"beta={self.beta}", expected="at least 0")
        if self.group % (self.together or 1):
            raise UsageError(f"together={self.together} with group={self.group}", expected="a divisor of group")

    def check(self, recipe: Recipe, adapter: Adapter) -> None:
        """See `rerank.finetune.extra.objectives.base.Objective`."""
        judge = open_method(recipe.method.method).judge
        if judge != "generate":
            raise UsageError(
                f"objective = 'grpo' for the judge {judge!r} of method = {recipe.method.method!r}: it rewards written "
                "orders",
                expected="a method whose judge is generate, such as fullrank or sliding",
            )
        name = recipe.adapter.name
        dropout = getattr(adapter, "dropout", 0.0)
        if dropout or recipe.training.neftune:
            raise UsageError(
                f"objective = 'grpo' with dropout = {dropout} and neftune = {recipe.training.neftune}: replies would "
                "come from another model than the one that learns from them",
                expected="both 0",
            )
        if self.beta and (adapter.moves_base or adapter.saves == "model"):
            raise UsageError(
                f"beta = {self.beta} with the adapter {name!r}: the base model is compared with, and has to be there "
                "while it trains",
                expected="beta = 0, or an adapter that leaves the base model as it is, such as lora",
            )

    def run(self, recipe: Recipe, parts: Parts, folder: Path, *, device: str) -> Any:
        """See `rerank.finetune.extra.objectives.base.Objective`."""
        missing = [name for name in ("trl", "datasets") if find_spec(name) is None]
        if missing:
            raise MissingPrerequisiteError(
                f"objective = 'grpo' needs {' and '.join(missing)}, which is not installed",
                remedy="Run: pip install 'listrank[train]'",
            )
        from rerank.finetune.extra.objectives.grpo.group_trainer import GroupRun

        return GroupRun(recipe, parts, folder, device=device)
