"""Options and functions that the `label` commands share, for reading lists and query texts and printing reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.output import print_note, print_table
from rerank.errors import DataError, UsageError

if TYPE_CHECKING:
    from rerank.finetune.labels.label_list import LabelList
    from rerank.finetune.labels.training_list import TrainingList

Lists = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Label file, FlagEmbedding file or file of conversations; gzipped files are accepted."
    ),
]
Labels = Annotated[Path, typer.Argument(metavar="FILE", help="Label file; gzipped files are accepted.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Label file to write.")]
Folder = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
Collection = Annotated[str | None, typer.Option(help="Collection that contains the documents referenced by id.")]
Against = Annotated[
    list[str] | None,
    typer.Option(help="Collection, or jsonl:queries=FILE, whose queries must not be in training data; repeatable."),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Minimum Jaccard coefficient of trigrams for near-duplicate queries. (default: 0.7)"),
]
Seed = Annotated[int, typer.Option(help="Seed for random choices.")]


def read_label_file_argument(
    file: Path, collection: str | None
) -> tuple[list[LabelList], list[TrainingList] | None, Counter[str]]:
    """Read training lists of any format.

    Returns:
        The labels, which refer to documents by id; the lists with texts (None if the file has no texts and no
        collection is given); and the number of omitted lists by reason.
    """
    from rerank.finetune.labels.label_files import read_labels
    from rerank.finetune.labels.list_files import open_label_records, read_label_lists_of_file
    from rerank.finetune.labels.list_texts import label_of_training_list

    skipped: Counter[str] = Counter()
    form, _ = open_label_records(file)
    if form == "labels" and collection is None:
        return list(read_labels(file)), None, skipped
    lists = list(read_label_lists_of_file(file, open_collection_option(collection), skipped=skipped))
    if not lists:
        raise DataError(f"{file} contains no usable list ({format_printed_skip_reasons(skipped)})")
    return [label_of_training_list(training_list) for training_list in lists], lists, skipped


def look_up_texts_option(labels: Sequence[LabelList], collection: str | None, *, needed: bool) -> dict[str, str]:
    """Return a mapping from query id to query text, taken from the labels or else from the collection."""
    from rerank.finetune.labels.list_texts import query_texts_of_labels

    texts = query_texts_of_labels(labels, open_collection_option(collection))
    missing = {label.qid for label in labels} - set(texts)
    if needed and missing:
        raise UsageError(
            f"{len(missing)} of {len({label.qid for label in labels})} queries have no text, such as {min(missing)!r}",
            expected="texts of all queries, to find leaks",
            remedy="Pass the collection that contains the queries with --collection",
        )
    return texts


def load_test_queries_option(selectors: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """Load the queries of test collections, as a mapping from selector to a mapping from query id to text."""
    from rerank.collections import open_collection

    queries = {name: {query.id: query.text for query in open_collection(name).queries()} for name in selectors or ()}
    if empty := [name for name, texts in queries.items() if not texts]:
        raise DataError(f"The collection {empty[0]!r} has no queries", remedy="Remove it from --against")
    return queries


def resolve_threshold_option(threshold: float | None) -> float:
    """Return the similarity from which two queries are near-duplicates; the default if ``threshold`` is None."""
    from rerank.finetune.labels.leaks import THRESHOLD

    return THRESHOLD if threshold is None else threshold


def print_leaks_note(leaking: Sequence[Mapping[str, Any]], count: int, *, dropped: bool = False) -> None:
    """Print leaks on stderr: training queries that are identical or similar to a test query.

    Args:
        leaking: The leaks to print; further leaks are only counted.
        count: Total number of leaks.
        dropped: Whether the leaking lists were dropped.
    """
    for leak in leaking:
        kind = "identical" if leak["exact"] else f"similar ({leak['similarity']:.2f})"
        print_note(f"leak: {leak['train_text']!r} and {leak['test_text']!r} of {leak['where']} are {kind}")
    if count > len(leaking):
        print_note(f"and {count - len(leaking)} more leaks")
    if count and not dropped:
        print_note("warning: queries leak; drop them with `rerank label split --drop-leaks`")


def print_skipped_lists_note(skipped: Mapping[str, int]) -> None:
    """Print on stderr how many training lists were omitted, by reason."""
    for reason, count in skipped.items():
        print_note(f"omitted: {count} {reason}")


def print_label_report(report: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Print the report of a `label` command as a table with one row, and the numbers of omitted lists on stderr."""
    print_table(keys, [["-" if report[key] is None else report[key] for key in keys]])
    for name in ("dropped", "skipped"):
        if isinstance(report.get(name), dict):
            print_skipped_lists_note(report[name])
        elif report.get(name):
            print_note(f"omitted from train: {report[name]} lists")
    print_note(f"written: {report['output']}")


def open_collection_option(collection: str | None) -> Any:
    """Open a collection. Return None if no collection is given."""
    from rerank.collections import open_collection

    return open_collection(collection) if collection is not None else None


def format_printed_skip_reasons(counted: Mapping[str, int]) -> str:
    """Format the numbers of omitted lists by reason, such as ``3 too short, 1 without label``."""
    return ", ".join(f"{count} {reason}" for reason, count in counted.items()) or "it contains none"
