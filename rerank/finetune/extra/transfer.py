"""Transfer of an adapter to another base model: the adapter labels lists, and the new model is trained on them.

The idea comes from Trans-LoRA (Wang et al., 2024, arXiv 2405.17258), where the new model writes the queries; here the
user provides them. Labelling, training and ranking each use their own folder, so that each of them can be resumed.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.errors import DataError, UsageError
from rerank.experiment import PreparedRun, check_failure_rate, execute_run, prepare_run
from rerank.experiment.robustness import kendall_tau
from rerank.experiment.spec import Execution, RunSpec
from rerank.finetune.component_registry import make_training_components
from rerank.finetune.labels.files import read_labels, write_labels
from rerank.finetune.labels.labelling import LabellingPlan, make_labels, prepare_labelling
from rerank.finetune.labels.lists import LabelList, query_texts
from rerank.finetune.labels.splits import SplitShares, split_labels
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import train_adapter
from rerank.io.text_files import replace_text_file
from rerank.models.adapters import adapter_folder, read_defaults
from rerank.progress import ProgressFactory
from rerank.store import RunFolder

#: Files and folders in the output folder: the run of the teacher, training lists and held-out lists, runs of the
#: student before and after training, the adapter of the student, and the report.
TEACHER, LABELS, HELD_OUT = "teacher", "labels.jsonl", "held_out.jsonl"
BEFORE, AFTER, STUDENT, REPORT = "before", "after", "student", "transfer.json"
#: Fields of a run specification that determine the candidate lists.
_LISTS = frozenset({"collection", "first_stage", "depth", "max_queries", "queries", "qrels"})

#: Function that executes a run, such as `rerank.experiment.execute`.
Execute = Callable[[PreparedRun, Execution], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSpec:
    """Specification of the transfer of an adapter to another base model."""

    adapter: str  #: The teacher: an adapter trained with `rerank train`, as a folder or a hub id.
    model: str  #: The student: a name of `rerank models`, a folder, or a hub id.
    #: Specification of the candidate lists: only its collection, first stage, depth, queries and qrels are used.
    spec: RunSpec
    recipe: Recipe  #: Training recipe of the student; its model, lists and collection are replaced.
    folder: Path  #: Output folder.
    #: Fraction of the queries that are labelled but not used for training, to measure the agreement on new lists.
    held_out: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise UsageError(f"--held-out is {self.held_out}", expected="a fraction, at least 0 and below 1")

    def run_spec(self, ranker: Mapping[str, Any]) -> RunSpec:
        return RunSpec.make(self.spec.model_dump(include=set(_LISTS), exclude_none=True) | dict(ranker))

    def student_recipe(self) -> Recipe:
        recipe = self.recipe
        lists = (str(self.folder / LABELS),)
        data = recipe.data.model_copy(update={"lists": lists, "collection": self.spec.collection})
        revision = {"revision": None} if recipe.model != self.model else {}  # a revision of another model is invalid
        return recipe.model_copy(update={"model": self.model, "data": data, **revision})


def transfer_adapter(
    spec: TransferSpec,
    *,
    resume: bool = False,
    device: str = "auto",
    run: Execute = execute_run,
    progress: ProgressFactory = lambda title, total, done: nullcontext(lambda steps: None),
) -> dict[str, Any]:
    """Label lists with the teacher, train the student on them, and measure how well student and teacher agree.

    Returns the content of ``transfer.json``: ``folder`` of the new adapter, ``teacher``, ``model``, ``left_out`` (lists
    without a label, per reason), ``lists`` and ``held_out`` (numbers of lists), ``agreement`` (of ``train`` and
    ``held_out``, ``before`` and ``after`` training: mean Kendall tau, None without lists), ``failure_rate`` and
    ``training`` (fields of a `TrainingResult`).
    """
    recipe = spec.student_recipe()
    make_training_components(recipe)  # so that an inconsistent recipe is reported before the teacher runs
    if (spec.folder / TEACHER).exists() and not resume:
        raise UsageError(
            f"{str(spec.folder)!r} already contains a transfer",
            expected="a new folder",
            remedy="Continue it with --resume, or choose another --out",
        )

    def rank(ranker: Mapping[str, Any], folder: str) -> dict[str, Any]:
        """Execute a run of the student over all queries, judged or not, and return its summary."""
        trusting = spec.run_spec(dict(ranker) | {"trust_remote_code": recipe.trust_remote_code})
        execution = Execution(resume=resume, device=device, out=spec.folder / folder)
        return run(prepare_run(trusting, execution, judged_only=False), execution)

    teacher = spec.run_spec(trained_adapter_usage(spec.adapter))
    execution = Execution(resume=resume, device=device, out=spec.folder / TEACHER)
    labelled = make_labels(prepare_labelling(teacher, execution, LabellingPlan(), run=run))
    for summary in labelled.report["teachers"].values():
        check_failure_rate(summary, teacher.max_failure_rate)
    labelled.check()
    parts = _write_lists(labelled.labels, spec, recipe.seed)
    runs = {"before": rank({"model": recipe.model, "revision": recipe.revision, **recipe.method.model_dump()}, BEFORE)}
    result = train_adapter(recipe, spec.folder / STUDENT, resume=resume, device=device, progress=progress)
    runs["after"] = rank(trained_adapter_usage(result.folder), AFTER)
    report = {
        "folder": result.folder,
        "teacher": spec.adapter,
        "model": spec.model,
        "left_out": labelled.report["left_out"],
        "lists": len(parts["train"]),
        "held_out": len(parts["held_out"]),
        "agreement": {
            part: {when: mean_tau_of_labels(labels, Path(run["folder"])) for when, run in runs.items()}
            for part, labels in parts.items()
        },
        "failure_rate": {when: run["failure_rate"] for when, run in runs.items()},
        "training": dataclasses.asdict(result),
    }
    with replace_text_file(spec.folder / REPORT) as file:
        file.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report


def trained_adapter_usage(adapter: str) -> dict[str, Any]:
    """Return model, method and prompt of a trained adapter or complete model, as fields of a run specification."""
    folder = Path(adapter).expanduser()
    is_model = folder.is_dir() and not (folder / "adapter_config.json").is_file()
    folder = folder if is_model else adapter_folder(adapter)
    if not (values := read_defaults(folder, {})):
        raise UsageError(
            f"The settings of the adapter {adapter!r} do not state its base model and method",
            expected="a folder written by `rerank train`, with rerank.json",
        )
    if is_model:
        return {key: value for key, value in values.items() if key != "revision"} | {"model": adapter}
    return values | {"adapter": adapter}


def mean_tau_of_labels(labels: Sequence[LabelList], folder: Path) -> float | None:
    """Return the mean Kendall tau between labels and the rankings of a run, -1 to 1; None without labels."""
    run = RunFolder(folder).read_run("run.trec")
    taus = []
    for label in labels:
        order = run[label.qid].doc_ids if label.qid in run else ()
        if set(order) != set(label.initial):
            raise DataError(
                f"The run {str(folder)!r} ranks other documents for query {label.qid!r} than the teacher did",
                remedy="Start in another folder, because the collection has changed",
            )
        taus.append(kendall_tau(label.final, order))
    return sum(taus) / len(taus) if taus else None


def _write_lists(labels: tuple[LabelList, ...], spec: TransferSpec, seed: int) -> Mapping[str, tuple[LabelList, ...]]:
    """Split the lists into training and held-out lists, and write both; existing files must contain the same lists."""
    parts: dict[str, tuple[LabelList, ...]] = {"train": labels, "held_out": ()}
    if spec.held_out:
        shares = split_labels(labels, SplitShares(dev=0.0, test=spec.held_out, seed=seed), texts=query_texts(labels))
        parts = {"train": shares["train"], "held_out": shares["test"]}
    for name, part in ((LABELS, parts["train"]), (HELD_OUT, parts["held_out"])):
        path = spec.folder / name
        if (tuple(read_labels(path)) if path.is_file() else part) != part:
            raise UsageError(
                f"{str(path)!r} does not contain the lists of this transfer",
                expected="the lists of the interrupted transfer",
                remedy="Use the same settings as before, or start in another folder",
            )
        if part:
            write_labels(part, path)
    return parts
