"""What an adapter has learnt, carried over to another base model: it labels lists, and the other model learns them.

The idea is Trans-LoRA's (Wang et al., 2024, arXiv 2405.17258): an adapter fits its own base model alone, but its
answers can be learnt by any. The paper makes its queries with the new model and keeps those that a discriminator takes
for real; here they are given, and need no judgments. Knows the order of things; labelling, training and ranking are
done by the rooms that do them elsewhere, each in a folder of its own, so that all of it can be gone on with.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rerank.errors import DataError, UsageError
from rerank.experiment import Prepared, check_failures, execute, prepare
from rerank.experiment.robustness import kendall_tau
from rerank.experiment.spec import Execution, RunSpec
from rerank.finetune.labels.files import read_labels, write_labels
from rerank.finetune.labels.lists import LabelList
from rerank.finetune.labels.making import Made, Plan, get_ready, make_labels
from rerank.finetune.labels.splits import Shares, split
from rerank.finetune.labels.texts import query_texts
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import Progress, train
from rerank.io.text_files import replace_text
from rerank.lm.loading import adapter_folder
from rerank.models.trained import as_trained
from rerank.store import RunFolder

#: What lies in the folder: the teacher's run, its lists to train on and those kept apart, the student's runs before and
#: after, its adapter, and the report.
TEACHER, LABELS, HELD_OUT, BEFORE, AFTER, STUDENT, REPORT = (
    "teacher",
    "labels.jsonl",
    "held_out.jsonl",
    "before",
    "after",
    "student",
    "transfer.json",
)
#: What says which lists are ranked.
_LISTS = frozenset({"collection", "first_stage", "depth", "max_queries", "queries", "qrels"})

#: Executes a run, as `rerank.experiment.execute` does.
Execute = Callable[[Prepared, Execution], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """From which adapter to which model, and with what.

    Attributes:
        adapter: What `rerank train` left, a folder or a hub id: the teacher.
        model: The base model that is to learn: a name of `rerank models`, a folder, or a hub id.
        spec: The lists: collection, first stage, depth and queries are read, and judgments for the runs' scores if
            there are any; nothing else.
        recipe: How the model learns; its model, its lists and its collection are replaced.
        folder: Where everything goes.
        held_out: Share of the queries that are labelled and not learnt from, for agreement on lists that are new; 0
            for none.

    Raises:
        UsageError: A share that leaves nothing.
    """

    adapter: str
    model: str
    spec: RunSpec
    recipe: Recipe
    folder: Path
    held_out: float = 0.1

    def __post_init__(self) -> None:
        """Check the share."""
        if not 0 <= self.held_out < 1:
            raise UsageError(f"--held-out {self.held_out}", expected="a share, at least 0 and below 1")

    def ranked_with(self, how: Mapping[str, Any]) -> RunSpec:
        """The run over the lists with some model and method.

        Args:
            how: Values of a run specification.
        """
        return RunSpec.make(self.spec.model_dump(include=set(_LISTS), exclude_none=True) | dict(how))

    def learning(self) -> Recipe:
        """The recipe for the new model and the teacher's lists."""
        recipe = self.recipe
        data = recipe.data.model_copy(
            update={"lists": (str(self.folder / LABELS),), "collection": self.spec.collection}
        )
        own = {"revision": None} if recipe.model != self.model else {}  # a commit of another model is none of this one
        return recipe.model_copy(update={"model": self.model, "data": data, **own})


def transfer(
    asked: Transfer,
    *,
    resume: bool = False,
    device: str = "auto",
    run: Execute = execute,
    progress: Progress = lambda title, total, done: nullcontext(lambda steps: None),
) -> dict[str, Any]:
    """Label, train, and see how far the two agree.

    Args:
        asked: What to do.
        resume: Go on where an earlier call stopped.
        device: Torch device.
        run: Who executes runs.
        progress: See `rerank.finetune.trainer.training.train`.

    Returns:
        What is written as ``transfer.json``: ``folder`` (of the new adapter), ``teacher``, ``model``, ``left_out``
        (reason -> lists without a label), ``lists`` and ``held_out`` (how many), ``agreement`` (``train`` and
        ``held_out``, each ``before`` and ``after``: mean Kendall tau of student and teacher, None without lists),
        ``failure_rate`` (of the student's windows) and ``training`` (a `rerank.finetune.trainer.training.Result`).

    Raises:
        UsageError: The adapter says nothing of its base, the recipe makes no sense, or the folder holds another work.
        RerankError: What labelling, training and ranking raise; what was done before stays.
    """
    recipe = asked.learning()
    recipe.parts()
    teacher = asked.ranked_with(used(asked.adapter))
    _unused(asked.folder / TEACHER, resume=resume)
    execution = partial(Execution, resume=resume, device=device)
    made = _labelled(teacher, execution(out=asked.folder / TEACHER), run)
    parts = _parted(made.labels, asked, recipe.seed)
    trusted = {"trust_remote_code": recipe.trust_remote_code}
    plain = {"model": recipe.model, "revision": recipe.revision, **recipe.method.model_dump()}
    before = _ranked(asked.ranked_with(plain | trusted), execution(out=asked.folder / BEFORE), run)
    result = train(recipe, asked.folder / STUDENT, resume=resume, device=device, progress=progress)
    after = _ranked(asked.ranked_with(used(result.folder) | trusted), execution(out=asked.folder / AFTER), run)
    report = {
        "folder": result.folder,
        "teacher": asked.adapter,
        "model": asked.model,
        "left_out": made.report["left_out"],
        **_compared(parts, {"before": before, "after": after}),
        "training": dataclasses.asdict(result),
    }
    with replace_text(asked.folder / REPORT) as file:
        file.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report


