"""`label filter`, `augment`, `convert`: lists in, lists out. Knows no teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.groups import unfolded
from rerank.cli.labelreading import Collection, Folder, Labels, Lists, Output, Seed, opened, show, told
from rerank.cli.output import FormatOption, emit
from rerank.errors import DataError, UsageError

if TYPE_CHECKING:
    from rerank.finetune.labels.lists import LabelList

_FILTER = "Example: rerank label filter labels.jsonl --max-tau 0.9 --min-docs 10 -o kept.jsonl"
_AUGMENT = "Example: rerank label augment labels.jsonl --shuffle --draw --docs 20 --copies 2 --keep -o more.jsonl"
_CONVERT = "Example: rerank label convert labels.jsonl --collection pydoc --cut-words 60 -o lists"


def register(group: typer.Typer) -> None:
    """Add the commands to the group `label`."""
    group.command("filter", epilog=_FILTER)(unfolded(filter_lists))
    group.command("augment", epilog=_AUGMENT)(unfolded(augment))
    group.command("convert", epilog=_CONVERT)(convert)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What passes."""

    min_tau: Annotated[float | None, typer.Option(help="Least agreement, Kendall's tau from -1 to 1.")] = None
    max_tau: Annotated[float | None, typer.Option(help="Most agreement.")] = None
    min_docs: Annotated[int, typer.Option(help="Fewest documents of a list.")] = 2
    max_docs: Annotated[int | None, typer.Option(help="Most documents of a list.")] = None
    min_words: Annotated[int | None, typer.Option(help="Drop shorter documents from their lists.")] = None
    max_words: Annotated[int | None, typer.Option(help="Drop longer documents from their lists.")] = None


def filter_lists(
    limits: Limits,
    *,
    file: Labels,
    output: Output,
    collection: Collection = None,
    agree_with: Annotated[
        Path | None,
        typer.Option(help="Another teacher's label file; agreement is then that of the two labels of a query."),
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Keep the lists that are worth training on, by agreement and by length.

    Agreement is Kendall's tau of the label and the list as shown, or with --agree-with that of two teachers.
    """
    from rerank.finetune.labels.files import read_labels, write_labels
    from rerank.finetune.labels.filters import Filter, filtered

    wanted = Filter(**vars(limits))
    if agree_with is not None and not wanted.compares:
        raise UsageError("--agree-with without a limit", expected="--min-tau or --max-tau, or both")
    _check_other(file, output)
    labels = list(read_labels(file))
    words = _words(labels, collection) if wanted.counts_words else None
    other = {one.qid: one for one in read_labels(agree_with)} if agree_with is not None else None
    dropped: Counter[str] = Counter()
    kept = list(filtered(labels, wanted, words=words, other=other, dropped=dropped))
    _refuse_empty(kept, dropped, file)
    write_labels(kept, output)
    report = {"output": str(output), "lists": len(labels), "kept": len(kept), "dropped": dict(dropped)}
    emit(report, form=form, text=lambda: show(report, ("lists", "kept")))


@dataclass(frozen=True, kw_only=True)
class Variation:
    """What is made of each list."""

    shuffle: Annotated[bool, typer.Option("--shuffle", help="Show documents in an order drawn by chance.")] = False
    docs: Annotated[int | None, typer.Option(help="Most documents of a variant; the first ones are taken.")] = None
    draw: Annotated[
        bool, typer.Option("--draw", help="Draw the documents, and how many, from 2 to --docs or to all.")
    ] = False
    copies: Annotated[int, typer.Option(help="Variants of each list.")] = 1
    keep: Annotated[bool, typer.Option("--keep", help="Write each list itself too, before its variants.")] = False
    seed: Seed = 0


def augment(variation: Variation, *, file: Labels, output: Output, form: FormatOption = "text") -> None:
    """Write variants of lists: shuffled, with fewer documents, or both. The label keeps its order."""
    from rerank.finetune.labels.augment import Variants, varied
    from rerank.finetune.labels.files import read_labels, write_labels

    wanted = Variants(**vars(variation))
    _check_other(file, output)
    count: Counter[str] = Counter()

    def counted() -> Any:
        for one in read_labels(file):
            count["lists"] += 1
            yield one

    written = write_labels(varied(counted(), wanted), output)
    report = {"output": str(output), "lists": count["lists"], "written": written}
    emit(report, form=form, text=lambda: show(report, ("lists", "written")))


def convert(
    file: Lists,
    output: Folder,
    collection: Collection = None,
    cut_words: Annotated[
        int | None, typer.Option(min=1, help="Cut every document after so many words, title and body each.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="What labels FlagEmbedding's texts: scores (where there are some) or kind.")
    ] = "scores",
    seed: Annotated[int, typer.Option(help="For the order in which FlagEmbedding's texts are shown.")] = 0,
    form: FormatOption = "text",
) -> None:
    """Write lists of any form with their texts, as a folder of docs.jsonl, queries.jsonl and labels.jsonl.

    The folder is a collection: jsonl:FOLDER.
    """
    from rerank.finetune.labels.augment import cut_texts
    from rerank.finetune.labels.reading import read_lists
    from rerank.finetune.labels.texts import write_folder, write_mark

    if by not in ("scores", "kind"):
        raise UsageError(f"--by {by!r}", expected="scores or kind")
    skipped: Counter[str] = Counter()
    lists = read_lists(file, opened(collection), seed=seed, use_scores=by == "scores", skipped=skipped)
    given = lists if cut_words is None else (cut_texts(one, cut_words) for one in lists)
    written = write_folder(given, output)
    if not written.lists:
        raise DataError(f"{file} gives no list ({told(skipped)})")
    report = {"output": str(output), **vars(written), "skipped": dict(skipped)}
    write_mark(output, {"convert": {"file": file.name, **report}})
    emit(report, form=form, text=lambda: show(report, ("lists", "queries", "documents")))


def _words(labels: Sequence[LabelList], collection: str | None) -> dict[str, int]:
    from rerank.finetune.labels.texts import lengths

    if collection is None:
        raise UsageError(
            "--min-words or --max-words without --collection", expected="the collection that has the texts"
        )
    return lengths(labels, opened(collection))


def _check_other(file: Path, output: Path) -> None:
    from rerank.io.text_files import check_writable

    check_writable(output)
    if file.resolve() == output.resolve():
        raise UsageError(f"--output {output} is the file that is read", expected="another file")


def _refuse_empty(kept: Sequence[object], dropped: Mapping[str, int], file: Path) -> None:
    if not kept:
        raise DataError(f"No list of {file} passes ({told(dropped)})", remedy="Widen the limits")
