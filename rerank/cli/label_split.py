"""`label split`: split training lists by query and check for leaks between the parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from rerank.cli.label_options import (
    Against,
    Collection,
    Folder,
    Labels,
    Seed,
    Threshold,
    load_test_queries_option,
    look_up_texts_option,
    print_label_report,
    print_leaks_note,
    resolve_threshold_option,
)
from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit_output
from rerank.errors import DataError, UsageError

_SPLIT = "Example: rerank label split labels.jsonl --dev 0.2 --against jsonl:data/jsonl --drop-leaks -o split"


def register_cli_commands(group: typer.Typer) -> None:
    """Add the command to the group `label`."""
    group.command("split", epilog=_SPLIT)(expand_option_groups(split_labels_command))


@dataclass(frozen=True, kw_only=True)
class LeakOptions:
    """Options for the search for leaks: training queries that are identical or similar to a test query."""

    collection: Collection = None
    against: Against = None
    threshold: Threshold = None
    drop_leaks: Annotated[bool, typer.Option("--drop-leaks", help="Omit lists with leaking queries from train.")] = (
        False
    )
    leak_check: Annotated[
        bool,
        typer.Option("--leak-check/--no-leak-check", help="Search for leaks, which needs the texts of the queries."),
    ] = True


def split_labels_command(
    leaks: LeakOptions,
    *,
    file: Labels,
    output: Folder,
    dev: Annotated[float, typer.Option(help="Fraction of the queries for validation during training.")] = 0.1,
    test: Annotated[float, typer.Option(help="Fraction of the queries for the final test.")] = 0.0,
    seed: Seed = 0,
    form: FormatOption = "text",
) -> None:
    """Split lists by query into train.jsonl, dev.jsonl and test.jsonl, and check for leaks.

    The part of a query depends only on its words and the seed. A leak is a query in train that is identical or nearly
    identical to a query in another part or in --against.
    """
    from rerank.finetune.labels.checking import SHOWN
    from rerank.finetune.labels.label_files import read_labels
    from rerank.finetune.labels.splits import SplitShares, find_split_leaks, remove_leaking_lists, write_label_split
    from rerank.finetune.labels.splits import split_labels as share_out

    shares = SplitShares(dev=dev, test=test, seed=seed)
    if not leaks.leak_check and (leaks.against or leaks.drop_leaks):
        raise UsageError("--no-leak-check is given with --against or --drop-leaks", expected="the leak check")
    labels = list(read_labels(file))
    texts = look_up_texts_option(labels, leaks.collection, needed=leaks.leak_check)
    parts = share_out(labels, shares, texts=texts)
    all_leaks = []
    if leaks.leak_check:
        test_queries = load_test_queries_option(leaks.against)
        all_leaks = find_split_leaks(
            parts, texts, against=test_queries, threshold=resolve_threshold_option(leaks.threshold)
        )
    train = remove_leaking_lists(parts.train, all_leaks) if leaks.drop_leaks else parts.train
    if not train:
        raise DataError(
            "All lists of the part train contain leaking queries",
            expected="lists without leaks",
            remedy="Label other queries, or raise --threshold",
        )
    shown = [leak.to_dict() for leak in all_leaks[:SHOWN]]
    report = {
        "output": str(output),
        **write_label_split(replace(parts, train=train), output),
        "leaks": len(all_leaks) if leaks.leak_check else None,
        "dropped": len(parts.train) - len(train),
        "leaking": shown,
    }
    emit_output(report, form=form, text=lambda: print_label_report(report, ("train", "dev", "test", "leaks")))
    if form == "text":
        print_leaks_note(shown, len(all_leaks), dropped=leaks.drop_leaks)
