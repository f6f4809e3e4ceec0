"""One training run: it connects model, data, components and files. Imports torch."""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import set_seed

from rerank.assemble import assemble_ranker
from rerank.backends.hf import Hf
from rerank.errors import BackendError, ContextOverflowError, DataError, UsageError
from rerank.finetune.adapters.base import SupportsCallbacks, SupportsPenalty
from rerank.finetune.components import RecipeComponents
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer import packed_attention
from rerank.finetune.trainer.adapter_card import AdapterDescription
from rerank.finetune.trainer.adapter_folder import write_adapter, write_current_head_list
from rerank.finetune.trainer.base_model import (
    limit_adapter_layers,
    load_training_base_model,
    optimizer_state_bytes,
    select_readout_heads,
    training_checkpoint_tensor_names,
    truncate_trained_layers,
    unwrap_adapted_model,
)
from rerank.finetune.trainer.calibration_batches import FirstBatches
from rerank.finetune.trainer.examples import ExampleBuilder, LossInputs, check_judge_can_be_trained
from rerank.finetune.trainer.list_trainer import (
    METRICS,
    EarlyStopping,
    FinalValidation,
    ListTrainer,
    MetricsWriter,
    ScheduledExamples,
    list_training_checkpoints,
    training_storage_errors,
)
from rerank.finetune.trainer.listwise_module import (
    AttentionScorer,
    ListwiseModule,
    enable_activation_checkpointing,
    weighted_losses,
)
from rerank.finetune.trainer.processes import is_main_training_process, peak_training_memory_mb, training_process_device
from rerank.finetune.trainer.schedule import ListSchedule
from rerank.finetune.trainer.trainer_arguments import first_learning_rate, make_trainer_arguments, trainer_settings
from rerank.finetune.trainer.training_data import read_training_lists
from rerank.finetune.trainer.validation import Validation
from rerank.finetune.trainer.weight_sharding import reshard_frozen_weights, shard_frozen_weights
from rerank.io.run_files import read_run, write_run
from rerank.io.settings_files import read_json_object
from rerank.io.text_files import replace_text_file
from rerank.lm.decoding import is_out_of_memory
from rerank.lm.loading import pick_dtype, quiet_transformers
from rerank.progress import ProgressFactory
from rerank.tasks import Backend, BackendOptions
from rerank.types import Run

_RECIPE, _RESULT = "recipe.json", "result.json"
#: Files with the rankings of the validation queries by the first stage, the untrained model and the trained model.
_FIRST, _UNTRAINED, _TRAINED = "first_stage.trec", "untrained.trec", "trained.trec"


