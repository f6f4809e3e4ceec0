"""A training run, which connects the model, the data, the components and the files. Imports torch."""

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from transformers.trainer_utils import set_seed

from rerank.assemble import assemble_ranker
from rerank.backends.hf import Hf
from rerank.errors import BackendError, DataError, UsageError, ensure
from rerank.finetune.components import RecipeComponents
from rerank.finetune.recipe import Recipe, ValidationTable
from rerank.finetune.trainer import base_model, packed_attention, processes
from rerank.finetune.trainer.cost_estimate import estimate_training
from rerank.finetune.trainer.examples import ExampleBuilder, LossInputs, check_judge
from rerank.finetune.trainer.list_trainer import EarlyStopping, FinalValidation, ListTrainer, MetricsWriter, SingleGpu
from rerank.finetune.trainer.listwise_module import (
    AttentionScorer,
    FirstBatches,
    ListwiseModule,
    enable_activation_checkpointing,
    weighted_losses,
)
from rerank.finetune.trainer.schedule import ScheduledExamples, read_lists, schedule_examples
from rerank.finetune.trainer.sharding import ShardedListTrainer, reshard_weights, shard_weights, share_structure
from rerank.finetune.trainer.training_folder import (
    METRICS,
    AdapterDescription,
    TrainingFolder,
    find_damage,
    find_last_checkpoint,
    storage_errors,
    write_adapter,
)
from rerank.finetune.trainer.validation import Validation, ValidationRankings, held_out_loss
from rerank.io.settings_files import read_json_object
from rerank.lm.loading import pick_dtype, quiet_transformers
from rerank.lm.memory import USABLE, free_memory, gib
from rerank.lm.out_of_memory import is_out_of_memory
from rerank.progress import ProgressFactory
from rerank.tasks import Backend, BackendOptions
from rerank.tasks.backends import model_base_of_backend

_log = logging.getLogger(__name__)


