"""One training while it goes on: model, data, parts and files. Imports torch at its top."""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import set_seed

from rerank.backends.hf import Hf
from rerank.errors import BackendError, ContextOverflowError, DataError, UsageError
from rerank.finetune.adapters.base import SupportsCallbacks
from rerank.finetune.recipe import Parts, Recipe
from rerank.finetune.trainer import packed_attention
from rerank.finetune.trainer.adapter_folder import Saved, draft_heads, write_adapter
from rerank.finetune.trainer.arguments import arguments, trainer_settings
from rerank.finetune.trainer.base_model import chosen_heads, cut, load_base, plain, state_bytes, to_keep, within
from rerank.finetune.trainer.calibration_batches import Batches
from rerank.finetune.trainer.examples import Examples, Looks
from rerank.finetune.trainer.list_trainer import (
    METRICS,
    LastLook,
    ListTrainer,
    Metrics,
    Patience,
    Places,
    checkpoints,
    written_whole,
)
from rerank.finetune.trainer.module import Listwise, Readout, Term, checkpoint_activations
from rerank.finetune.trainer.schedule import Schedule
from rerank.finetune.trainer.training import Asked, Progress, looks_of, peak_mb, read_data
from rerank.finetune.trainer.validation import Validation
from rerank.finetune.trainer.weight_sharding import let_go, share_out
from rerank.io.run_files import read_run, write_run
from rerank.io.text_files import replace_text
from rerank.lm.decoding import is_out_of_memory
from rerank.lm.loading import pick_device, pick_dtype, quiet
from rerank.strategies import open_strategy
from rerank.tasks import Backend, BackendOptions
from rerank.types import Run as Ranked

_RECIPE, _RESULT = "recipe.json", "result.json"
#: The validation queries' lists: as they came, by the model as it was, and as it is in the end.
_FIRST, _UNTRAINED, _TRAINED = "first_stage.trec", "untrained.trec", "trained.trec"


