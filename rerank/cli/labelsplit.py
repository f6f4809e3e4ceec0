"""`label split`: lists shared out by query, and the check that none is on both sides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from rerank.cli.groups import unfolded
from rerank.cli.labelreading import (
    Against,
    Collection,
    Folder,
    Labels,
    Seed,
    Threshold,
    known_texts,
    queries_of,
    say_leaks,
    show,
    threshold_of,
)
from rerank.cli.output import FormatOption, emit
from rerank.errors import DataError, UsageError

_SPLIT = "Example: rerank label split labels.jsonl --dev 0.2 --against jsonl:data/jsonl --drop-leaks -o split"


def register(group: typer.Typer) -> None:
    """Add the command to the group `label`."""
    group.command("split", epilog=_SPLIT)(unfolded(split))


@dataclass(frozen=True, kw_only=True)
class Leaking:
    """What must not be on both sides."""

    collection: Collection = None
    against: Against = None
    threshold: Threshold = None
    drop_leaks: Annotated[bool, typer.Option("--drop-leaks", help="Leave lists whose queries leak out of train.")] = (
        False
    )
    leak_check: Annotated[
        bool, typer.Option("--leak-check/--no-leak-check", help="Look for leaks; needs the queries' texts.")
    ] = True


def split(
    leaking: Leaking,
    *,
    file: Labels,
    output: Folder,
    dev: Annotated[float, typer.Option(help="Share of the queries that training is watched with.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the queries that are kept for the end.")] = 0.0,
    seed: Seed = 0,
    form: FormatOption = "text",
) -> None:
    """Split lists by query into train.jsonl, dev.jsonl and test.jsonl, and see that no query is on both sides.

    Which part a query gets depends on its words and the seed alone. Leaks are queries of train that stand in another
    part or in --against, word for word or nearly so.
    """
    from rerank.finetune.labels.checking import SHOWN
    from rerank.finetune.labels.files import read_labels
    from rerank.finetune.labels.splits import Shares, leaks_of, without, write_split
    from rerank.finetune.labels.splits import split as share_out

    shares = Shares(dev=dev, test=test, seed=seed)
    if not leaking.leak_check and (leaking.against or leaking.drop_leaks):
        raise UsageError("--no-leak-check with --against or --drop-leaks", expected="one or the other")
    labels = list(read_labels(file))
    texts = known_texts(labels, leaking.collection, needed=leaking.leak_check)
    made = share_out(labels, shares, texts=texts)
    found = []
    if leaking.leak_check:
        held = queries_of(leaking.against)
        found = leaks_of(made, texts, against=held, threshold=threshold_of(leaking.threshold))
    train = without(made.train, found) if leaking.drop_leaks else made.train
    if not train:
        raise DataError("Every list to train on leaks", remedy="Label other queries, or raise --threshold")
    leaking_pairs = [leak.to_dict() for leak in found[:SHOWN]]
    report = {
        "output": str(output),
        **write_split(replace(made, train=train), output),
        "leaks": len(found) if leaking.leak_check else None,
        "dropped": len(made.train) - len(train),
        "leaking": leaking_pairs,
    }
    emit(report, form=form, text=lambda: show(report, ("train", "dev", "test", "leaks")))
    if form == "text":
        say_leaks(leaking_pairs, len(found), dropped=leaking.drop_leaks)
