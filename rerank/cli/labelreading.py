"""What the commands of `label` share: lists read from files, queries' texts, leaks told. Knows no single command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.output import note, table
from rerank.errors import DataError, UsageError

if TYPE_CHECKING:
    from rerank.finetune.labels.lists import LabelList
    from rerank.finetune.labels.training_list import TrainingList

Lists = Annotated[
    Path, typer.Argument(metavar="FILE", help="A label file, FlagEmbedding's form or conversations; also gzipped.")
]
Labels = Annotated[Path, typer.Argument(metavar="FILE", help="A label file; also gzipped.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The label file to write.")]
Folder = Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")]
Collection = Annotated[str | None, typer.Option(help="Where ids are looked up; see rerank collections.")]
Against = Annotated[
    list[str] | None,
    typer.Option(help="A collection whose queries must not be trained on, or jsonl:queries=FILE; repeatable."),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Queries are near-duplicates from this Jaccard coefficient of trigrams on. (default: 0.7)"),
]
Seed = Annotated[int, typer.Option(help="For whatever is drawn.")]


def read(file: Path, collection: str | None) -> tuple[list[LabelList], list[TrainingList] | None, Counter[str]]:
    """Lists of any form: their ids, their texts where these can be had, and what was left out."""
    from rerank.finetune.labels.files import read_labels
    from rerank.finetune.labels.reading import open_records, read_lists
    from rerank.finetune.labels.texts import as_label

    skipped: Counter[str] = Counter()
    form, _ = open_records(file)
    if form == "labels" and collection is None:
        return list(read_labels(file)), None, skipped
    lists = list(read_lists(file, opened(collection), skipped=skipped))
    if not lists:
        raise DataError(f"{file} gives no list ({told(skipped)})")
    return [as_label(one) for one in lists], lists, skipped


def known_texts(labels: Sequence[LabelList], collection: str | None, *, needed: bool) -> dict[str, str]:
    """Query id -> text.

    Raises:
        UsageError: Some are not known, and they are needed.
    """
    from rerank.finetune.labels.texts import query_texts

    texts = query_texts(labels, opened(collection))
    lacking = {label.qid for label in labels} - set(texts)
    if needed and lacking:
        raise UsageError(
            f"{len(lacking)} of {len({label.qid for label in labels})} queries have no text, first "
            f"{min(lacking)!r}, so that leaks cannot be looked for",
            remedy="Pass the --collection that has them",
        )
    return texts


def queries_of(selectors: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """Selector -> query id -> text.

    Raises:
        DataError: A collection has no queries.
    """
    from rerank.collections import open_collection

    found = {name: {q.id: q.text for q in open_collection(name).queries()} for name in selectors or ()}
    if empty := [name for name, queries in found.items() if not queries]:
        raise DataError(f"The collection {empty[0]!r} has no queries", remedy="Leave it out of --against")
    return found


def threshold_of(given: float | None) -> float:
    """The threshold, or the usual one."""
    from rerank.finetune.labels.leaks import THRESHOLD

    return THRESHOLD if given is None else given


def say_leaks(leaking: Sequence[Mapping[str, Any]], count: int, *, dropped: bool = False) -> None:
    """Leaks, for people."""
    for leak in leaking:
        kind = "the same" if leak["exact"] else f"{leak['similarity']:.2f} alike"
        note(f"leak: {leak['train_text']!r} and {leak['test_text']!r} of {leak['where']} are {kind}")
    if count > len(leaking):
        note(f"and {count - len(leaking)} leaks more")
    if count and not dropped:
        note("warning: queries leak; drop them with `rerank label split --drop-leaks`")


def say_skipped(skipped: Mapping[str, int]) -> None:
    """What was left out, for people."""
    for reason, count in skipped.items():
        note(f"left out: {count} {reason}")


def show(report: Mapping[str, Any], keys: Sequence[str]) -> None:
    """A report as a table of one row, and what was left out beside it."""
    table(keys, [["-" if report[key] is None else report[key] for key in keys]])
    for name in ("dropped", "skipped"):
        if isinstance(report.get(name), dict):
            say_skipped(report[name])
        elif report.get(name):
            note(f"left out of train: {report[name]} lists")
    note(f"written: {report['output']}")


def opened(collection: str | None) -> Any:
    """The collection, if one is named."""
    from rerank.collections import open_collection

    return open_collection(collection) if collection is not None else None


def told(counted: Mapping[str, int]) -> str:
    """Counts in words."""
    return ", ".join(f"{count} {reason}" for reason, count in counted.items()) or "it holds none"