class Run:
    """A training.

    Args:
        recipe: What to do.
        parts: Its parts.
        folder: Where everything goes.
        device: Torch device.
    """

    def __init__(self, recipe: Recipe, parts: Parts, folder: Path, *, device: str) -> None:
        """Load model and data; see `rerank.finetune.trainer.training.train` for errors."""
        if recipe.training.fsdp and os.environ.get("WORLD_SIZE", "1") == "1":
            raise UsageError(
                "fsdp = true, and there is one process",
                expected="several, which share out the model's weights",
                remedy="torchrun --standalone --nproc-per-node=GPUS -m rerank train ..., or leave fsdp out",
            )
        self._recipe, self._parts, self._folder = recipe, parts, folder
        self._device = _placed(device)
        self._dtype = pick_dtype(recipe.training.dtype, self._device)
        self._lists = read_data(recipe)
        self._validation = Validation.of(recipe.validation) if recipe.validation else None
        # Weights that train are kept in float32 whatever the arithmetic.
        kept = "float32" if parts.adapter.shape == "full" else self._dtype
        self._backend, self._tokenizer = load_base(recipe, dtype=kept, device=self._device)
        self._asked = Asked.of(recipe.method, recipe.model)
        self._strategy = open_strategy(self._asked.method.strategy_selector)
        self._looks = looks = looks_of(recipe, parts)
        heads = chosen_heads(recipe.readout, self._backend) if looks.attention else []
        self._readout = Readout(heads, learnt=recipe.readout.learn) if heads else None
        self._places = self._schedule(self._examples(looks))
        self._outcome: dict[str, Any] = {}
        #: The best look of this process: what decides, and the lists.
        self._best: tuple[float, Ranked] | None = None

    def _examples(self, looks: Looks) -> Examples:
        return Examples(self._asked.judge(cast(Backend, self._backend)), looks)

    def _schedule(self, examples: Examples) -> Places:
        """What comes when; what does not fit is found before the first step.

        Raises:
            DataError: The list with most text, or that with most documents, does not fit the context.
        """
        data, table = self._recipe.data, self._recipe.training
        together = table.batch_size * table.accumulation * int(os.environ.get("WORLD_SIZE", "1"))
        self._steps = table.steps or max(1, math.ceil(table.epochs * len(self._lists) / together))
        schedule = Schedule(
            lists=self._lists,
            length=self._steps * together,
            documents=data.documents,
            shuffle=data.shuffle,
            seed=self._recipe.seed,
        )
        longest = max(self._lists, key=lambda one: sum(len(doc.text) for doc in one.docs))
        for one in (longest, max(self._lists, key=len)):
            try:
                examples.make(replace(schedule, lists=[one], length=1)[0])
            except ContextOverflowError as error:
                raise DataError(f"A training list does not fit: {error.found}", remedy=error.remedy) from error
        return Places(schedule, examples)

    # Setting up

    def _attached(self) -> Listwise:
        """The module that trains."""
        recipe, model, adapter = self._recipe, self._backend.model, self._parts.adapter
        if self._readout and recipe.readout.cut and not (self._looks.tokens or self._looks.logits):
            layers = 1 + max(layer for layer, _ in self._readout.heads)
            if cut(model, layers):
                adapter = within(adapter, layers)
        self._own_attention = model.config._attn_implementation
        if self._packs:
            packed_attention.register()
            model.set_attn_implementation(packed_attention.NAME)
        if self._parts.ranks:
            pattern = self._parts.ranks.pattern(model, adapter.names(model), adapter.r, self._batches)
            adapter = replace(adapter, rank_pattern=dict(pattern))
        self._adapter = adapter
        before = set(model.state_dict())
        set_seed(recipe.seed)
        module = self._module(adapter.attach(model, self._batches, seed=recipe.seed))
        self._kept = to_keep(module, before, moved=adapter.moves_base)
        if recipe.training.checkpointing:
            checkpoint_activations(model)
        if recipe.training.fsdp:
            share_out(module, self._kept, self._device)
        return module

    @property
    def _packs(self) -> bool:
        """Whether texts are packed or attention is looked at, so that our own attention has to be used."""
        apart = self._asked.method.judge == "score"
        return self._readout is not None or self._recipe.training.batch_size > 1 or apart

    @property
    def _batches(self) -> Batches:
        """The first batches, for parts that look before they train."""
        size = self._recipe.training.batch_size
        return Batches(places=self._places, size=size, module=self._module, device=self._device, dtype=self._dtype)

    def _module(self, model: Any) -> Listwise:
        terms = [
            Term(name=named.name, loss=loss, source=named.on or "logits", weight=named.weight)
            for named, loss in zip(self._recipe.losses, self._parts.losses, strict=True)
        ]
        return Listwise(model, terms, self._readout, packs=self._packs)

    def _settings(self) -> dict[str, Any]:
        return trainer_settings(
            self._recipe, self._folder, steps=self._steps, device=self._device, half=self._dtype == "bfloat16"
        )

    def _trainer(self, module: Listwise, advance: Callable[[int], None]) -> ListTrainer:
        looks = self._recipe.validation
        trainer = self._bare_trainer(module, (lambda: self._validated(module)) if looks else None)
        trainer.add_callback(Metrics(self._folder / METRICS, advance))
        if looks:
            trainer.add_callback(LastLook())
        if looks and looks.patience:
            trainer.add_callback(Patience(looks.measure, looks.patience))
        between = [*([self._parts.layers] if self._parts.layers else []), *self._parts.callbacks]
        for part in between:
            trainer.add_callback(part.callback(module.model, self._batches, seed=self._recipe.seed))
        if isinstance(self._adapter, SupportsCallbacks):
            for callback in self._adapter.callbacks(module.model):
                trainer.add_callback(callback)
        return trainer

    def _bare_trainer(self, module: Listwise, validate: Callable[[], dict[str, float]] | None) -> ListTrainer:
        """The trainer without its callbacks."""
        return ListTrainer(
            module,
            arguments(TrainingArguments, self._settings()),
            self._places,
            optimizer=self._parts.optimizer,
            kept=self._kept,
            validate=validate,
        )

    # Going on

    def train(self, *, resume: bool, progress: Progress) -> None:
        """Train to the end and save; see `rerank.finetune.trainer.training.train`."""
        if self._finished(resume):
            self._outcome = json.loads((self._folder / _RESULT).read_text(encoding="utf-8"))
            return
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pin_memory.*")
            module = self._attached()
            self._begin()
            last = checkpoints(self._folder)[-1:] if resume else []
            if self._recipe.readout.fit and not last:
                size = self._recipe.training.batch_size
                replace(self._batches, count=math.ceil(self._recipe.readout.fit / size)).fit(module)
            if self._validation and not last:
                if leads():
                    write_run(self._validation.candidates, self._folder / _FIRST)
                self._rank_into(_UNTRAINED, module)
            with progress("steps", self._steps, int(last[0].name.rpartition("-")[2]) if last else 0) as advance:
                if last and self._ended(last[0]):
                    per_step = len(self._places) // self._steps
                    self._steps = int(last[0].name.rpartition("-")[2])
                    self._places = self._places.until(self._steps * per_step)
                trainer = self._trainer(module, advance)
                done = trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
            if (self._folder / "best").is_dir():
                trainer.load_weights(self._folder / "best")
            if self._validation:
                self._last_ranking(module, resumed=bool(last))
            if leads():
                self._save(module, trainer, done)

    def _ended(self, checkpoint: Path) -> bool:
        """Whether patience was at its end there: transformers forgets that it stopped."""
        looks = self._recipe.validation
        history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        return bool(looks and looks.patience and Patience(looks.measure, looks.patience).ended(history))

    def _finished(self, resume: bool) -> bool:
        """Whether the folder holds this training, done.

        Raises:
            UsageError: It holds another one, or one that is to be gone on with.
        """
        if not leads():
            return (self._folder / _RESULT).is_file()
        path = self._folder / _RECIPE
        if path.is_file():
            # Read as a recipe, so that one of before a field existed is still the same.
            before = Recipe.make(json.loads(path.read_text(encoding="utf-8")))
            now = Recipe.make(json.loads(self._recipe.model_dump_json()))
            if other := [name for name in Recipe.model_fields if getattr(before, name) != getattr(now, name)]:
                raise UsageError(
                    f"{str(self._folder)!r} holds a training of another recipe: {', '.join(other)} differ",
                    expected="an empty folder, or one of the same recipe",
                    remedy="Choose another --out",
                )
            if not resume:
                raise UsageError(
                    f"{str(self._folder)!r} holds this training already",
                    expected="an empty folder",
                    remedy="Go on with --resume, or choose another --out",
                )
            return (self._folder / _RESULT).is_file()
        return False

    def _begin(self) -> None:
        """Note in the folder what is trained, once all parts are known to fit the model."""
        path = self._folder / _RECIPE
        path.parent.mkdir(parents=True, exist_ok=True)
        if leads() and not path.is_file():
            with replace_text(path) as file:
                file.write(self._recipe.model_dump_json(indent=1) + "\n")

    @contextlib.contextmanager
    def _as_used(self, module: Listwise) -> Iterator[Hf]:
        """The model as it will be used, as a backend; afterwards it trains on."""
        model = plain(module.model)
        training, now = module.model.training, model.config._attn_implementation
        model.set_attn_implementation(self._own_attention)
        options = BackendOptions(context_size=self._recipe.method.context_size)
        try:
            yield Hf(model.eval(), self._tokenizer, identity=self._backend.identity, options=options)
        finally:
            if self._recipe.training.fsdp:
                let_go(module)
            model.set_attn_implementation(now)
            module.model.train(training)

    def _rank(self, module: Listwise, name: str) -> tuple[Ranked, float]:
        """The validation lists by the model as it is, and the share of windows that said nothing."""
        with self._as_used(module) as backend, torch.no_grad():
            watched = self._readout if self._asked.method.judge == "attention" else None
            heads = draft_heads(self._folder, watched, backend.identity) if watched else None
            judge = self._asked.judge(cast(Backend, backend), f"heads={heads}" if heads else "")
            return cast(Validation, self._validation).rank(self._strategy, judge, name)

    def _rank_into(self, file: str, module: Listwise) -> None:
        """Rank the validation lists into a file; where weights are shared out, all processes have to."""
        if leads() or self._recipe.training.fsdp:
            found, _ = self._rank(module, file.removesuffix(".trec"))
            if leads():
                write_run(found, self._folder / file)

    def _last_ranking(self, module: Listwise, *, resumed: bool) -> None:
        """Write the lists of the weights that are kept, from the look that chose them if it was this process's."""
        if self._best and not resumed:
            if leads():
                write_run(self._best[1], self._folder / _TRAINED)
        else:
            self._rank_into(_TRAINED, module)

    def _validated(self, module: Listwise) -> dict[str, float]:
        validation = cast(Validation, self._validation)
        run, failures = self._rank(module, "trained")
        found = validation.measured(run)
        if self._best is None or found > self._best[0]:
            self._best = found, run
        return {validation.measure: found, "failures": failures}

    # Coming to an end

    def _save(self, module: Listwise, trainer: ListTrainer, done: Any) -> None:
        validation, comparison, worth = self._validation, None, {}
        if validation:
            files = {"first stage": _FIRST, "untrained": _UNTRAINED, "trained": _TRAINED}
            runs = [Ranked(read_run(self._folder / file).values(), name=name) for name, file in files.items()]
            comparison = validation.compared(runs)
            worth = {key: {validation.measure: run.mean} for key, run in zip(files, comparison.runs, strict=True)}
        # What transformers returns is a mean over this process's steps only.
        losses = [done.training_loss, *(line["loss"] for line in trainer.state.log_history if "loss" in line)]
        self._outcome = {
            "steps": trainer.state.global_step,
            "loss": round(float(losses[-1]), 6),
            "validation": worth.get("trained", {}),
            "first_stage": worth.get("first stage", {}),
            "trainable": sum(value.numel() for value in module.parameters() if value.requires_grad),
            "state_mb": round(state_bytes(trainer.optimizer) / 2**20, 2),
            "tokens": int(trainer.tokens),
        }
        saved = Saved(
            recipe=self._recipe,
            asked=self._asked,
            adapter=self._adapter,
            readout=self._readout,
            identity=dict(self._backend.identity),
            tokenizer=self._tokenizer,
            lists=len(self._lists),
            outcome=self._outcome,
            comparison=comparison,
        )
        with written_whole():
            write_adapter(saved, module.model, self._folder)
            with replace_text(self._folder / _RESULT) as file:
                file.write(json.dumps(self._outcome, indent=1) + "\n")

    def outcome(self) -> dict[str, Any]:
        """What came of it, less what only this process knows; empty where another process leads."""
        return self._outcome

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Say with numbers what to do where memory runs out.

        Raises:
            BackendError: It did.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            table, data = self._recipe.training, self._recipe.data
            raise BackendError(
                f"Out of memory at {peak_mb():.0f} MiB, with {table.batch_size} lists of {data.documents} documents of "
                f"up to {self._recipe.method.max_passage_tokens or 'any number of'} tokens at a time, and "
                f"{sum(p.numel() for p in self._backend.model.parameters() if p.requires_grad):,} numbers that train",
                remedy="In this order: batch_size = 1 with a larger accumulation (the same gradients), checkpointing = "
                "true, a smaller max_passage_tokens or documents, an adapter or optimizer that keeps less",
            ) from error


def _placed(device: str) -> str:
    """The device of this process: under torchrun, each has a GPU of its own.

    Raises:
        UsageError: One GPU of several is named, which transformers' trainer does not take.
    """
    picked = pick_device(device)
    if picked.startswith("cuda:"):
        raise UsageError(
            f"--device {device}", expected="cuda", remedy=f"Set CUDA_VISIBLE_DEVICES={picked[5:]}, and no --device"
        )
    return f"cuda:{os.environ['LOCAL_RANK']}" if picked == "cuda" and "LOCAL_RANK" in os.environ else picked


def leads() -> bool:
    """Whether this is the process that writes: the only one, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"
