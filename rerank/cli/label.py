"""`label`: create, check, filter, split, augment and convert training lists, and write queries for a collection."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from rerank.cli.app import command, command_group
from rerank.cli.options import MOST_REPETITIONS, DryRun, FormatOption, ModelLoadOptions, OptionGroup
from rerank.cli.output import emit_content, emit_estimate, format_windows, print_note
from rerank.cli.run import execute_with_progress_bar, progress_bar
from rerank.cli.spec_options import takes_run_spec
from rerank.collections import open_collection
from rerank.errors import DataError, PartialFailureError, UsageError, ensure
from rerank.experiment import check_failure_rate
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.reports import Grid, make_grid
from rerank.io.text_files import check_file_writable

if TYPE_CHECKING:
    from rerank.finetune.labels.lists import LabelList, TrainingList

Lists = Annotated[
    Path,
    Argument(
        metavar="FILE", help="Label file, FlagEmbedding file or file of conversations; gzipped files are accepted."
    ),
]
Labels = Annotated[Path, Argument(metavar="FILE", help="Label file; gzipped files are accepted.")]
Output = Annotated[Path, Option("--output", "-o", help="Label file to write.")]
Folder = Annotated[Path, Option("--output", "-o", help="Folder to write.")]
Collection = Annotated[str | None, "Collection that contains the documents referenced by id."]
Against = Annotated[
    list[str] | None, "Collection, or jsonl:queries=FILE, whose queries must not be in training data; repeatable."
]
Threshold = Annotated[
    float | None, "Minimum Jaccard coefficient of trigrams for near-duplicate queries. (default: 0.7)"
]
Seed = Annotated[int, "Seed for random choices."]

group = command_group("label", "Create, check, filter, split and augment training lists.")


class MakeOptions(OptionGroup):
    """Options for creating training lists, which teachers rank."""

    output: Annotated[Path, Option("--output", "-o", help="Label file to write, one JSON object per line.")]
    teacher: Annotated[
        list[str] | None,
        "Teacher: method (a run with --method and --model), run:FILE, qrels, qrels:FILE, dense:MODEL, or any "
        "first stage; repeatable, to fuse several teachers. (default: method)",
    ] = None
    fuse: Annotated[str, "Fusion of several teachers: rrf (uses ranks), z-score or min-max (use scores)."] = "rrf"
    weights: Annotated[str, "One weight per teacher, as in 0.3+0.7. (default: all 1)"] = ""
    keep_failed: Annotated[bool, "Keep lists for which the teacher failed, in the order before the failure."] = False
    min_docs: Annotated[int, Option(min=1, help="Omit lists with fewer candidates than this.")] = 2


@command(
    "make",
    "rerank label make --collection pydoc --method multipass --model smollm2-135m --depth 30 --max-queries 20 "
    "-o labels.jsonl",
    group=group,
)
@takes_run_spec()
def make(
    spec: RunSpec, execution: Execution, labelling: MakeOptions, *, dry_run: DryRun = False, form: FormatOption = "text"
) -> None:
    """Rank candidates with a teacher and write the rankings as training lists.

    The teacher `method` writes a run folder (--out), which --resume continues. Lists without a label are omitted and
    counted.
    """
    from rerank.finetune.labels.files import write_labels
    from rerank.finetune.labels.labelling import LabellingPlan, make_labels, prepare_labelling

    plan = LabellingPlan(
        teachers=tuple(labelling.teacher or ["method"]),
        fuse=labelling.fuse,
        weights=labelling.weights,
        keep_failed=labelling.keep_failed,
        min_docs=labelling.min_docs,
    )
    check_file_writable(labelling.output, "label file")  # before the first call
    ready = prepare_labelling(spec, execution, plan, run=execute_with_progress_bar)
    if dry_run:
        emit_estimate(ready.estimate(), form)
        return
    result = make_labels(ready)
    if result.labels:
        write_labels(result.labels, labelling.output)
    report = {"output": str(labelling.output) if result.labels else None, **result.report}
    emit_content(report, _made_parts(report), form)
    for teacher in report["teachers"].values():
        if "failure_rate" in teacher:
            check_failure_rate(teacher, spec.max_failure_rate)
    result.check()


def _made_parts(report: Mapping[str, Any]) -> Iterator[Grid | str]:
    counts = [report[key] for key in ("queries", "written", "failed_lists", "silent")]
    yield make_grid(["queries", "lists", "failed", "candidates without a label"], [counts])
    yield from (f"omitted: {count}, {reason}" for reason, count in report["left_out"].items())
    for name, teacher in report["teachers"].items():
        if "windows" in teacher:
            yield f"{name}: windows: {format_windows(teacher['windows'])}; folder: {teacher['folder']}"
        elif teacher:
            yield f"{name}: {', '.join(f'{key} {value}' for key, value in teacher.items())}"
    if report["output"]:
        yield f"written: {report['output']}"


@command("check", "rerank label check labels.jsonl --collection pydoc --against jsonl:data/jsonl", group=group)
def check(
    file: Lists,
    collection: Collection = None,
    against: Against = None,
    threshold: Threshold = None,
    strict: Annotated[bool, "Exit with code 5 if surface features predict labels or a query leaks."] = False,
    form: FormatOption = "text",
) -> None:
    """Check training lists: report counts, whether surface features predict the labels, and leaked test queries.

    The check of surface features needs texts, so label files need --collection.
    """
    from rerank.finetune.labels.checking import check_labels
    from rerank.finetune.labels.splits import THRESHOLD

    labels, lists, skipped = _read_lists(file, collection)
    report = check_labels(
        labels,
        lists,
        texts=_look_up_texts(labels, collection, needed=bool(against)),
        against=_load_test_queries(against),
        threshold=THRESHOLD if threshold is None else threshold,
    )
    report = {"file": str(file), **report, "skipped": dict(skipped)}
    emit_content(report, _checked_parts(report), form)
    predicted = (report["probe"] or {}).get("warns")
    if strict and (predicted or report["leaks"]):
        raise DataError(
            f"{file}: {'surface features predict labels' if predicted else 'queries leak'}",
            remedy="Read the report above",
        )


def _read_lists(file: Path, collection: str | None) -> tuple[list[LabelList], list[TrainingList] | None, Counter[str]]:
    """Return labels by document id, the lists if their texts are known, and the number of omitted lists by reason."""
    from rerank.finetune.labels.files import open_label_records, read_label_lists_of_file, read_labels

    skipped: Counter[str] = Counter()
    form, _ = open_label_records(file)
    if form == "labels" and collection is None:
        return list(read_labels(file)), None, skipped
    lists = list(read_label_lists_of_file(file, _open_collection(collection), skipped=skipped))
    ensure(lists, f"{file} contains no usable list ({_format_reasons(skipped)})", error=DataError)
    return [training_list.to_label() for training_list in lists], lists, skipped


def _checked_parts(report: Mapping[str, Any]) -> Iterator[Grid | str]:
    sizes, probe = report["docs_per_list"], report["probe"] or {}
    rows = [
        *([name, report[name]] for name in ("lists", "queries", "documents")),
        ["documents per list", f"{sizes['min']} to {sizes['max']}, mean {sizes['mean']:.1f}"],
        ["tau of label and list", report["tau"]],
        *([name, report[name]] for name in ("unchanged", "with_scores", "repeated")),
    ]
    for feature in probe.get("features", ()):
        low, high = feature["ci"]
        rows.append([f"AUC of {feature['feature']}", f"{feature['auc']:.3f} ({low:.3f} to {high:.3f})"])
    if report["leaks"] is not None:
        rows.append(["leaks", report["leaks"]])
    yield make_grid(["", report["file"]], rows)
    yield from (f"omitted: {count} {reason}" for reason, count in report["skipped"].items())
    yield from _notes_on_leaks(report["leaking"], report["leaks"] or 0)
    if report["probe"] is None:
        yield "Surface features were not checked, because this needs texts; pass --collection"
    yield from probe.get("notes", ())


class FilterOptions(OptionGroup):
    """Conditions that training lists and their documents must meet to be kept."""

    min_tau: Annotated[float | None, "Minimum agreement (Kendall's tau, from -1 to 1)."] = None
    max_tau: Annotated[float | None, "Maximum agreement (Kendall's tau, from -1 to 1)."] = None
    min_docs: Annotated[int, "Minimum number of documents per list."] = 2
    max_docs: Annotated[int | None, "Maximum number of documents per list."] = None
    min_words: Annotated[int | None, "Remove documents with fewer words from their lists."] = None
    max_words: Annotated[int | None, "Remove documents with more words from their lists."] = None


@command("filter", "rerank label filter labels.jsonl --max-tau 0.9 --min-docs 10 -o kept.jsonl", group=group)
def filter_lists(
    limits: FilterOptions,
    *,
    file: Labels,
    output: Output,
    collection: Collection = None,
    agree_with: Annotated[
        Path | None, "Label file of another teacher; agreement is then measured between both labels of a query."
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Filter training lists by agreement and length.

    Agreement is Kendall's tau between label and input order or, with --agree-with, between the labels of two teachers.
    """
    from rerank.finetune.labels.files import read_labels, write_labels
    from rerank.finetune.labels.filters import ListFilter, filter_labels
    from rerank.finetune.labels.lists import document_lengths

    list_filter = ListFilter(**vars(limits))
    if agree_with is not None and not list_filter.uses_agreement:
        raise UsageError("--agree-with is given without a limit", expected="--min-tau or --max-tau, or both")
    _check_output(file, output)
    labels = list(read_labels(file))
    words = None
    if list_filter.counts_words:
        if collection is None:
            raise UsageError("--min-words and --max-words need --collection", expected="the collection with the texts")
        words = document_lengths(labels, _open_collection(collection))
    other = {label.qid: label for label in read_labels(agree_with)} if agree_with is not None else None
    dropped: Counter[str] = Counter()
    if not (selected := list(filter_labels(labels, list_filter, words=words, other=other, dropped=dropped))):
        raise DataError(
            f"No list of {file} meets the conditions ({_format_reasons(dropped)})", remedy="Relax the conditions"
        )
    write_labels(selected, output)
    report = {"output": str(output), "lists": len(labels), "kept": len(selected), "dropped": dict(dropped)}
    emit_content(report, _written_parts(report, "lists", "kept"), form)


