"""Training with GRPO: prompts of the judge, groups of replies and their rewards.

trl samples replies and computes the loss; this package provides the order of the lists, optimizers, checkpoints and
validation. Three things differ from trl: prompts are passed as the judge's token ids instead of text that is tokenised
again, no telemetry is sent, and no model card is written next to checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, cast

from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rerank.errors import ContextOverflowError, MissingPrerequisiteError
from rerank.finetune.extra.objectives import compute_gains, compute_reward
from rerank.finetune.labels.lists import TrainingList
from rerank.finetune.losses import Lm
from rerank.finetune.trainer.examples import ExampleBuilder, LossInputs
from rerank.finetune.trainer.list_trainer import ListTrainer, SingleGpu
from rerank.finetune.trainer.listwise_module import FirstBatches, ListwiseModule, WeightedLoss
from rerank.finetune.trainer.schedule import ScheduledExamples
from rerank.finetune.trainer.training_run import TrainingRun
from rerank.judges.generate import Generate
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import reply_prefix_of_prompt
from rerank.prompts.passages import make_identifiers
from rerank.tasks import Backend
from rerank.types import Window

if TYPE_CHECKING:
    from rerank.finetune.extra.objectives import Grpo


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoPrompt:
    """Prompt of the judge for one training list, with the data that the reward of a reply is computed from."""

    ids: tuple[int, ...]  #: Token ids of the prompt.
    reply_prefix: str  #: Beginning of the reply, which is part of the prompt.
    labels: tuple[str, ...]  #: Identifiers of the documents in the prompt, in the order in which they are shown.
    gains: tuple[float, ...]
    cutoff: int  #: Rank cutoff of nDCG.
    tokens: HfTokens  #: Tokenizer that decodes replies.

    def reward(self, reply: Sequence[int]) -> float:
        """Return the reward of a reply's token ids, with the end-of-text token if the model generated it: 0 to 1."""
        text = self.reply_prefix + self.tokens.text(reply)
        return compute_reward(text, self.gains, labels=self.labels, cutoff=self.cutoff)


class GrpoPromptBuilder:
    """Builder of prompts with a recipe's judge, for lists of up to ``documents`` documents."""

    def __init__(self, judge: Generate, objective: Grpo, documents: int) -> None:
        self._judge, self._cutoff = judge, objective.cutoff
        self._tokens = cast(HfTokens, judge.backend.tokens)
        longest = make_identifiers(judge.identifiers, documents, self._tokens)
        self.max_tokens = objective.max_tokens or judge.reply_tokens(longest, documents)

    def make(self, training_list: TrainingList) -> GrpoPrompt:
        (request,) = self._judge.make_requests(Window(training_list.query, training_list.docs))
        ids = tuple(self._tokens.ids(self._tokens.render(request.prompt)))
        context_size = self._judge.limits.context_size or self._tokens.context_size
        if len(ids) + self.max_tokens > context_size:
            raise ContextOverflowError(
                f"The prompt of query {training_list.query.id!r} with {len(training_list)} documents has {len(ids)} "
                f"tokens, replies may have up to {self.max_tokens}, and the context size is {context_size}",
                remedy="Lower max_passage_tokens, documents or max_tokens in the recipe",
            )
        return GrpoPrompt(
            ids=ids,
            reply_prefix=reply_prefix_of_prompt(request.prompt),
            labels=tuple(make_identifiers(self._judge.identifiers, len(training_list), self._tokens)),
            gains=compute_gains(training_list),
            cutoff=self._cutoff,
            tokens=self._tokens,
        )


class SingleGpuGrpoConfig(SingleGpu, GRPOConfig):
    """Training arguments of trl that limit a process to one GPU."""