def used(adapter: str) -> dict[str, Any]:
    """How what a training left is used, as values of a run specification: its base, its method, its prompt.

    Args:
        adapter: A folder or a hub id; one with a whole model is its own base.

    Raises:
        MissingResourceError: There is no such adapter.
        UsageError: It does not say.
    """
    whole = Path(adapter).is_dir() and not (Path(adapter) / "adapter_config.json").is_file()
    folder = Path(adapter) if whole else adapter_folder(adapter)
    values = as_trained(folder, {})
    if not values:
        raise UsageError(
            f"The adapter {adapter!r} does not say what it is used with",
            expected="the folder that `rerank train` left, with rerank.json",
        )
    if whole:
        return {key: value for key, value in values.items() if key != "revision"} | {"model": adapter}
    return values | {"adapter": adapter}


def agreement(labels: Sequence[LabelList], folder: Path) -> float | None:
    """Mean Kendall tau of labels and a run's orders of the same documents, from -1 to 1; None without labels.

    Raises:
        DataError: The run has other documents.
    """
    found = RunFolder(folder).read_run("run.trec")
    taus = []
    for label in labels:
        order = found[label.qid].doc_ids if label.qid in found else ()
        if set(order) != set(label.initial):
            raise DataError(
                f"The run {str(folder)!r} ranks other documents for query {label.qid!r} than the teacher did",
                remedy="The collection has changed since: start anew in another folder",
            )
        taus.append(kendall_tau(label.final, order))
    return sum(taus) / len(taus) if taus else None


def _compared(parts: Mapping[str, Sequence[LabelList]], runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many lists there are, how far each run agrees with their labels, and how often it failed."""
    return {
        "lists": len(parts["train"]),
        "held_out": len(parts["held_out"]),
        "agreement": {
            part: {when: agreement(labels, Path(run["folder"])) for when, run in runs.items()}
            for part, labels in parts.items()
        },
        "failure_rate": {when: run["failure_rate"] for when, run in runs.items()},
    }


def _unused(folder: Path, *, resume: bool) -> None:
    if folder.exists() and not resume:
        raise UsageError(
            f"{str(folder.parent)!r} holds a transfer already", remedy="Go on with --resume, or choose another --out"
        )


def _labelled(spec: RunSpec, execution: Execution, run: Execute) -> Made:
    """Labels by the teacher's run.

    Raises:
        DataError: No list has one.
        PartialFailureError: The teacher failed too often to learn from.
    """
    made = make_labels(get_ready(spec, execution, Plan(), run=run))
    for told in made.report["teachers"].values():
        check_failures(told, spec.max_failure_rate)
    made.check()
    return made


def _parted(labels: tuple[LabelList, ...], asked: Transfer, seed: int) -> Mapping[str, tuple[LabelList, ...]]:
    """Lists to learn from and lists to look at, written down; what was learnt from before stays what it was."""
    parts: dict[str, tuple[LabelList, ...]] = {"train": labels, "held_out": ()}
    if asked.held_out:
        shares = split(labels, Shares(dev=0.0, test=asked.held_out, seed=seed), texts=query_texts(labels))
        parts = {"train": shares.train, "held_out": shares.test}
    for name, part in ((LABELS, parts["train"]), (HELD_OUT, parts["held_out"])):
        path = asked.folder / name
        if (tuple(read_labels(path)) if path.is_file() else part) != part:
            raise UsageError(
                f"{str(path)!r} holds other lists than are asked for now",
                remedy="Ask for the same, or start anew in another folder",
            )
        if part:
            write_labels(part, path)
    return parts


def _ranked(spec: RunSpec, execution: Execution, run: Execute) -> dict[str, Any]:
    """The summary of a run over all lists, judged or not."""
    return run(prepare(spec, execution, judged_only=False), execution)