class TrainingRun:
    """One training of a recipe, from loading to saving the adapter. Subclasses override individual steps."""

    #: Class of the trainer, and of its arguments.
    _trainer_types: ClassVar[tuple[Any, Any]] = (ListTrainer, SingleGpu)

    def __init__(
        self, recipe: Recipe, components: RecipeComponents, folder: Path, *, device: str, report_to: Sequence[str] = ()
    ) -> None:
        ensure(
            not recipe.training.fsdp or os.environ.get("WORLD_SIZE", "1") != "1",
            "fsdp = true is set, but there is only a single process",
            expected="several processes, which share the weights of the model",
            remedy="Run torchrun --standalone --nproc-per-node=GPUS -m rerank train ..., or remove fsdp",
        )
        self._recipe, self._components, self._folder = recipe, components, TrainingFolder(folder, recipe)
        self._device, self._report_to = processes.own_device(device), report_to
        self._dtype = pick_dtype(recipe.training.dtype, self._device, training=True)
        # Contradictions in the recipe are reported before the lists and the model are loaded.
        self._setup = assemble_ranker({"model": recipe.model, **dict(recipe.method)})
        self._inputs = inputs = LossInputs.of(recipe, components)
        check_judge(self._setup.method.judge, inputs)
        self._datasets = self._folder.pin_datasets()
        self._lists, held_out = read_lists(recipe, self._datasets)
        table = recipe.validation
        self._validation = Validation.of(table) if table and table.collection else None
        # Trained weights are kept in float32, independent of the data type of the computation.
        weights = "float32" if components.adapter.shape == "full" else self._dtype
        # A model that will be sharded need not fit on one device.
        place = "cpu" if recipe.training.fsdp else self._device
        self._checkpointing = self._needs_checkpointing()  # before the weights take memory
        self._backend, self._tokenizer = self._load_base_model(weights, place)
        heads = base_model.select_readout_heads(recipe.readout, self._backend) if inputs.attention else []
        self._readout = AttentionScorer(heads, learnt=recipe.readout.learn) if heads else None
        examples = self._examples(inputs)
        self._places = self._schedule(examples)
        self._held_out = schedule_examples(recipe, held_out, examples, held_out=True) if held_out else None
        #: Fields of the result that are the same for all processes; set in the main process only, empty in others.
        self.outcome: dict[str, Any] = {}

    def _needs_checkpointing(self) -> bool:
        """Return whether to recompute activations: if the recipe says so, or if a GPU could not hold them all.

        Processes that share weights have to agree, so there only the recipe decides; so it does for other objectives,
        and where the memory cannot be estimated.
        """
        table, free = self._recipe.training, free_memory(self._device)
        if table.checkpointing or table.fsdp or self._components.objective or free is None:
            return table.checkpointing
        needed = []
        for checkpointing in (False, True):
            changed = table.model_copy(update={"steps": 1, "checkpointing": checkpointing})  # without reading the lists
            recipe = self._recipe.model_copy(update={"training": changed})
            try:
                needed.append(int(estimate_training(recipe, processes=1, device=self._device)["total"]))
            except (UsageError, AttributeError):  # a configuration without the sizes of common decoders
                return False
        if needed[0] <= USABLE * free:
            return False
        _log.warning(
            "This training needs about %s, and %s of the GPU are free: activations are recomputed (checkpointing = "
            "true), which needs about %s and a third more time",
            *map(gib, (needed[0], free, needed[1])),
        )
        return True

    def _load_base_model(self, dtype: str, device: str) -> tuple[Any, Any]:
        return base_model.load_base_model(self._recipe, dtype=dtype, device=device)

    def _examples(self, inputs: LossInputs) -> ExampleBuilder:
        return ExampleBuilder(self._setup.open_judge(cast(Backend, self._backend)), inputs)

    def _schedule(self, examples: ExampleBuilder) -> ScheduledExamples:
        return schedule_examples(self._recipe, self._lists, examples)

    def _attach_adapter(self) -> ListwiseModule:
        recipe = self._recipe
        self._own_attention = self._backend.model.config._attn_implementation
        if self._packs:
            packed_attention.register()
        shares, is_main = recipe.training.fsdp, processes.is_main()
        attached = self._attach() if is_main or not shares else None
        module, self._adapter, self._kept = share_structure(attached, self._device) if shares else cast(Any, attached)
        if shares and not is_main:
            self._readout, self._backend.model = module.readout, base_model.unwrap_adapted_model(module.model)
        if self._checkpointing:
            enable_activation_checkpointing(base_model.unwrap_adapted_model(module.model))
        if shares:
            shard_weights(module, self._kept, self._device, self._dtype)
        return cast(ListwiseModule, module)

    def _attach(self) -> tuple[ListwiseModule, Any, list[str]]:
        """Return the module to train, the adapter with its final settings, and the names of tensors of checkpoints."""
        recipe, model, adapter = self._recipe, self._backend.model, self._components.adapter
        if self._readout and recipe.readout.cut and not (self._inputs.tokens or self._inputs.logits):
            layers = 1 + max(layer for layer, _ in self._readout.heads)
            if base_model.truncate_layers(model, layers) and hasattr(adapter, "layers"):
                # Adapter files still fit the complete model.
                adapter = replace(adapter, layers=min(layers, adapter.layers or layers))
        if self._packs:
            model.set_attn_implementation(packed_attention.ATTENTION_NAME)
        if self._components.ranks:
            pattern = self._components.ranks.pattern(model, adapter.module_names(model), adapter.r, self._batches)
            adapter = replace(adapter, rank_pattern=dict(pattern))
        before = set(model.state_dict())
        set_seed(recipe.seed)
        module = self._module(adapter.attach(model, self._batches, seed=recipe.seed))
        return module, adapter, base_model.checkpoint_tensor_names(module, before, moved=adapter.moves_base)

    @property
    def _packs(self) -> bool:
        """True if packed attention is required: several texts share a row, or a loss uses attention."""
        return self._readout is not None or self._recipe.training.batch_size > 1 or self._places.examples.is_pointwise

    @property
    def _batches(self) -> FirstBatches:
        settings = self._settings()
        return FirstBatches(
            places=self._places,
            size=self._recipe.training.batch_size,
            module=self._module,
            device=str(self._backend.model.device),
            dtype=self._dtype,
            first_lr=float(settings["learning_rate"]) / max(1, int(settings["warmup_steps"])),  # of a linear warm-up
        )

    def _module(self, model: Any) -> ListwiseModule:
        return ListwiseModule(model, weighted_losses(self._recipe, self._components), self._readout, packs=self._packs)

    def _settings(self) -> dict[str, Any]:
        table, optimizer, validation = self._recipe.training, self._recipe.optimizer, self._recipe.validation
        return {
            "output_dir": str(self._folder.path),
            "max_steps": self._places.steps,
            "per_device_train_batch_size": table.batch_size,
            "gradient_accumulation_steps": table.accumulation,
            "learning_rate": optimizer.lr,
            "weight_decay": optimizer.weight_decay,
            "lr_scheduler_type": table.schedule,
            "warmup_steps": round(table.warmup * self._places.steps),
            "max_grad_norm": table.max_grad_norm,
            "neftune_noise_alpha": table.neftune or None,
            "bf16": self._dtype == "bfloat16",
            "use_cpu": self._device == "cpu",
            "seed": self._recipe.seed,
            "save_strategy": "steps",
            "save_steps": table.save_every,
            "save_total_limit": table.keep,
            "eval_strategy": "steps" if validation else "no",
            "eval_steps": validation.every if validation else None,
            "metric_for_best_model": f"eval_{validation.measure}" if validation else None,
            "greater_is_better": not validation or validation.measure != "loss",
            "logging_steps": table.log_every,
            "logging_nan_inf_filter": False,
            "report_to": list(self._report_to),
            "remove_unused_columns": False,
            "train_sampling_strategy": "sequential",
            "dataloader_pin_memory": self._device.startswith("cuda"),
            "disable_tqdm": True,
            "average_tokens_across_devices": False,
        }

    def _trainer(
        self, module: ListwiseModule, rankings: ValidationRankings | None, advance: Callable[[int], None]
    ) -> ListTrainer:
        validation = self._recipe.validation
        trainer = self._bare_trainer(module, partial(self._validate, module, rankings) if validation else None)
        trainer.add_callback(MetricsWriter(self._folder.path / METRICS, advance))
        if validation:
            trainer.add_callback(FinalValidation())
        if validation and validation.patience:
            trainer.add_callback(EarlyStopping(validation.measure, validation.patience))
        for component in filter(None, (self._components.layers, *self._components.callbacks)):
            trainer.add_callback(component.callback(module.model, self._batches, seed=self._recipe.seed))
        if hasattr(self._adapter, "callbacks"):
            for callback in self._adapter.callbacks(module.model):
                trainer.add_callback(callback)
        if hasattr(self._adapter, "penalty"):
            trainer.penalty = partial(self._adapter.penalty, module.model)
        return trainer

    def _validate(self, module: ListwiseModule, rankings: ValidationRankings | None) -> dict[str, float]:
        """Return the validation values by name; the first is the measure that selects a checkpoint."""
        values = rankings.validate() if rankings else {}
        if self._held_out:
            values |= held_out_loss(module, self._held_out, self._device, self._dtype)
        measure = cast(ValidationTable, self._recipe.validation).measure
        return {measure: processes.value_of_first(values.pop(measure)), **values}

    def _bare_trainer(self, module: ListwiseModule, validate: Callable[[], dict[str, float]] | None) -> ListTrainer:
        make, arguments = self._trainer_types
        trainer: ListTrainer = (ShardedListTrainer if self._recipe.training.fsdp else make)(
            module,
            arguments(**self._settings()),
            self._places,
            optimizer=self._components.optimizer,
            kept=self._kept,
            validate=validate,
        )
        return trainer

    def train(self, *, resume: bool, progress: ProgressFactory) -> None:
        if self._folder.is_complete(resume=resume):
            self.outcome = self._folder.read_result()
            return
        table = self._recipe.validation
        with quiet_transformers(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pin_memory.*")
            module = self._attach_adapter()
            if self._device.startswith("cpu"):
                base_model.use_cpu_dropout(module)
            self._folder.write_recipe(self._datasets)
            last = find_last_checkpoint(self._folder.path) if resume else None
            if self._recipe.readout.fit and not last:
                size = self._recipe.training.batch_size
                replace(self._batches, count=math.ceil(self._recipe.readout.fit / size)).fit(module)
            rankings: ValidationRankings | None = None
            if self._validation:
                rankings = ValidationRankings(
                    validation=self._validation,
                    setup=self._setup,
                    folder=self._folder.path,
                    module=module,
                    readout=self._readout,
                    open_backend=partial(self._inference_backend, module),
                )
                if not last:
                    rankings.write_before_training()
            done_before = int(last.name.rpartition("-")[2]) if last else 0
            with progress("steps", self._places.steps, done_before) as advance:
                if last and self._stopped_early(last):
                    self._places = self._places.truncated(done_before)
                trainer = self._trainer(module, rankings, advance)
                done = trainer.train(resume_from_checkpoint=str(last) if last else None)
            trainer.use_inference_weights()
            if (best := self._folder.path / "best").is_dir():
                if damage := find_damage(best):
                    remedy = "Restore it, or remove best and checkpoints and pass --resume to start from the beginning"
                    raise DataError(f"The selected weights in {str(best)!r} are damaged: {damage}", remedy=remedy)
                trainer.load_weights(best)
            if rankings and table:
                rankings.write_after_training(reuse=not last and table.measure != "loss")
            if module.gather_model:
                module.model = module.gather_model("cpu", keeps=processes.is_main())
            if processes.is_main():
                self._save(module, trainer, done, rankings)

    @contextlib.contextmanager
    def _inference_backend(self, module: ListwiseModule) -> Iterator[Backend]:
        """Yield the trained model as a backend in inference mode, and restore training mode afterwards."""
        model = base_model.unwrap_adapted_model(module.model)
        if module.gather_model:
            model = module.gather_model(str(model.device))
        training, attention = module.model.training, model.config._attn_implementation
        model.set_attn_implementation(self._own_attention)
        options = BackendOptions(context_size=self._recipe.method.context_size)
        try:
            yield Hf(model.eval(), self._tokenizer, identity=self._backend.identity, options=options)
        finally:
            if module.is_sharded:
                reshard_weights(module)
            model.set_attn_implementation(attention)
            module.model.train(training)

    def _stopped_early(self, checkpoint: Path) -> bool:
        """Return whether early stopping ended the training at this checkpoint; transformers does not store this."""
        table = self._recipe.validation
        history = read_json_object(checkpoint / "trainer_state.json", "state of the training")["log_history"]
        return bool(table and table.patience and EarlyStopping(table.measure, table.patience).is_over(history))

    def _save(
        self, module: ListwiseModule, trainer: ListTrainer, done: Any, rankings: ValidationRankings | None
    ) -> None:
        comparison, means = rankings.compare() if rankings else (None, {})
        log, table = trainer.state.log_history, self._recipe.validation
        # The loss that transformers returns is a mean over the steps of this process only.
        losses = [done.training_loss, *(line["loss"] for line in log if "loss" in line)]
        validation = dict(means.get("trained", {}))
        if table and table.has_lists:  # held-out loss of the selected weights
            best = next(line for line in log if line.get(f"eval_{table.measure}") == trainer.state.best_metric)
            validation["held-out loss"] = round(best["eval_loss"], 6)
        state = (value for entry in cast(Any, trainer.optimizer).state.values() for value in entry.values())
        state_bytes = sum(value.numel() * value.element_size() for value in state if isinstance(value, torch.Tensor))
        self.outcome = {
            "steps": trainer.state.global_step,
            "loss": round(float(losses[-1]), 6),
            "validation": validation,
            "first_stage": means.get("first stage", {}),
            "trainable": sum(value.numel() for value in module.parameters() if value.requires_grad),
            "state_mb": round(state_bytes / 2**20, 2),
            "tokens": int(trainer.tokens),
        }
        if self._datasets:
            self.outcome["datasets"] = self._datasets
        description = AdapterDescription(
            recipe=self._recipe,
            setup=self._setup,
            adapter=self._adapter,
            readout=self._readout,
            identity=dict(self._backend.identity),
            base=model_base_of_backend(self._backend),
            tokenizer=self._tokenizer,
            lists=len(self._lists),
            outcome=self.outcome,
            comparison=comparison,
        )
        with storage_errors():
            write_adapter(description, module.model, self._folder.path)
            self._folder.write_result(self.outcome)

    @contextlib.contextmanager
    def explain_out_of_memory(self) -> Iterator[None]:
        """Convert an out-of-memory error into one that names the sizes in use and settings that need less."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            recipe, tokens = self._recipe, self._recipe.method.max_passage_tokens or "any number of"
            raise BackendError(
                f"Out of memory at {processes.peak_memory_mb():.0f} MiB, with batches of {recipe.training.batch_size} "
                f"lists of {recipe.data.documents} documents of up to {tokens} tokens, and "
                f"{sum(p.numel() for p in self._backend.model.parameters() if p.requires_grad):,} trained parameters",
                remedy="Try in this order: batch_size = 1 with a larger accumulation (same gradients), checkpointing = "
                "true, a smaller max_passage_tokens or documents, an adapter or optimizer with a smaller state",
            ) from error
