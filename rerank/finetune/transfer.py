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
from pathlib import Path
from typing import Any

from rerank.backends._loading import adapter_folder
from rerank.errors import DataError, UsageError
from rerank.experiment import Prepared, check_failures, execute, prepare
from rerank.experiment.robustness import kendall_tau
from rerank.finetune.labels.files import write_labels
from rerank.finetune.labels.lists import LabelList
from rerank.finetune.labels.making import Made, Plan, get_ready, make_labels
from rerank.finetune.labels.splits import Shares, split
from rerank.finetune.labels.texts import query_texts
from rerank.finetune.recipe import Recipe
from rerank.finetune.training import Progress, train
from rerank.spec import Execution, RunSpec
from rerank.store import RunFolder
from rerank.textfiles import replace_text
from rerank.trained import as_trained

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
_LISTS = frozenset({"collection", "first_stage", "depth", "max_queries", "queries"})

#: Executes a run, as `rerank.experiment.execute` does.
Execute = Callable[[Prepared, Execution], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """From which adapter to which model, and with what.

    Attributes:
        adapter: What `rerank train` left, a folder or a hub id: the teacher.
        model: The base model that is to learn: a name of `rerank models`, a folder, or a hub id.
        spec: The lists: collection, first stage, depth and queries are read, nothing else.
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

    @property
    def lists(self) -> dict[str, Any]:
        """What both models rank, as values of a run specification."""
        return self.spec.model_dump(include=set(_LISTS))

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
        run: Who executes runs, e.g. with a progress bar.
        progress: See `rerank.finetune.training.train`.

    Returns:
        What is written as ``transfer.json``: ``folder`` (of the new adapter), ``teacher``, ``model``, ``lists``,
        ``held_out`` (how many), ``left_out`` (reason -> lists without a label), ``agreement`` (``train`` and
        ``held_out``, each ``before`` and ``after``: mean Kendall tau of the student's order and the teacher's, None
        without lists), ``failure_rate`` (of the student's windows) and ``training`` (a
        `rerank.finetune.training.Result`).

    Raises:
        UsageError: The adapter says nothing of its base, the recipe makes no sense, or the folder holds another work.
        DataError: No list has a label, or there are too few to keep some apart.
        PartialFailureError: The teacher failed too often to learn from.
        RerankError: What labelling, training and ranking raise; what was done before stays.
    """
    recipe = asked.learning()
    recipe.parts()
    teacher = used(asked.adapter)
    if not resume and (asked.folder / TEACHER).exists():
        raise UsageError(
            f"{str(asked.folder)!r} holds a transfer already", remedy="Go on with --resume, or choose another --out"
        )

    def execution(name: str) -> Execution:
        return Execution(out=asked.folder / name, resume=resume, device=device)

    made = _labelled(RunSpec(**asked.lists, **teacher), execution(TEACHER), run)
    parts = _parted(made.labels, asked, recipe.seed)
    method = recipe.method.model_dump()
    plain = {key: getattr(recipe, key) for key in ("model", "revision", "trust_remote_code")}
    before = _ranked(RunSpec(**asked.lists, **method, **plain), execution(BEFORE), run)
    result = train(recipe, asked.folder / STUDENT, resume=resume, device=device, progress=progress)
    trusted = {"trust_remote_code": recipe.trust_remote_code}
    after = _ranked(RunSpec(**asked.lists, **used(result.folder), **trusted), execution(AFTER), run)
    orders = {"before": before["folder"], "after": after["folder"]}
    report = {
        "folder": result.folder,
        "teacher": asked.adapter,
        "model": asked.model,
        "lists": len(parts["train"]),
        "held_out": len(parts["held_out"]),
        "left_out": made.report["left_out"],
        "agreement": {
            part: {when: agreement(labels, Path(folder)) for when, folder in orders.items()}
            for part, labels in parts.items()
        },
        "failure_rate": {"before": before["failure_rate"], "after": after["failure_rate"]},
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
        UsageError: It does not say.
    """
    folder = adapter_folder(adapter)
    values = as_trained(folder, {})
    if not values:
        raise UsageError(
            f"The adapter {adapter!r} does not say what it is used with",
            expected="the folder that `rerank train` left, with rerank.json",
        )
    if (folder / "adapter_config.json").is_file():
        return values | {"adapter": adapter}
    return {key: value for key, value in values.items() if key != "revision"} | {"model": str(folder)}


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


def _labelled(spec: RunSpec, execution: Execution, run: Execute) -> Made:
    made = make_labels(get_ready(spec, execution, Plan(), run=run))
    for told in made.report["teachers"].values():
        check_failures(told, spec.max_failure_rate)
    made.check()
    return made


def _parted(labels: tuple[LabelList, ...], asked: Transfer, seed: int) -> Mapping[str, tuple[LabelList, ...]]:
    """Lists to learn from and lists to look at, written down."""
    kept, apart = labels, ()
    if asked.held_out:
        shares = split(labels, Shares(dev=0.0, test=asked.held_out, seed=seed), texts=query_texts(labels))
        kept, apart = shares.train, shares.test
    for name, part in ((LABELS, kept), (HELD_OUT, apart)):
        if part:
            write_labels(part, asked.folder / name)
    return {"train": kept, "held_out": apart}


def _ranked(spec: RunSpec, execution: Execution, run: Execute) -> dict[str, Any]:
    """The summary of a run over all lists, judged or not."""
    return run(prepare(spec, execution, judged_only=False), execution)
