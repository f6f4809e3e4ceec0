"""Experimental objectives that replace losses: reinforcement learning. Imports no heavy package."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.errors import UsageError, ensure
from rerank.finetune import kernels
from rerank.finetune.components import Adapter, ComponentBase, RecipeComponents, option
from rerank.finetune.labels.lists import TrainingList
from rerank.finetune.recipe import Recipe
from rerank.installation import check_modules
from rerank.judges import FAILURES
from rerank.judges.generate import parse_verdict
from rerank.methods import open_method
from rerank.tasks import Reply
from rerank.types import Order


@dataclass(frozen=True, kw_only=True)
class Grpo(ComponentBase):
    """GRPO on generated permutations with nDCG as the reward, implemented with `trl.GRPOTrainer`.

    A group of replies is sampled per list. The advantage of a reply is its reward (`compute_reward`) minus the mean of
    its group, divided by the group's standard deviation. Replies are generated without constrained decoding, even if
    the judge's ``constrain`` is set, so that the model also learns the format. Every reply is used for one step only,
    so that no ratio is clipped. The loss stays near 0 and is not informative: monitor ``reward`` instead.
    """

    group: int = option(8, at_least=2)  #: Number of replies per list.
    temperature: float = 1.0  #: Sampling temperature.
    #: Weight of the KL divergence from the base model (the estimator of equation 4 of the paper); 0 for none.
    beta: float = option(0.0, at_least=0)
    #: Maximum number of tokens per reply; None for the judge's limit, which depends on the list length.
    max_tokens: int | None = option(None, at_least=1)
    #: Number of replies per backward pass, a divisor of ``group``; a small number saves memory. None for all.
    together: int | None = option(None, at_least=1)
    cutoff: int = option(10, at_least=1)  #: Rank cutoff of nDCG.

    def __post_init__(self) -> None:
        super().__post_init__()
        ensure(
            self.temperature > 0,
            f"Option temperature is {self.temperature}",
            expected="above 0, since greedy decoding would make all replies of a group equal",
        )
        ensure(
            self.group % (self.together or 1) == 0,
            f"Option together is {self.together}, and group is {self.group}",
            expected="a divisor of group",
        )

    def check(self, recipe: Recipe, adapter: Adapter) -> None:
        if (judge := open_method(recipe.method.method).judge.name) != "generate":
            raise UsageError(
                f"objective = 'grpo' does not support the judge {judge!r} of method = {recipe.method.method!r}, since "
                "it rewards generated permutations",
                expected="a method whose judge is generate, such as fullrank or sliding",
            )
        if (dropout := getattr(adapter, "dropout", 0.0)) or recipe.training.neftune:
            raise UsageError(
                f"objective = 'grpo' is combined with dropout = {dropout} and neftune = {recipe.training.neftune}: the "
                "model that generates the replies would differ from the one that is trained on them",
                expected="dropout = 0 and neftune = 0",
            )
        if self.beta and (adapter.moves_base or adapter.saves == "model"):
            raise UsageError(
                f"beta = {self.beta} is combined with the adapter {recipe.adapter.name!r}, which modifies the base "
                "model: the KL divergence needs the unmodified base model during training",
                expected="beta = 0, or an adapter that does not modify the base model, such as lora",
            )

    def run(
        self, recipe: Recipe, parts: RecipeComponents, folder: Path, *, device: str, report_to: Sequence[str] = ()
    ) -> Any:
        check_modules("objective = 'grpo'", ("trl", "datasets"), "train")
        return kernels.grpo.GrpoRun(recipe, parts, folder, device=device, report_to=report_to)


def compute_gains(training_list: TrainingList) -> tuple[float, ...]:
    """Return the gain of each document of a list, in the order of its documents.

    The teacher's scores are the gains, as in trec_eval, if they can be grades: nonnegative integers, not all 0, that do
    not increase along the label. Ratios of other scores (cosines, logits, BM25) have no meaning, so the gain is 1/rank
    under the label. In either case, the labelled order has the highest reward.

    >>> from rerank.types import Document, Query
    >>> docs = tuple(Document(id=name) for name in "abc")
    >>> compute_gains(TrainingList(query=Query(id="q"), docs=docs, order=(1, 0, 2)))
    (0.5, 1.0, 0.3333333333333333)
    >>> compute_gains(TrainingList(query=Query(id="q"), docs=docs, order=(1, 0, 2), scores=(2, 3, 0)))
    (2.0, 3.0, 0.0)
    """
    by_label = [training_list.scores[index] for index in training_list.order] if training_list.scores else []
    are_grades = all(score >= 0 and float(score).is_integer() for score in by_label)
    if any(by_label) and are_grades and by_label == sorted(by_label, reverse=True):
        return tuple(map(float, training_list.scores))
    return tuple(1 / rank for rank in training_list.ranks)


def compute_ndcg(order: Order, gains: Sequence[float], cutoff: int) -> float:
    """Return DCG / ideal DCG of an order, where DCG = sum of gain_i / log2(i + 1) over the ranks i up to the cutoff.

    >>> round(compute_ndcg((1, 0), (3.0, 1.0), 10), 4)
    0.7967
    """

    def dcg(ordered: Sequence[float]) -> float:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(ordered[:cutoff], 1))

    return dcg([gains[index] for index in order]) / dcg(sorted(gains, reverse=True))


def compute_reward(text: str, gains: Sequence[float], *, labels: Sequence[str], cutoff: int) -> float:
    """Return the reward of a reply, from 0 to 1.

    The reply is parsed as at inference; without any identifier, its reward is 0. ``gains`` and ``labels`` (identifiers
    in the prompt) are per document, in the order in which they were shown.
    """
    parsed = parse_verdict(Reply(text=text), len(gains), labels=labels)
    return 0.0 if parsed.status in FAILURES else compute_ndcg(parsed.order, gains, cutoff)
