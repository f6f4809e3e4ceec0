"""Training of cross-encoders with the trainer of sentence-transformers. Imports torch and sentence-transformers.

Sentence-transformers loads, runs, trains and saves the model. This package provides the lists and their order, the
losses on scores, optimizers, checkpoints and validation, as for all other trainings.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from datasets import Dataset
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from torch.utils.data import BatchSampler, SequentialSampler
from transformers.trainer_utils import set_seed

from rerank.backends.cross_encoder import CrossEncoder as CrossEncoderBackend
from rerank.backends.cross_encoder import load_cross_encoder_model
from rerank.finetune.adapters import Full
from rerank.finetune.components import ListLoss, ListTarget
from rerank.finetune.labels.lists import TrainingList
from rerank.finetune.losses import SentenceTransformers, teacher_scores
from rerank.finetune.trainer.examples import ExampleBuilder, LossInputs
from rerank.finetune.trainer.list_trainer import ListTrainer, SingleGpu
from rerank.finetune.trainer.listwise_module import (
    ListwiseModule,
    WeightedLoss,
    enable_activation_checkpointing,
    sum_weighted_losses,
    weighted_losses,
)
from rerank.finetune.trainer.schedule import ScheduledExamples
from rerank.finetune.trainer.training_run import TrainingRun
from rerank.judges.pointwise import Relate
from rerank.lm.loading import locate_files
from rerank.models import resolve_model_name
from rerank.tasks import Backend, BackendOptions
from rerank.types import Window


class PairBuilder:
    """Builder of query-document pairs, with passages truncated as by the judge that will rank with the model."""

    #: A list is one batch of pairs, which needs no packing.
    is_pointwise = False

    def __init__(self, judge: Relate) -> None:
        self._judge = judge

    def make(self, training_list: TrainingList) -> dict[str, Any]:
        """Return a list as a row of a sentence-transformers data set; ``label`` has the teacher scores, if any."""
        (request,) = self._judge.make_requests(Window(training_list.query, training_list.docs))
        query, *documents = (message.content for message in request.prompt)
        return {
            "query": query,
            "documents": documents,
            "ranks": training_list.ranks,
            "query_id": training_list.query.id,
            "label": training_list.scores,
        }


def default_prompt(model: CrossEncoder) -> str | None:
    """Return the prompt that the cross-encoder puts before its inputs at inference; None if there is no prompt."""
    return (model.prompts or {}).get(model.default_prompt_name or "")


class CrossEncoderLoss(nn.Module):
    """The losses of a recipe on scores, combined into one loss module for sentence-transformers.

    The cross-encoder has a single output, or one output each for irrelevant and relevant.
    """

    # The attributes have the same meaning as in `ListwiseModule`: in a single process, nothing is sharded.
    is_sharded = False
    gather_model = None

    def __init__(self, model: CrossEncoder, losses: Sequence[WeightedLoss]) -> None:
        super().__init__()
        self.model, self.losses = model, tuple(losses)
        self.parts: dict[str, Tensor] = {}  # unweighted value of each loss on the last batch
        self.tokens = 0  # number of tokens of the last batch, including padding
        model.register_forward_pre_hook(self._count_tokens)

    def _count_tokens(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        self.tokens += int(args[0]["input_ids"].numel())

    def forward(self, inputs: Sequence[Any], labels: Sequence[Tensor], prompt: Any = None, task: Any = None) -> Tensor:
        """Return the total loss of one batch, a scalar.

        ``inputs`` are the other columns of `PairBuilder.make`, ``labels`` its column label. The model puts ``prompt``
        before its inputs; models with a router use ``task``.
        """
        self.tokens = 0
        means = self._means(inputs, labels, prompt=prompt, task=task)
        self.parts = {name: value.detach() for name, value in means.items()}
        *_, query_ids = inputs
        return sum_weighted_losses(self.losses, means, query_ids)

    def example_loss(self, example: Mapping[str, Any], device: str) -> dict[str, Any]:
        """Return the loss of one row of `PairBuilder.make`, in the form of `ListwiseModule.example_loss`."""
        label = torch.tensor(example["label"], device=device)
        columns = [[value] for name, value in example.items() if name != "label"]
        return {"loss": self(columns, [label], prompt=default_prompt(self.model)), "parts": self.parts}

    def _means(self, inputs: Sequence[Any], labels: Sequence[Tensor], **context: Any) -> dict[str, Tensor]:
        queries, documents, ranks, _ = inputs
        pairs = [(query, doc) for query, docs in zip(queries, documents, strict=True) for doc in docs]
        features = batch_to_device(self.model.preprocess(pairs, **context), self.model.device)
        # (pairs, 1), or (pairs, 2) for irrelevant and relevant, whose log odds are the score as in the backend
        logits = self.model(features)["scores"].float()
        scores = logits[:, 1] - logits[:, 0] if logits.shape[-1] == 2 else logits.view(-1)
        values: dict[str, list[Tensor]] = {term.name: [] for term in self.losses}
        scores_of_lists = scores.split([len(docs) for docs in documents])
        for list_scores, ranks_of_list, teacher in zip(scores_of_lists, ranks, labels, strict=True):
            target = ListTarget(ranks=scores.new_tensor(ranks_of_list), scores=teacher.to(scores))
            for term in self.losses:
                values[term.name].append(cast(ListLoss, term.loss)(list_scores, target))
        return {name: torch.stack(parts).mean() for name, parts in values.items()}


class LibraryLoss(CrossEncoderLoss):
    """Module for a `rerank.finetune.losses.SentenceTransformers`, which runs the model itself."""

    def __init__(self, model: CrossEncoder, term: WeightedLoss) -> None:
        super().__init__(model, [term])
        self._settings = cast(SentenceTransformers, term.loss)
        self._library_loss = self._settings.build(model)

    def _means(self, inputs: Sequence[Any], labels: Sequence[Tensor], **context: Any) -> dict[str, Tensor]:
        queries, documents, *_ = inputs
        for teacher in labels:
            teacher_scores(ListTarget(ranks=teacher, scores=teacher), self._settings.loss)
        targets: Any = labels
        if self._settings.reads_pairs:
            queries = [query for query, docs in zip(queries, documents, strict=True) for _ in docs]
            documents, targets = list(chain.from_iterable(documents)), torch.cat(list(labels)).to(self.model.device)
        return {self.losses[0].name: self._library_loss((queries, documents), targets, **context)}


class ScheduledListCollator(CrossEncoderDataCollator):
    """Collator that builds the lists of a batch from their positions, which are the rows of the data set."""

    def __init__(self, model: CrossEncoder, places: ScheduledExamples) -> None:
        super().__init__(preprocess_fn=model.preprocess, prompts=default_prompt(model))
        self._places = places

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return cast(dict[str, Any], super().__call__([self._places[row["place"]] for row in features]))


class SingleGpuCrossEncoderArguments(SingleGpu, CrossEncoderTrainingArguments):
    """Training arguments of sentence-transformers that limit a process to one GPU."""


class CrossEncoderListTrainer(ListTrainer, CrossEncoderTrainer):
    """The trainer of sentence-transformers with the optimizers, checkpoints and validation of this package."""

    def __init__(
        self, module: CrossEncoderLoss, args: CrossEncoderTrainingArguments, places: ScheduledExamples, **recipe: Any
    ) -> None:
        dataset = Dataset.from_dict({"place": list(range(len(places)))})
        CrossEncoderTrainer.__init__(
            self,
            model=module.model,
            args=args,
            train_dataset=dataset,
            eval_dataset=dataset if recipe.get("validate") else None,
            loss=module,
            data_collator=ScheduledListCollator(module.model, places),
        )
        self._use_recipe(places, **recipe)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        value = CrossEncoderTrainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)
        module = cast(CrossEncoderLoss, self.loss)
        self._count_batch(module.tokens, module.parts)
        return value

    def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, *_: Any, **__: Any) -> BatchSampler:
        return BatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Do nothing, because this package writes its own model card at the end of the training."""