class LeakOptions(OptionGroup):
    """Options for the search for leaks: training queries that are identical or similar to a test query."""

    collection: Collection = None
    against: Against = None
    threshold: Threshold = None
    drop_leaks: Annotated[bool, "Omit lists with leaking queries from train."] = False
    leak_check: Annotated[
        bool, Option("--leak-check/--no-leak-check", help="Search for leaks, which needs the texts of the queries.")
    ] = True


@command(
    "split", "rerank label split labels.jsonl --dev 0.2 --against jsonl:data/jsonl --drop-leaks -o split", group=group
)
def split(
    leaks: LeakOptions,
    *,
    file: Labels,
    output: Folder,
    dev: Annotated[float, "Fraction of the queries for validation during training."] = 0.1,
    test: Annotated[float, "Fraction of the queries for the final test."] = 0.0,
    seed: Seed = 0,
    form: FormatOption = "text",
) -> None:
    """Split lists by query into train.jsonl, dev.jsonl and test.jsonl, and check for leaks.

    The part of a query depends only on its words and the seed. A leak is a query in train that is identical or nearly
    identical to a query in another part or in --against.
    """
    from rerank.finetune.labels import splits
    from rerank.finetune.labels.checking import SHOWN
    from rerank.finetune.labels.files import read_labels
    from rerank.finetune.labels.splits import THRESHOLD

    shares = splits.SplitShares(dev=dev, test=test, seed=seed)
    if not leaks.leak_check and (leaks.against or leaks.drop_leaks):
        raise UsageError("--no-leak-check is given with --against or --drop-leaks", expected="the leak check")
    labels = list(read_labels(file))
    texts = _look_up_texts(labels, leaks.collection, needed=leaks.leak_check)
    parts = splits.split_labels(labels, shares, texts=texts)
    all_leaks = []
    if leaks.leak_check:
        test_queries = _load_test_queries(leaks.against)
        threshold = THRESHOLD if leaks.threshold is None else leaks.threshold
        all_leaks = splits.find_split_leaks(parts, texts, against=test_queries, threshold=threshold)
    if not (train := splits.remove_leaking_lists(parts["train"], all_leaks) if leaks.drop_leaks else parts["train"]):
        raise DataError(
            "All lists of the part train contain leaking queries",
            expected="lists without leaks",
            remedy="Label other queries, or raise --threshold",
        )
    shown = [asdict(leak) for leak in all_leaks[:SHOWN]]
    report = {
        "output": str(output),
        **splits.write_split({**parts, "train": train}, output),
        "leaks": len(all_leaks) if leaks.leak_check else None,
        "dropped": len(parts["train"]) - len(train),
        "leaking": shown,
    }
    notes = _notes_on_leaks(shown, len(all_leaks), dropped=leaks.drop_leaks)
    emit_content(report, [*_written_parts(report, "train", "dev", "test", "leaks"), *notes], form)


