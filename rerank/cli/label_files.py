"""`label filter`, `augment`, `convert`: process files of training lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.label_options import (
    Collection,
    Folder,
    Labels,
    Lists,
    Output,
    Seed,
    format_printed_skip_reasons,
    open_collection_option,
    print_label_report,
)
from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit_output
from rerank.errors import DataError, UsageError

if TYPE_CHECKING:
    from rerank.finetune.labels.label_list import LabelList

_FILTER = "Example: rerank label filter labels.jsonl --max-tau 0.9 --min-docs 10 -o kept.jsonl"
_AUGMENT = "Example: rerank label augment labels.jsonl --shuffle --draw --docs 20 --copies 2 --keep -o more.jsonl"
_CONVERT = "Example: rerank label convert labels.jsonl --collection pydoc --cut-words 60 -o lists"


def register_cli_commands(group: typer.Typer) -> None:
    """Add the commands to the group `label`."""
    group.command("filter", epilog=_FILTER)(expand_option_groups(filter_labels_command))
    group.command("augment", epilog=_AUGMENT)(expand_option_groups(augment_labels_command))
    group.command("convert", epilog=_CONVERT)(convert_labels_command)


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """Conditions that training lists and their documents must meet to be kept."""

    min_tau: Annotated[float | None, typer.Option(help="Minimum agreement (Kendall's tau, from -1 to 1).")] = None
    max_tau: Annotated[float | None, typer.Option(help="Maximum agreement (Kendall's tau, from -1 to 1).")] = None
    min_docs: Annotated[int, typer.Option(help="Minimum number of documents per list.")] = 2
    max_docs: Annotated[int | None, typer.Option(help="Maximum number of documents per list.")] = None
    min_words: Annotated[int | None, typer.Option(help="Remove documents with fewer words from their lists.")] = None
    max_words: Annotated[int | None, typer.Option(help="Remove documents with more words from their lists.")] = None


def filter_labels_command(
    limits: FilterOptions,
    *,
    file: Labels,
    output: Output,
    collection: Collection = None,
    agree_with: Annotated[
        Path | None,
        typer.Option(help="Label file of another teacher; agreement is then measured between both labels of a query."),
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Filter training lists by agreement and length.

    Agreement is Kendall's tau between label and input order or, with --agree-with, between the labels of two teachers.
    """
    from rerank.finetune.labels.filters import ListFilter, filter_labels
    from rerank.finetune.labels.label_files import read_labels, write_labels

    list_filter = ListFilter(**vars(limits))
    if agree_with is not None and not list_filter.uses_agreement:
        raise UsageError("--agree-with is given without a limit", expected="--min-tau or --max-tau, or both")
    _check_output_option(file, output)
    labels = list(read_labels(file))
    words = _word_counts_for_filter_command(labels, collection) if list_filter.counts_words else None
    other = {label.qid: label for label in read_labels(agree_with)} if agree_with is not None else None
    dropped: Counter[str] = Counter()
    selected = list(filter_labels(labels, list_filter, words=words, other=other, dropped=dropped))
    _refuse_empty_label_file(selected, dropped, file)
    write_labels(selected, output)
    report = {"output": str(output), "lists": len(labels), "kept": len(selected), "dropped": dict(dropped)}
    emit_output(report, form=form, text=lambda: print_label_report(report, ("lists", "kept")))


@dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """Options for augmentation: how many variants of each training list are written, and how they differ."""

    shuffle: Annotated[bool, typer.Option("--shuffle", help="Shuffle the input order of the documents.")] = False
    docs: Annotated[
        int | None, typer.Option(help="Maximum number of documents per variant; the first documents are kept.")
    ] = None
    draw: Annotated[
        bool, typer.Option("--draw", help="Draw a random number of random documents, from 2 to --docs (or to all).")
    ] = False
    copies: Annotated[int, typer.Option(help="Number of variants per list.")] = 1
    keep: Annotated[bool, typer.Option("--keep", help="Also write each original list before its variants.")] = False
    seed: Seed = 0


def augment_labels_command(
    variation: AugmentOptions, *, file: Labels, output: Output, form: FormatOption = "text"
) -> None:
    """Write variants of labeled lists: with shuffled input, fewer documents, or both. Target rankings stay the same."""
    from rerank.finetune.labels.augment import Augmentation, augment_lists
    from rerank.finetune.labels.label_files import read_labels, write_labels

    augmentation = Augmentation(**vars(variation))
    _check_output_option(file, output)
    count: Counter[str] = Counter()

    def counted() -> Any:
        for label in read_labels(file):
            count["lists"] += 1
            yield label

    written = write_labels(augment_lists(counted(), augmentation), output)
    report = {"output": str(output), "lists": count["lists"], "written": written}
    emit_output(report, form=form, text=lambda: print_label_report(report, ("lists", "written")))


def convert_labels_command(
    file: Lists,
    output: Folder,
    collection: Collection = None,
    cut_words: Annotated[
        int | None, typer.Option(min=1, help="Truncate titles and bodies to at most this many words.")
    ] = None,
    by: Annotated[
        str,
        typer.Option(help="Labels in FlagEmbedding files: scores (if there are any), or kind (positive, negative)."),
    ] = "scores",
    seed: Annotated[int, typer.Option(help="Seed for the input order of texts from FlagEmbedding files.")] = 0,
    form: FormatOption = "text",
) -> None:
    """Convert lists of any format, with their texts, to a folder with docs.jsonl, queries.jsonl and labels.jsonl.

    The folder can be used as the collection jsonl:FOLDER.
    """
    from rerank.finetune.labels.augment import truncate_training_texts
    from rerank.finetune.labels.list_files import read_label_lists_of_file
    from rerank.finetune.labels.list_texts import write_label_folder, write_label_folder_marker

    if by not in ("scores", "kind"):
        raise UsageError(f"--by is {by!r}", expected="scores or kind")
    skipped: Counter[str] = Counter()
    lists = read_label_lists_of_file(
        file, open_collection_option(collection), seed=seed, use_scores=by == "scores", skipped=skipped
    )
    texts = (
        lists if cut_words is None else (truncate_training_texts(training_list, cut_words) for training_list in lists)
    )
    written = write_label_folder(texts, output)
    if not written.lists:
        raise DataError(f"{file} contains no usable list ({format_printed_skip_reasons(skipped)})")
    report = {"output": str(output), **vars(written), "skipped": dict(skipped)}
    write_label_folder_marker(output, {"convert": {"file": file.name, **report}})
    emit_output(report, form=form, text=lambda: print_label_report(report, ("lists", "queries", "documents")))


def _word_counts_for_filter_command(labels: Sequence[LabelList], collection: str | None) -> dict[str, int]:
    from rerank.finetune.labels.list_texts import document_lengths_of_labels

    if collection is None:
        raise UsageError("--min-words and --max-words need --collection", expected="the collection with the texts")
    return document_lengths_of_labels(labels, open_collection_option(collection))


def _check_output_option(file: Path, output: Path) -> None:
    from rerank.io.text_files import check_file_writable

    check_file_writable(output)
    if file.resolve() == output.resolve():
        raise UsageError(f"--output {output} is the input file", expected="another file")


def _refuse_empty_label_file(selected: Sequence[object], dropped: Mapping[str, int], file: Path) -> None:
    if not selected:
        raise DataError(
            f"No list of {file} meets the conditions ({format_printed_skip_reasons(dropped)})",
            remedy="Relax the conditions",
        )
