"""A training by GRPO: the judge's questions, groups of replies, their rewards. Imports torch and trl at its top.

trl samples and takes the gradient; from our trainer come the order of lists, optimizers, checkpoints and validation.
What is changed of trl's: prompts are our tokens and not made again from text; nothing is sent anywhere; no card is
written beside checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from transformers import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rerank.errors import ContextOverflowError, MissingPrerequisiteError
from rerank.finetune.extra.objectives.grpo import Grpo
from rerank.finetune.extra.objectives.grpo.reward import gains, reward
from rerank.finetune.labels.training_list import TrainingList
from rerank.finetune.losses.lm import Lm
from rerank.finetune.optimizers.base import Optimizer
from rerank.finetune.trainer.arguments import arguments
from rerank.finetune.trainer.calibration_batches import Batches
from rerank.finetune.trainer.examples import Examples, Looks
from rerank.finetune.trainer.list_trainer import ListTrainer, Places
from rerank.finetune.trainer.module import Listwise, Term
from rerank.finetune.trainer.run import Run
from rerank.judges.generate import Generate
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import opening
from rerank.prompts.identifiers import identifiers
from rerank.tasks import Backend
from rerank.types import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One training list as the judge asks about it.

    Attributes:
        ids: Token ids of the prompt.
        begun: The beginning of the reply that the prompt gives.
        labels: What the documents are called, in the order in which they are shown.
        gains: What each is worth.
        cutoff: Ranks that count.
        tokens: Reads replies.
    """

    ids: tuple[int, ...]
    begun: str
    labels: tuple[str, ...]
    gains: tuple[float, ...]
    cutoff: int
    tokens: HfTokens

    def reward(self, reply: Sequence[int]) -> float:
        """What a reply is worth, from 0 to 1.

        Args:
            reply: Its token ids, the end of the text with them if the model wrote it.
        """
        text = self.begun + self.tokens.text(reply)
        return reward(text, self.gains, labels=self.labels, cutoff=self.cutoff)


class Questions:
    """Makes questions with the judge of a recipe; in the place of `rerank.finetune.trainer.examples.Examples`.

    Args:
        judge: Who will rank with the adapter.
        objective: What is trained for.
        documents: Documents of the longest list.
    """

    def __init__(self, judge: Generate, objective: Grpo, documents: int) -> None:
        """Find out how long a reply may be."""
        self._judge, self._cutoff = judge, objective.cutoff
        self._tokens = cast(HfTokens, judge.backend.tokens)
        longest = identifiers(judge.identifiers, documents, self._tokens)
        self.max_tokens = objective.max_tokens or judge.reply_tokens(longest, documents)

    def make(self, given: TrainingList) -> Question:
        """The question of one list: the very prompt that ranks with the adapter.

        Raises:
            ContextOverflowError: It does not fit the context, reply and all.
            DataError: See `rerank.prompts.PromptTemplate.render`.
        """
        (request,) = self._judge.requests(Window(given.query, given.docs))
        ids = tuple(self._tokens.ids(self._tokens.render(request.prompt)))
        room = self._judge.limits.context_size or self._tokens.context_size
        if len(ids) + self.max_tokens > room:
            raise ContextOverflowError(
                f"The prompt of query {given.query.id!r} with {len(given)} documents has {len(ids)} tokens, replies "
                f"may have {self.max_tokens}, and the context holds {room}",
                remedy="Lower max_passage_tokens, documents or max_tokens in the recipe",
            )
        return Question(
            ids=ids,
            begun=opening(request.prompt),
            labels=tuple(identifiers(self._judge.identifiers, len(given), self._tokens)),
            gains=gains(given),
            cutoff=self._cutoff,
            tokens=self._tokens,
        )