class AugmentOptions(OptionGroup):
    """Options for augmentation: how many variants of each training list are written, and how they differ."""

    shuffle: Annotated[bool, "Shuffle the input order of the documents."] = False
    docs: Annotated[int | None, "Maximum number of documents per variant; the first documents are kept."] = None
    draw: Annotated[bool, "Draw a random number of random documents, from 2 to --docs (or to all)."] = False
    copies: Annotated[int, Option(max=MOST_REPETITIONS, help="Number of variants per list.")] = 1
    keep: Annotated[bool, "Also write each original list before its variants."] = False
    seed: Seed = 0


@command(
    "augment",
    "rerank label augment labels.jsonl --shuffle --draw --docs 20 --copies 2 --keep -o more.jsonl",
    group=group,
)
def augment(variation: AugmentOptions, *, file: Labels, output: Output, form: FormatOption = "text") -> None:
    """Write variants of labeled lists: with shuffled input, fewer documents, or both. Target rankings stay the same."""
    from rerank.finetune.labels.files import read_labels, write_labels
    from rerank.finetune.labels.filters import Augmentation, augment_lists

    augmentation = Augmentation(**vars(variation))
    _check_output(file, output)
    count = 0

    def counted() -> Iterator[LabelList]:
        nonlocal count
        for count, label in enumerate(read_labels(file), 1):  # noqa: B007 (the last number is the count)
            yield label

    written = write_labels(augment_lists(counted(), augmentation), output)
    report = {"output": str(output), "lists": count, "written": written}
    emit_content(report, _written_parts(report, "lists", "written"), form)


