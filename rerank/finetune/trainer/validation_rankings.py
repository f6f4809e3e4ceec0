"""Rankings of the validation queries before, during and after a training. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rerank.assemble import RankerSetup
from rerank.evaluation import Comparison
from rerank.finetune.trainer.adapter_folder import write_current_head_list
from rerank.finetune.trainer.listwise_module import AttentionScorer, ListwiseModule
from rerank.finetune.trainer.processes import is_main_training_process
from rerank.finetune.trainer.validation import Validation
from rerank.io.run_files import read_run, write_run
from rerank.tasks import Backend
from rerank.types import Run

#: Files with the rankings of the validation queries by the first stage, the untrained model and the trained model.
_FIRST, _UNTRAINED, _TRAINED = "first_stage.trec", "untrained.trec", "trained.trec"


@dataclass(kw_only=True)
class ValidationRankings:
    """Rankings of the validation queries by the model in training, with the method of the recipe.

    Attributes:
        validation: Candidates, relevance judgments and measure.
        setup: The components of the recipe's method.
        folder: Output folder of the training.
        module: The module that is trained.
        readout: Trained weights of attention heads, for the judge `attention`; None if no loss uses attention.
        open_backend: Function that returns a context manager, which yields the model as a backend in inference mode.
        best: Value of the measure and rankings of the best validation in this process; None before the first one.
    """

    validation: Validation
    setup: RankerSetup
    folder: Path
    module: ListwiseModule
    readout: AttentionScorer | None
    open_backend: Callable[[], AbstractContextManager[Backend]]
    best: tuple[float, Run] | None = field(default=None, init=False)

    def write_before_training(self) -> None:
        """Write the rankings by the first stage and by the untrained model."""
        if is_main_training_process():
            write_run(self.validation.candidates, self.folder / _FIRST)
        self._rank_into(_UNTRAINED)

    def write_after_training(self, *, reuse: bool) -> None:
        """Write the rankings by the model with the selected weights.

        Args:
            reuse: Whether to write the rankings of the best validation in this process, if there was one, instead of
                ranking again.
        """
        if self.best and reuse:
            if is_main_training_process():
                write_run(self.best[1], self.folder / _TRAINED)
        else:
            self._rank_into(_TRAINED)

    def validate(self) -> dict[str, float]:
        """Rank with the current weights, and return the value of the measure by name.

        The key ``failures`` contains the fraction of windows that failed.
        """
        run, failures = self._rank("trained")
        value = self.validation.measure_run(run)
        if self.best is None or value > self.best[0]:
            self.best = value, run
        return {self.validation.measure: value, "failures": failures}

    def compare(self) -> tuple[Comparison, dict[str, dict[str, float]]]:
        """Compare the first stage, the untrained model and the trained model, based on the runs in the folder.

        Returns:
            The comparison, and a mapping from the name of each run to a mapping from the name of the measure to its
            value.
        """
        files = {"first stage": _FIRST, "untrained": _UNTRAINED, "trained": _TRAINED}
        runs = [Run(read_run(self.folder / file).values(), name=name) for name, file in files.items()]
        comparison, measure = self.validation.compare_runs(runs), self.validation.measure
        return comparison, {name: {measure: run.mean} for name, run in zip(files, comparison.runs, strict=True)}

    def _rank(self, name: str) -> tuple[Run, float]:
        """Rerank the candidates with the current weights; return the run and the fraction of windows that failed."""
        with self.open_backend() as backend, torch.no_grad():
            readout = self.readout if self.setup.method.judge.name == "attention" else None
            heads = write_current_head_list(self.folder, readout, backend.identity) if readout else None
            options = {"heads": str(heads)} if heads else {}
            judge = self.setup.open_judge(backend, **options)
            return self.validation.rank(self.setup.strategy, judge, name)

    def _rank_into(self, file: str) -> None:
        """Rerank the candidates and write the run; with sharded weights, all processes must take part."""
        if is_main_training_process() or self.module.is_sharded:
            run, _ = self._rank(file.removesuffix(".trec"))
            if is_main_training_process():
                write_run(run, self.folder / file)