class TrainingRun:
    """A training run; subclasses override individual steps.

    Args:
        recipe: The recipe.
        components: The components of the recipe.
        folder: Output folder.
        device: Torch device.

    Raises:
        RerankError: Model or data cannot be loaded; `rerank.finetune.trainer.training.train_adapter` lists the errors.
    """

    def __init__(self, recipe: Recipe, components: RecipeComponents, folder: Path, *, device: str) -> None:
        """Load model and data."""
        if recipe.training.fsdp and os.environ.get("WORLD_SIZE", "1") == "1":
            raise UsageError(
                "fsdp = true with a single process",
                expected="several processes, which share the weights of the model",
                remedy="Run torchrun --standalone --nproc-per-node=GPUS -m rerank train ..., or remove fsdp",
            )
        self._recipe, self._components, self._folder = recipe, components, folder
        self._device = training_process_device(device)
        self._dtype = pick_dtype(recipe.training.dtype, self._device)
        # Contradictions in the recipe are reported before the lists and the model are loaded.
        self._setup = assemble_ranker({"model": recipe.model, **dict(recipe.method)})
        self._inputs = inputs = LossInputs.of(recipe, components)
        check_judge_can_be_trained(self._setup.method.judge, inputs)
        self._lists = read_training_lists(recipe)
        self._validation = Validation.of(recipe.validation) if recipe.validation else None
        # Trained weights are kept in float32, independent of the data type of the computation.
        weights = "float32" if components.adapter.shape == "full" else self._dtype
        self._backend, self._tokenizer = self._load_base_model(weights)
        heads = select_readout_heads(recipe.readout, self._backend) if inputs.attention else []
        self._readout = AttentionScorer(heads, learnt=recipe.readout.learn) if heads else None
        self._places = self._schedule(self._examples(inputs))
        #: Fields of the result that are the same for all processes; set in the main process only, empty in others.
        self.outcome: dict[str, Any] = {}
        #: Best validation of this process: value of the measure, and the rankings.
        self._best: tuple[float, Run] | None = None

    def _load_base_model(self, dtype: str) -> tuple[Any, Any]:
        """Return the base model as a backend, and its tokenizer."""
        return load_training_base_model(self._recipe, dtype=dtype, device=self._device)

    def _examples(self, inputs: LossInputs) -> ExampleBuilder:
        return ExampleBuilder(self._setup.open_judge(cast(Backend, self._backend)), inputs)

    def _schedule(self, examples: ExampleBuilder) -> ScheduledExamples:
        """Return the examples in training order, after checking that the largest lists fit in the context.

        Raises:
            DataError: The list with the most text, or the list with the most documents, does not fit in the context.
        """
        data, table = self._recipe.data, self._recipe.training
        lists_per_step = table.batch_size * table.accumulation * int(os.environ.get("WORLD_SIZE", "1"))
        self._steps = table.steps or max(1, math.ceil(table.epochs * len(self._lists) / lists_per_step))
        schedule = ListSchedule(
            lists=self._lists,
            length=self._steps * lists_per_step,
            documents=data.documents,
            best=data.best,
            hard=data.hard,
            shuffle=data.shuffle,
            seed=self._recipe.seed,
        )
        longest = max(self._lists, key=lambda candidate: sum(len(doc.text) for doc in candidate.docs))
        for training_list in (longest, max(self._lists, key=len)):
            try:
                examples.make(replace(schedule, lists=[training_list], length=1)[0])
            except ContextOverflowError as error:
                raise DataError(f"A list does not fit the context: {error.found}", remedy=error.remedy) from error
        return ScheduledExamples(schedule, examples)

    def _attach_adapter(self) -> ListwiseModule:
        """Attach the adapter to the base model and return the module to train."""
        recipe, model, adapter = self._recipe, self._backend.model, self._components.adapter
        if self._readout and recipe.readout.cut and not (self._inputs.tokens or self._inputs.logits):
            layers = 1 + max(layer for layer, _ in self._readout.heads)
            if truncate_trained_layers(model, layers):
                adapter = limit_adapter_layers(adapter, layers)
        self._own_attention = model.config._attn_implementation
        if self._packs:
            packed_attention.register_packed_training_attention()
            model.set_attn_implementation(packed_attention.ATTENTION_NAME)
        if self._components.ranks:
            pattern = self._components.ranks.pattern(model, adapter.module_names(model), adapter.r, self._batches)
            adapter = replace(adapter, rank_pattern=dict(pattern))
        self._adapter = adapter
        before = set(model.state_dict())
        set_seed(recipe.seed)
        module = self._module(adapter.attach(model, self._batches, seed=recipe.seed))
        self._kept = training_checkpoint_tensor_names(module, before, moved=adapter.moves_base)
        if recipe.training.checkpointing:
            enable_activation_checkpointing(model)
        if recipe.training.fsdp:
            shard_frozen_weights(module, self._kept, self._device)
        return module

    @property
    def _packs(self) -> bool:
        """True if packed attention is required: several texts share a row, or a loss uses attention."""
        return self._readout is not None or self._recipe.training.batch_size > 1 or self._places.examples.is_pointwise

    @property
    def _batches(self) -> FirstBatches:
        """The first batches, for components that are initialised from data."""
        size, first_lr = self._recipe.training.batch_size, first_learning_rate(self._settings())
        options: dict[str, Any] = {"device": self._device, "dtype": self._dtype, "first_lr": first_lr}
        return FirstBatches(places=self._places, size=size, module=self._module, **options)

    def _module(self, model: Any) -> ListwiseModule:
        losses = weighted_losses(self._recipe, self._components)
        return ListwiseModule(model, losses, self._readout, packs=self._packs)

    def _settings(self) -> dict[str, Any]:
        return trainer_settings(
            self._recipe, self._folder, steps=self._steps, device=self._device, half=self._dtype == "bfloat16"
        )

    def _trainer(self, module: ListwiseModule, advance: Callable[[int], None]) -> ListTrainer:
        validation = self._recipe.validation
        trainer = self._bare_trainer(module, partial(self._validate, module) if validation else None)
        trainer.add_callback(MetricsWriter(self._folder / METRICS, advance))
        if validation:
            trainer.add_callback(FinalValidation())
        if validation and validation.patience:
            trainer.add_callback(EarlyStopping(validation.measure, validation.patience))
        for component in filter(None, (self._components.layers, *self._components.callbacks)):
            trainer.add_callback(component.callback(module.model, self._batches, seed=self._recipe.seed))
        if isinstance(self._adapter, SupportsCallbacks):
            for callback in self._adapter.callbacks(module.model):
                trainer.add_callback(callback)
        if isinstance(self._adapter, SupportsPenalty):
            trainer.penalty = partial(self._adapter.penalty, module.model)
        return trainer

    def _bare_trainer(self, module: ListwiseModule, validate: Callable[[], dict[str, float]] | None) -> ListTrainer:
        """Return the trainer without callbacks."""
        return ListTrainer(
            module,
            make_trainer_arguments(TrainingArguments, self._settings()),
            self._places,
            optimizer=self._components.optimizer,
            kept=self._kept,
            validate=validate,
        )

    def train(self, *, resume: bool, progress: ProgressFactory) -> None:
        """Train to the end and save the adapter.

        Raises:
            RerankError: The training fails; `rerank.finetune.trainer.training.train_adapter` lists the errors.
        """
        if self._is_complete(resume):
            self.outcome = read_json_object(self._folder / _RESULT, "result of the training")
            return
        with quiet_transformers(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pin_memory.*")
            module = self._attach_adapter()
            self._write_recipe()
            last = list_training_checkpoints(self._folder)[-1:] if resume else []
            if self._recipe.readout.fit and not last:
                size = self._recipe.training.batch_size
                replace(self._batches, count=math.ceil(self._recipe.readout.fit / size)).fit(module)
            if self._validation and not last:
                if is_main_training_process():
                    write_run(self._validation.candidates, self._folder / _FIRST)
                self._rank_into(_UNTRAINED, module)
            with progress("steps", self._steps, int(last[0].name.rpartition("-")[2]) if last else 0) as advance:
                if last and self._stopped_early(last[0]):
                    per_step = len(self._places) // self._steps
                    self._steps = int(last[0].name.rpartition("-")[2])
                    self._places = self._places.truncated(self._steps * per_step)
                trainer = self._trainer(module, advance)
                done = trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
            if (self._folder / "best").is_dir():
                trainer.load_weights(self._folder / "best")
            if self._validation:
                self._write_final_ranking(module, resumed=bool(last))
            if is_main_training_process():
                self._save(module, trainer, done)

    def _stopped_early(self, checkpoint: Path) -> bool:
        """Return whether early stopping ended the training at this checkpoint; transformers does not store this."""
        table = self._recipe.validation
        history = read_json_object(checkpoint / "trainer_state.json", "state of the training")["log_history"]
        return bool(table and table.patience and EarlyStopping(table.measure, table.patience).is_over(history))

    def _is_complete(self, resume: bool) -> bool:
        """Return whether the folder holds the completed result of this training.

        Raises:
            UsageError: The folder holds another training, or it holds this training and ``resume`` is not set.
        """
        if not is_main_training_process():
            return (self._folder / _RESULT).is_file()
        if (path := self._folder / _RECIPE).is_file():
            # Both are parsed as recipes, so that a file written before a field was added compares equal.
            before = Recipe.make(read_json_object(path, "recipe"))
            now = Recipe.make(json.loads(self._recipe.model_dump_json()))
            if changed := [name for name in Recipe.model_fields if getattr(before, name) != getattr(now, name)]:
                raise UsageError(
                    f"{str(self._folder)!r} holds a training with another recipe; it differs in {', '.join(changed)}",
                    expected="an empty folder, or the folder of a training with the same recipe",
                    remedy="Choose another --out",
                )
            if not resume:
                raise UsageError(
                    f"{str(self._folder)!r} already holds this training",
                    expected="an empty folder",
                    remedy="Continue it with --resume, or choose another --out",
                )
            return (self._folder / _RESULT).is_file()
        return False

    def _write_recipe(self) -> None:
        """Store the recipe in the folder; this is done after all components have been checked against the model."""
        path = self._folder / _RECIPE
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_main_training_process() and not path.is_file():
            with replace_text_file(path) as file:
                file.write(self._recipe.model_dump_json(indent=1) + "\n")

    @contextlib.contextmanager
    def _inference_backend(self, module: ListwiseModule) -> Iterator[Any]:
        """Yield the model as a backend in inference mode, and restore training mode afterwards."""
        model = unwrap_adapted_model(module.model)
        training, attention = module.model.training, model.config._attn_implementation
        model.set_attn_implementation(self._own_attention)
        options = BackendOptions(context_size=self._recipe.method.context_size)
        try:
            yield Hf(model.eval(), self._tokenizer, identity=self._backend.identity, options=options)
        finally:
            if self._recipe.training.fsdp:
                reshard_frozen_weights(module)
            model.set_attn_implementation(attention)
            module.model.train(training)

    def _rank(self, module: ListwiseModule, name: str) -> tuple[Run, float]:
        """Rerank the validation candidates with the current model; return the run and the windows' failure rate."""
        with self._inference_backend(module) as backend, torch.no_grad():
            readout = self._readout if self._setup.method.judge.name == "attention" else None
            heads = write_current_head_list(self._folder, readout, backend.identity) if readout else None
            options = {"heads": str(heads)} if heads else {}
            judge = self._setup.open_judge(cast(Backend, backend), **options)
            return cast(Validation, self._validation).rank(self._setup.strategy, judge, name)

    def _rank_into(self, file: str, module: ListwiseModule) -> None:
        """Rerank the validation candidates and write the run; with sharded weights, all processes must take part."""
        if is_main_training_process() or self._recipe.training.fsdp:
            run, _ = self._rank(module, file.removesuffix(".trec"))
            if is_main_training_process():
                write_run(run, self._folder / file)

    def _write_final_ranking(self, module: ListwiseModule, *, resumed: bool) -> None:
        """Write the rankings of the selected weights; reuse those of the best validation if they are in memory."""
        if self._best and not resumed:
            if is_main_training_process():
                write_run(self._best[1], self._folder / _TRAINED)
        else:
            self._rank_into(_TRAINED, module)

    def _validate(self, module: ListwiseModule) -> dict[str, float]:
        validation = cast(Validation, self._validation)
        run, failures = self._rank(module, "trained")
        value = validation.measure_run(run)
        if self._best is None or value > self._best[0]:
            self._best = value, run
        return {validation.measure: value, "failures": failures}

    def _save(self, module: ListwiseModule, trainer: ListTrainer, done: Any) -> None:
        validation, comparison, means = self._validation, None, {}
        if validation:
            files = {"first stage": _FIRST, "untrained": _UNTRAINED, "trained": _TRAINED}
            runs = [Run(read_run(self._folder / file).values(), name=name) for name, file in files.items()]
            comparison = validation.compare_runs(runs)
            means = {key: {validation.measure: run.mean} for key, run in zip(files, comparison.runs, strict=True)}
        # The loss that transformers returns is a mean over the steps of this process only.
        losses = [done.training_loss, *(line["loss"] for line in trainer.state.log_history if "loss" in line)]
        self.outcome = {
            "steps": trainer.state.global_step,
            "loss": round(float(losses[-1]), 6),
            "validation": means.get("trained", {}),
            "first_stage": means.get("first stage", {}),
            "trainable": sum(value.numel() for value in module.parameters() if value.requires_grad),
            "state_mb": round(optimizer_state_bytes(trainer.optimizer) / 2**20, 2),
            "tokens": int(trainer.tokens),
        }
        description = AdapterDescription(
            recipe=self._recipe,
            setup=self._setup,
            adapter=self._adapter,
            readout=self._readout,
            identity=dict(self._backend.identity),
            tokenizer=self._tokenizer,
            lists=len(self._lists),
            outcome=self.outcome,
            comparison=comparison,
        )
        with training_storage_errors():
            write_adapter(description, module.model, self._folder)
            with replace_text_file(self._folder / _RESULT) as file:
                file.write(json.dumps(self.outcome, indent=1) + "\n")

    @contextlib.contextmanager
    def explain_out_of_memory(self) -> Iterator[None]:
        """Convert an out-of-memory error into an error that names the sizes in use and the settings that reduce them.

        Raises:
            BackendError: The memory is exhausted.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            recipe, tokens = self._recipe, self._recipe.method.max_passage_tokens or "any number of"
            raise BackendError(
                f"Out of memory at {peak_training_memory_mb():.0f} MiB, with batches of {recipe.training.batch_size} "
                f"lists of {recipe.data.documents} documents of up to {tokens} tokens, and "
                f"{sum(p.numel() for p in self._backend.model.parameters() if p.requires_grad):,} trained parameters",
                remedy="Try in this order: batch_size = 1 with a larger accumulation (same gradients), checkpointing = "
                "true, a smaller max_passage_tokens or documents, an adapter or optimizer with a smaller state",
            ) from error