@command("convert", "rerank label convert labels.jsonl --collection pydoc --cut-words 60 -o lists", group=group)
def convert(
    file: Lists,
    output: Folder,
    collection: Collection = None,
    cut_words: Annotated[
        int | None, Option(min=1, help="Truncate titles and bodies to at most this many words.")
    ] = None,
    by: Annotated[
        str, "Labels in FlagEmbedding files: scores (if there are any), or kind (positive, negative)."
    ] = "scores",
    seed: Annotated[int, "Seed for the input order of texts from FlagEmbedding files."] = 0,
    form: FormatOption = "text",
) -> None:
    """Convert lists of any format, with their texts, to a folder with docs.jsonl, queries.jsonl and labels.jsonl.

    The folder can be used as the collection jsonl:FOLDER.
    """
    from rerank.finetune.labels.files import read_label_lists_of_file
    from rerank.finetune.labels.filters import truncate_texts
    from rerank.finetune.labels.lists import mark_folder, write_folder

    ensure(by in ("scores", "kind"), f"--by is {by!r}", expected="scores or kind")
    skipped: Counter[str] = Counter()
    lists = read_label_lists_of_file(
        file, _open_collection(collection), seed=seed, use_scores=by == "scores", skipped=skipped
    )
    if cut_words is not None:
        lists = (truncate_texts(training_list, cut_words) for training_list in lists)
    written = write_folder(lists, output)
    ensure(written["lists"], f"{file} contains no usable list ({_format_reasons(skipped)})", error=DataError)
    report = {"output": str(output), **written, "skipped": dict(skipped)}
    mark_folder(output, {"convert": {"file": file.name, **report}})
    emit_content(report, _written_parts(report, "lists", "queries", "documents"), form)


def _written_parts(report: Mapping[str, Any], *keys: str) -> Iterator[Grid | str]:
    """Yield the counts under ``keys`` as a table with one row, and the numbers of omitted lists."""
    yield make_grid(keys, [[report[key] for key in keys]])
    for name in ("dropped", "skipped"):
        if isinstance(report.get(name), dict):
            yield from (f"omitted: {count} {reason}" for reason, count in report[name].items())
        elif report.get(name):
            yield f"omitted from train: {report[name]} lists"
    yield f"written: {report['output']}"


def _look_up_texts(labels: Sequence[LabelList], collection: str | None, *, needed: bool) -> dict[str, str]:
    """Return a mapping from query id to query text, taken from the labels or else from the collection."""
    from rerank.finetune.labels.lists import query_texts

    texts = query_texts(labels, _open_collection(collection))
    missing = {label.qid for label in labels} - set(texts)
    if needed and missing:
        raise UsageError(
            f"{len(missing)} of {len({label.qid for label in labels})} queries have no text, such as {min(missing)!r}",
            expected="texts of all queries, to find leaks",
            remedy="Pass the collection that contains the queries with --collection",
        )
    return texts