@dataclass(frozen=True, kw_only=True)
class FullCrossEncoder(Full):
    """Full fine-tuning of a cross-encoder (all weights, no adapter), saved in the sentence-transformers format."""

    def save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(str(folder), create_model_card=False)  # the caller writes the card


class CrossEncoderRun(TrainingRun):
    """A training run of a cross-encoder."""

    _trainer_types: ClassVar[tuple[Any, Any]] = (CrossEncoderListTrainer, SingleGpuCrossEncoderArguments)

    def _load_base_model(self, dtype: str, device: str) -> tuple[Any, Any]:
        recipe = self._recipe
        set_seed(recipe.seed)  # an encoder without a classification head gets a random one
        options = BackendOptions(
            revision=recipe.revision,
            dtype=dtype,  # type: ignore[arg-type]  # checked at run time
            device=device,
            trust_remote_code=recipe.trust_remote_code,
            context_size=recipe.method.context_size,
        )
        files = locate_files(resolve_model_name(recipe.model), options)
        model, identity = load_cross_encoder_model(files, options, new_head=True)
        backend = CrossEncoderBackend(model, identity=identity, options=options)
        backend.set_source(files, options)
        return backend, model.tokenizer

    def _examples(self, inputs: LossInputs) -> ExampleBuilder:
        return cast(ExampleBuilder, PairBuilder(cast(Relate, self._setup.open_judge(cast(Backend, self._backend)))))

    def _attach_adapter(self) -> ListwiseModule:
        recipe, model = self._recipe, self._backend.model.requires_grad_(True)
        self._adapter = FullCrossEncoder()
        self._kept = [name for name, _ in model.named_parameters()]
        if recipe.training.checkpointing:
            enable_activation_checkpointing(model.transformers_model)
        set_seed(recipe.seed)
        terms = weighted_losses(recipe, self._components)
        own = terms[0].loss.of != "texts"
        return cast(ListwiseModule, CrossEncoderLoss(model, terms) if own else LibraryLoss(model, terms[0]))

    @contextmanager
    def _inference_backend(self, module: ListwiseModule) -> Iterator[Backend]:
        training = self._backend.model.training
        try:
            yield self._backend
        finally:
            self._backend.model.train(training)