class GrpoListTrainer(ListTrainer, GRPOTrainer):
    """trl's GRPO trainer with the optimizers, checkpoints and validation of this package.

    The data set contains the indices of examples as text; prompts are built when they are needed.
    """

    def __init__(
        self, module: ListwiseModule, args: GRPOConfig, places: ScheduledExamples, *, kept: Sequence[str], **recipe: Any
    ) -> None:
        """Create the trainer; ``kept`` are the names in ``module`` of the parameters that checkpoints contain.

        GRPOTrainer has a constructor of its own, so that of `ListTrainer` is not called; `_use_recipe` sets what the
        methods of `ListTrainer` need. The trained model is ``module.model``, whose names have no prefix ``model.``.
        """
        if not hasattr(GRPOTrainer, "_tokenize_prompts"):  # otherwise the indices of examples would become prompts
            raise MissingPrerequisiteError(
                "The installed version of trl tokenises prompts in an unsupported way",
                expected="trl 1.16",
                remedy="Run: pip install 'trl==1.16.*'",
            )
        self._grpo_prompts = places
        self._batch_prompts: dict[str, GrpoPrompt] = {}
        dataset = import_module("datasets").Dataset  # by name, since it has no types
        before = [(parameter, parameter.data) for parameter in module.parameters() if parameter.requires_grad]
        GRPOTrainer.__init__(
            self,
            model=module.model,
            reward_funcs=cast(Any, self._rewards()),
            args=args,
            train_dataset=dataset.from_dict({"prompt": [str(place) for place in range(len(places))]}),
            eval_dataset=cast(Any, [] if recipe.get("validate") else None),
            processing_class=cast(GrpoPrompt, places[0]).tokens.tokenizer,
        )
        for parameter, value in before:  # trl rounds trained parameters if the base is in 4 bits; small steps get lost
            if parameter.dtype != value.dtype:
                parameter.data = value.to(parameter.device)
        self._use_recipe(places, kept=[name.removeprefix("model.") for name in kept], **recipe)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return GRPOTrainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)

    def _rewards(self) -> Callable[..., list[float]]:
        def ndcg(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
            return [self._batch_prompts[index].reward(ids) for index, ids in zip(prompts, completion_ids, strict=True)]

        return ndcg  # its name appears in the metrics

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, Mapping[str, Any]]:
        self._batch_prompts = {index: self._grpo_prompts[int(index)] for index in dict.fromkeys(prompts)}
        return [list(self._batch_prompts[index].ids) for index in prompts], None, {}

    def _send_telemetry(self) -> None:
        """Do nothing, so that no telemetry is sent; trl would report every training to its developers."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Do nothing, since this package writes its own model card at the end of training."""


class GrpoRun(TrainingRun):
    """A training run with GRPO; the arguments are the same as for `TrainingRun`."""

    _trainer_types: ClassVar[tuple[Any, Any]] = (GrpoListTrainer, SingleGpuGrpoConfig)

    def _examples(self, inputs: LossInputs) -> ExampleBuilder:
        judge = cast(Generate, self._judge())
        documents = min(self._recipe.data.documents, max(map(len, self._lists)))
        self._prompt_builder = GrpoPromptBuilder(judge, self._objective, documents)
        return cast(ExampleBuilder, self._prompt_builder)

    def _schedule(self, examples: ExampleBuilder) -> ScheduledExamples:
        # Calibration uses the labelled permutations, since there are no rewards before the first step.
        self._gold = super()._schedule(ExampleBuilder(self._judge(), LossInputs(tokens=True)))
        return super()._schedule(examples)

    @property
    def _objective(self) -> Grpo:
        return cast("Grpo", self._components.objective)

    def _judge(self) -> Any:
        return self._setup.open_judge(cast(Backend, self._backend))

    @property
    def _packs(self) -> bool:
        return False  # replies are sampled with the model's own attention

    @property
    def _batches(self) -> FirstBatches:
        return replace(super()._batches, places=self._gold, size=1)

    def _module(self, model: Any) -> ListwiseModule:
        return ListwiseModule(model, [WeightedLoss(name="lm", loss=Lm())], packs=False)

    def _settings(self) -> dict[str, Any]:
        table, objective = self._recipe.training, self._objective
        replies = table.batch_size * objective.group
        together = objective.together or replies
        return super()._settings() | {
            "num_generations": objective.group,
            "per_device_train_batch_size": together,
            "per_device_eval_batch_size": objective.group,
            "steps_per_generation": replies // together,
            "gradient_accumulation_steps": table.accumulation * replies // together,
            "max_completion_length": self._prompt_builder.max_tokens,
            "temperature": objective.temperature,
            "loss_type": "grpo",
            "shuffle_dataset": False,
            # trl would enable checkpointing by default; if the recipe asks for it, the model already uses it.
            "gradient_checkpointing": False,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
        }

    def _bare_trainer(self, module: ListwiseModule, validate: Callable[[], dict[str, float]] | None) -> ListTrainer:
        trainer = super()._bare_trainer(module, validate)
        # With beta among its arguments, trl would copy the adapter as the reference model, instead of disabling it.
        cast(GrpoListTrainer, trainer).beta = self._objective.beta
        return trainer

    def _save(self, module: ListwiseModule, trainer: ListTrainer, done: Any, *rest: Any) -> None:
        trainer.tokens = int(trainer.state.num_input_tokens_seen)
        super()._save(module, trainer, done, *rest)