def _load_test_queries(selectors: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """Load the queries of test collections, as a mapping from selector to a mapping from query id to text."""
    queries = {name: {query.id: query.text for query in open_collection(name).queries()} for name in selectors or ()}
    if empty := [name for name, texts in queries.items() if not texts]:
        raise DataError(f"The collection {empty[0]!r} has no queries", remedy="Remove it from --against")
    return queries


def _notes_on_leaks(leaking: Sequence[Mapping[str, Any]], count: int, *, dropped: bool = False) -> Iterator[str]:
    """Yield notes on ``count`` training queries that are like a test query, of which those in ``leaking`` are shown."""
    for leak in leaking:
        kind = "identical" if leak["exact"] else f"similar ({leak['similarity']:.2f})"
        yield f"leak: {leak['train_text']!r} and {leak['test_text']!r} of {leak['where']} are {kind}"
    if count > len(leaking):
        yield f"and {count - len(leaking)} more leaks"
    if count and not dropped:
        yield "warning: queries leak; drop them with `rerank label split --drop-leaks`"


def _check_output(file: Path, output: Path) -> None:
    check_file_writable(output, "label file")
    ensure(file.resolve() != output.resolve(), f"--output {output} is the input file", expected="another file")


def _open_collection(collection: str | None) -> Any:
    return open_collection(collection) if collection is not None else None


def _format_reasons(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counted.items()) or "it contains none"


class QuerySourceOptions(OptionGroup):
    """Options for creating queries from the documents of a collection."""

    source: Annotated[
        str,
        Option(
            "--from", help="Source of queries: title or first-sentence of documents, or llm (generated by a model)."
        ),
    ]
    count: Annotated[int | None, "Number of documents to draw at random. (default: all)"] = None
    min_words: Annotated[int, "Minimum number of words of a query."] = 3
    max_words: Annotated[int, "Maximum number of words of a query."] = 32
    first_stage: Annotated[str, "First stage that must find the document of a query for the query to be kept."] = "bm25"
    within: Annotated[int, "Depth within which the first stage must find the document; 0 keeps all queries."] = 20
    seed: Seed = 0


class QueryModelOptions(ModelLoadOptions):
    """Options for the model that generates queries."""

    panel = "Model"

    model: Annotated[str | None, "Model that generates queries."] = None
    each: Annotated[
        int | None, Option(min=1, max=MOST_REPETITIONS, help="Number of queries generated per document. (default: 1)")
    ] = None
    temperature: Annotated[
        float | None, "Sampling temperature; must be above 0 for several queries per document. (default: 0)"
    ] = None
    prompt: Annotated[str | None, "Prompt file for one passage. (default: the built-in prompt)"] = None

    def writer(self, source: str, seed: int) -> Any:
        """Return a query writer with a loaded model for ``--from llm``; None for other sources."""
        model_options = [name for name, value in vars(self).items() if value is not None]
        if source != "llm":
            if model_options:
                raise UsageError(
                    f"--{model_options[0].replace('_', '-')} is given with --from {source}",
                    expected="no model options, because no model is used",
                    remedy="Add --from llm, or omit the option",
                )
            return None
        if self.model is None:
            raise UsageError("--from llm needs --model", expected="a generative model", remedy="Add --model NAME")
        from rerank.finetune.labels.queries import QueryWriter, open_query_prompt
        from rerank.models import open_model_backend

        template = open_query_prompt(self.prompt)
        return QueryWriter(
            backend=open_model_backend(self.model, self.options()),
            template=template,
            each=self.each or 1,
            temperature=self.temperature or 0.0,
            seed=seed,
        )


@command("queries", "rerank label queries --collection pydoc --from first-sentence --count 50 -o queries", group=group)
def write_queries(
    source: QuerySourceOptions,
    model: QueryModelOptions,
    *,
    collection: Annotated[str, "Collection that contains the documents."],
    output: Annotated[Path, Option("--output", "-o", help="Folder to write, usable as the collection jsonl:FOLDER.")],
    form: FormatOption = "text",
) -> None:
    """Create queries from documents and keep the queries for which the first stage finds their source document.

    The folder contains docs.jsonl, queries.jsonl and qrels.txt. If queries are titles or first sentences, these are
    removed from all documents, so that relevant documents look like the others. A model's replies are logged in the
    folder and reused.
    """
    from rerank.finetune.labels.queries import QueryOptions, make_synthetic_queries

    options = QueryOptions(**vars(source))
    opened = open_collection(collection)
    writer = model.writer(options.source, options.seed)
    total = (options.count or 0) * (writer.each if writer is not None else 0)
    try:
        with progress_bar("queries", total) as on_reply:
            report = make_synthetic_queries(opened, options, output, writer=writer, on_reply=on_reply)
    except KeyboardInterrupt:
        print_note("Stopped. Committed replies are kept; the same command continues.")
        sys.exit(130)
    parts: list[Grid | str] = [
        make_grid(["documents", "queries"], [[report["documents"], report["queries"]]]),
        *(f"omitted: {count} {reason}" for reason, count in report["dropped"].items()),
        f"folder: {report['folder']}",
    ]
    emit_content(report, parts, form)
    if unanswered := report["dropped"].get("no reply"):
        raise PartialFailureError(
            f"{unanswered} calls failed", expected="a reply to every call", remedy="Run the command again to retry"
        )