class GroupTrainer(ListTrainer, GRPOTrainer):
    """trl's trainer of GRPO with our optimizers, checkpoints and validation; arguments as `ListTrainer`'s.

    Its data are the numbers of places, as text; questions are made when they are asked.
    """

    def __init__(
        self,
        module: Listwise,
        args: GRPOConfig,
        places: Places,
        *,
        optimizer: Optimizer,
        kept: Sequence[str],
        validate: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        """Set trl's trainer up over the model inside the module.

        Raises:
            MissingPrerequisiteError: This version of trl makes prompts elsewhere.
        """
        if not hasattr(GRPOTrainer, "_tokenize_prompts"):  # then it would take the numbers of places for prompts
            raise MissingPrerequisiteError(
                "The installed trl makes prompts in a way that is not known here",
                expected="trl 1.16",
                remedy="Run: pip install 'trl==1.16.*'",
            )
        self._questions = places
        self._asked: dict[str, Question] = {}
        dataset = import_module("datasets").Dataset  # by its name, since it has no types
        trained = [(one, one.data) for one in module.parameters() if one.requires_grad]
        GRPOTrainer.__init__(
            self,
            model=module.model,
            reward_funcs=cast(Any, self._rewards()),
            args=args,
            train_dataset=dataset.from_dict({"prompt": [str(place) for place in range(len(places))]}),
            eval_dataset=cast(Any, [] if validate else None),
            processing_class=cast(Question, places[0]).tokens.tokenizer,
        )
        for parameter, value in trained:  # over a base of four bits trl rounds what trains, whose steps would get lost
            if parameter.dtype != value.dtype:
                parameter.data = value.to(parameter.device)
        self.remove_callback(PrinterCallback)
        self._part, self._kept, self._validate = optimizer, frozenset(kept), validate
        self._parts = {}
        self.tokens = 0
        self.folder = Path(str(args.output_dir))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective's; see trl."""
        return GRPOTrainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return GRPOTrainer._get_train_sampler(self, train_dataset)

    def _rewards(self) -> Callable[..., list[float]]:
        def ndcg(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
            return [self._asked[place].reward(ids) for place, ids in zip(prompts, completion_ids, strict=True)]

        return ndcg  # its name is what the metrics call it

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, Mapping[str, Any]]:
        self._asked = {place: self._questions[int(place)] for place in dict.fromkeys(prompts)}
        return [list(self._asked[place].ids) for place in prompts], None, {}

    def _send_telemetry(self) -> None:
        """Send nothing: trl would tell its makers of every training."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: ours is written at the end."""


class GroupRun(Run):
    """A training by GRPO; arguments as `Run`'s."""

    def _examples(self, looks: Looks) -> Examples:
        judge = cast(Generate, self._judge())
        documents = min(self._recipe.data.documents, max(map(len, self._lists)))
        self._questions = Questions(judge, self._objective, documents)
        return cast(Examples, self._questions)

    def _schedule(self, examples: Examples) -> Places:
        # For parts that look before they train: there is no reward yet to look at.
        self._gold = super()._schedule(Examples(self._judge(), Looks(tokens=True)))
        return super()._schedule(examples)

    @property
    def _objective(self) -> Grpo:
        return cast(Grpo, self._parts.objective)

    def _judge(self) -> Any:
        return self._asked.judge(cast(Backend, self._backend))

    @property
    def _packs(self) -> bool:
        """Never: replies are sampled with the model's own attention."""
        return False

    @property
    def _batches(self) -> Batches:
        """The labels' orders, one a batch."""
        return Batches(places=self._gold, size=1, module=self._module, device=self._device, dtype=self._dtype)

    def _module(self, model: Any) -> Listwise:
        return Listwise(model, [Term(name="lm", loss=Lm())], packs=False)

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
            "max_completion_length": self._questions.max_tokens,
            "temperature": objective.temperature,
            "loss_type": "grpo",
            "shuffle_dataset": False,
            # Otherwise trl turns it on; where the recipe wants it the model does it already.
            "gradient_checkpointing": False,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
        }

    def _bare_trainer(self, module: Listwise, validate: Callable[[], dict[str, float]] | None) -> ListTrainer:
        trainer = GroupTrainer(
            module,
            arguments(GRPOConfig, self._settings()),
            self._places,
            optimizer=self._parts.optimizer,
            kept=[name.removeprefix("model.") for name in self._kept],
            validate=validate,
        )
        # Told so from the start, trl would copy the adapter as its reference. The base model is what is meant, and is
        # there whenever the adapter is switched off.
        trainer.beta = self._objective.beta
        return trainer

    def _save(self, module: Listwise, trainer: ListTrainer, done: Any) -> None:
        trainer.tokens = int(trainer.state.num_input_tokens_seen)
        super()._save(module, trainer, done)
