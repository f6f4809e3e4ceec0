"""Validation during a training: rankings of a collection by the method of the recipe, and the loss on other lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rerank.assemble import RankerSetup
from rerank.evaluation import Comparison, compare_runs, evaluate_run, parse_measures
from rerank.experiment.candidates import load_queries, retrieve_lists
from rerank.experiment.spec import RunSpec
from rerank.finetune.recipe import ValidationTable
from rerank.finetune.trainer import processes
from rerank.finetune.trainer.listwise_module import AttentionScorer, ListwiseModule, autocast
from rerank.finetune.trainer.schedule import ScheduledExamples
from rerank.finetune.trainer.training_folder import write_current_heads
from rerank.io.run_files import read_run, write_run
from rerank.pipeline.stream import rank_together
from rerank.tasks import Backend
from rerank.types import Qrels, Run

#: Files with the rankings of the validation queries by the first stage, the untrained model and the trained model.
_FIRST, _UNTRAINED, _TRAINED = "first_stage.trec", "untrained.trec", "trained.trec"


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Validation data (first-stage rankings of the judged queries), and the measure that selects a checkpoint."""

    candidates: Run
    qrels: Qrels
    measure: str
    relevant: int  #: Lowest grade that binary measures count as relevant.

    @classmethod
    def of(cls, table: ValidationTable) -> Validation:
        """Create the validation that a recipe describes; its candidates are retrieved once for the whole training."""
        parse_measures([table.ranking_measure])  # report an invalid measure before the training, not after it
        spec = RunSpec(
            collection=table.collection,
            first_stage=table.first_stage,
            depth=table.depth,
            max_queries=table.max_queries,
            queries=table.queries,
            qrels=table.qrels,
        )
        collection, queries, qrels = load_queries(spec)
        candidates = retrieve_lists(spec, collection, queries)
        return cls(candidates=candidates, qrels=qrels, measure=table.ranking_measure, relevant=collection.relevant)


@dataclass(kw_only=True)
class ValidationRankings:
    """Rankings of the validation queries by the model in training, with the method of the recipe."""

    validation: Validation
    setup: RankerSetup
    folder: Path
    module: ListwiseModule
    #: Trained weights of attention heads, for the judge `attention`; None if no loss uses attention.
    readout: AttentionScorer | None
    open_backend: Callable[[], AbstractContextManager[Backend]]
    #: Value of the measure and rankings of the best validation in this process; None before the first one.
    best: tuple[float, Run] | None = field(default=None, init=False)

    def write_before_training(self) -> None:
        if processes.is_main():
            write_run(self.validation.candidates, self.folder / _FIRST)
        self._rank_into(_UNTRAINED)

    def write_after_training(self, *, reuse: bool) -> None:
        """Write the rankings with the selected weights: with ``reuse``, those of the best validation, if any."""
        if self.best and reuse:
            if processes.is_main():
                write_run(self.best[1], self.folder / _TRAINED)
        else:
            self._rank_into(_TRAINED)

    def validate(self) -> dict[str, float]:
        """Rank with the current weights; return the value of the measure, and the fraction of windows with failures."""
        run, failures = self._rank("trained")
        data = self.validation
        scores = evaluate_run(data.qrels, run, [data.measure], relevant=data.relevant)
        value = float(next(iter(scores.summary().values())))
        if self.best is None or value > self.best[0]:
            self.best = value, run
        return {data.measure: value, "failures": failures}

    def compare(self) -> tuple[Comparison, dict[str, dict[str, float]]]:
        """Compare first stage, untrained model and trained model pairwise, with paired t-tests and Holm correction.

        Also return the value of the measure of each run, by name of the run and of the measure.
        """
        files, data = {"first stage": _FIRST, "untrained": _UNTRAINED, "trained": _TRAINED}, self.validation
        runs = [Run(read_run(self.folder / file).values(), name=name) for name, file in files.items()]
        comparison = compare_runs(data.qrels, runs, data.measure, relevant=data.relevant)
        return comparison, {name: {data.measure: run.mean} for name, run in zip(files, comparison.runs, strict=True)}

    def _rank(self, name: str) -> tuple[Run, float]:
        with self.open_backend() as backend, torch.no_grad():
            options = {}
            if self.readout and self.setup.method.judge.name == "attention":
                options["heads"] = str(write_current_heads(self.folder, self.readout, backend.identity))
            judge = self.setup.open_judge(backend, **options)
            outcome = rank_together(self.validation.candidates.values(), self.setup.strategy, judge, judge.backend)
            return Run(outcome.rankings, name=name), outcome.failure_rate()

    def _rank_into(self, file: str) -> None:
        """Rerank the candidates and write the run; with sharded weights, all processes must take part."""
        if processes.is_main() or self.module.is_sharded:
            run, _ = self._rank(file.removesuffix(".trec"))
            if processes.is_main():
                write_run(run, self.folder / file)


@torch.no_grad()
def held_out_loss(module: ListwiseModule, examples: ScheduledExamples, device: str, dtype: str) -> dict[str, float]:
    """Return the training loss (``loss``, and each ``loss_NAME``) as a mean over held-out lists, without dropout."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    was_training = module.training
    module.eval()
    try:
        for index in range(len(examples)):
            with autocast(device, dtype):
                out = module.example_loss(examples[index], device)
            values["loss"].append(float(out["loss"]))
            for name, value in out["parts"].items():
                values[f"loss_{name}"].append(float(value))
    finally:
        module.train(was_training)
    return {name: sum(parts) / len(parts) for name, parts in values.items()}
