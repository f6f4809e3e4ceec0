"""Execution of a prepared run in a run folder, from the first call to the summary, and the display of its progress."""

from __future__ import annotations

import json
import logging
import math
import platform
import re
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from rerank.assemble import assembly_defaults
from rerank.calibration import first_stage_of_calibration
from rerank.engines import RankingJob, open_engine
from rerank.errors import PartialFailureError, UsageError
from rerank.evaluation import evaluate_run
from rerank.evaluation.measures import evaluation_overlap_note
from rerank.experiment.candidates import order_list
from rerank.experiment.estimate import OnBatch, answer_beforehand, collect_requests, longest_request
from rerank.experiment.prepare import PreparedRun, prepare_run
from rerank.experiment.spec import LATER_KEYS, Execution, RunSpec, complete_spec_from_file
from rerank.io.paths import last_component, named_path_errors, portable_name
from rerank.io.run_files import open_trec_run_file
from rerank.io.text_files import replace_text_file
from rerank.judges import FAILURES
from rerank.lm.model_files import ModelFiles, cached_snapshot
from rerank.models import source_of_model
from rerank.models.prices import find_model_prices
from rerank.pipeline.results import RankedList, count_statuses
from rerank.pipeline.stream import Flow
from rerank.progress import format_time_left, show_detailed_progress
from rerank.reranker.calls import calibrate_list
from rerank.selector import Selector
from rerank.store import RunFolder, hash_identity, log_calls, open_shared_cache
from rerank.store.run_folder import JudgeScores, open_judge_scores
from rerank.tasks import Backend, Reply
from rerank.tasks.backends import BackendWrapper, lacks_commit, traits
from rerank.tasks.requests import Usage
from rerank.types import Qrels, Ranking, Run

#: A callback that is called with each reply.
OnReply = Callable[[Reply], None]
#: Names of the Python distributions whose versions are recorded in a run folder.
_RECORDED = ("listrank", "torch", "transformers", "peft", "bm25s", "ir-measures", "pytrec-eval-terrier", "numpy")


@named_path_errors()
def run_experiment(
    spec: RunSpec,
    execution: Execution | None = None,
    *,
    on_reply: OnReply = lambda reply: None,
    on_batch: OnBatch = lambda status: None,
) -> dict[str, Any]:
    """Prepare and execute a run and return its summary.

    If it cannot be prepared or executed, a `RerankError` says why; committed calls are kept.
    """
    execution = execution or Execution()
    check_run_folder(execution)
    return execute_run(prepare_run(spec, execution), execution, on_reply=on_reply, on_batch=on_batch)


def execute_run(
    prepared: PreparedRun,
    execution: Execution,
    *,
    on_reply: OnReply = lambda reply: None,
    on_batch: OnBatch = lambda status: None,
) -> dict[str, Any]:
    """Execute a prepared run. If its folder already contains the finished run, only score it again.

    The result is the content of summary.json: folder, queries, scores, windows, calls, tokens_in and more.
    """
    folder = RunFolder(execution.out or folder_of_run(prepared))
    if not execution.overwrite:
        prepared = continue_without_commit(prepared, folder)
    identity = prepared.identity()
    name = hash_identity(identity)
    queries = prepared.lists.survey.queries
    if execution.overwrite or not (folder.path / "spec.json").is_file():
        share = math.ceil(queries / execution.workers) if execution.workers else None
        flow = Flow.of(prepared.backend, reuse=execution.reuse and not execution.deterministic, share=share)
    else:  # a resumed run forms the same batches
        recorded = folder.spec().get("flow")
        flow = Flow.unbounded(prepared.backend) if recorded is None else Flow.from_json(recorded)
    document = {
        "hash": name,
        "spec": prepared.spec.recorded(),
        "identity": identity,
        "dataset": {"name": prepared.collection.name, "fingerprint": prepared.collection.fingerprint},
        "environment": describe_environment(),
        "sources": _describe_sources(prepared),
        "flow": flow.to_json(),
    }
    with closing(open_engine(execution.engine, **execution.engine_options())) as engine:
        # before the folder is created, so that an error leaves no folder
        batched = None
        if not folder.finished:
            traits(prepared.backend).expect_requests(partial(longest_request, prepared))
            engine.start(prepared.backend)
            batched = collect_requests(prepared) if execution.provider_batch else None
        with folder.begin(document, resume=execution.resume, overwrite=execution.overwrite):
            if folder.finished:
                return _rescore(prepared, folder)
            folder.write_candidates(prepared.lists, prepared.lists.name)
            if passages := prepared.setup.passages:
                folder.write_passages(map(passages.expand, prepared.lists))
            files = {name: folder.file_hash(name) for name in ("first_stage.trec", "queries.jsonl")}
            folder.write_json("spec.json", folder.spec() | {"files": files})

            in_progress: deque[Ranking] = deque()

            def read() -> Iterator[Ranking]:
                for candidates in prepared.lists:
                    in_progress.append(candidates)
                    yield order_list(candidates, prepared.spec)

            shared = execution.call_cache if execution.call_cache is not None else prepared.backend.costs_money
            tag, tally, rankings = run_tag(prepared.spec), RunTally(), list[Ranking]()
            with (
                folder.calls(prompts=execution.log_prompts) as log,
                open_shared_cache() if shared else nullcontext() as cache,
                open_result_files(folder, prepared, tag) as write,
            ):
                backend = log_calls(
                    prepared.backend,
                    log,
                    cache=cache,
                    max_total_tokens=execution.max_total_tokens,
                    batch_characters=flow.batch_characters,
                    on_reply=on_reply,
                )
                answer_beforehand(prepared, backend, folder, batched, on_batch)
                job = RankingJob(
                    setup=prepared.setup.with_commit_of(prepared.backend),
                    judge=prepared.judge,
                    top_k=prepared.spec.top_k,
                    flow=flow,
                    queries=queries,
                    qrels=prepared.qrels or None,
                )
                lists = engine.rank(read(), job, backend)
                # after an error, the engine is stopped before the log is closed
                with closing(cast(Any, lists)) if hasattr(lists, "close") else nullcontext():
                    for ranked in lists:
                        write(in_progress.popleft(), ranked)
                        tally.add(ranked)
                        if prepared.qrels:  # rankings are kept only to be scored
                            rankings.append(ranked.ranking)
                tally.unmatched_calls = log.set_aside_unmatched(backend.used)
            if tally.blank:
                _log.warning("%d of %d queries are empty, so their documents keep their order", tally.blank, queries)
            scores = _write_scores(prepared, folder, Run(rankings, name=tag))
            summary = summarise_run(prepared.spec, tally, backend.usage, queries=queries, scores=scores)
            summary = {"folder": str(folder.path), "hash": name, **summary}
            files |= {name: sha for name in _HASHED if (sha := folder.file_hash(name))}
            record = {"engine": dict(engine.record())} if engine.record() else {}
            folder.write_json("spec.json", folder.spec() | {"files": files} | record)
            folder.write_json("summary.json", summary)
            return summary


def check_run_folder(execution: Execution) -> None:
    """Check that a run can be written to the output folder, before anything is searched or loaded.

    Raises:
        UsageError: The folder contains files that do not belong to a run.
        StorageError: The folder cannot be created or written.
    """
    if execution.out:
        RunFolder(execution.out).check_path(overwrite=execution.overwrite)


def check_failure_rate(summary: dict[str, Any], max_failure_rate: float) -> None:
    """Check that no more windows failed than allowed; all results are already saved."""
    rate = summary["failure_rate"]
    if rate > max_failure_rate:
        counts = ", ".join(f"{summary['windows'][status]} {status}" for status in sorted(FAILURES))
        first = "; ".join(f"query {f['query']}: {f['detail'] or f['status']}" for f in summary["failures"][:3])
        # --resume repeats only calls without a reply; a reply that could not be parsed would not change.
        remedy = "try another --prompt or model, or accept the failures with --max-failure-rate"
        if summary["windows"]["error"]:
            remedy = "--resume repeats the calls without a reply"
        raise PartialFailureError(
            f"{rate:.0%} of the windows failed ({counts}). {first}",
            expected=f"at most {max_failure_rate:.0%} (--max-failure-rate)",
            remedy=f"The results are saved in {summary['folder']!r}; {remedy}",
        )


def default_run_folder(spec: RunSpec, name: str) -> Path:
    """Return the default folder of a run, named by method, model and hash of the run's identity."""
    return Path("runs") / portable_name(f"{f'{run_tag(spec)}-{last_component(spec.model)}'[:200]}-{name[:12]}")


def folder_of_run(prepared: PreparedRun, parent: Path = Path("runs")) -> Path:
    """Return the folder of a run below ``parent``: its own, or that of the same run before commits were recorded."""
    identity = prepared.identity()
    folder = parent / default_run_folder(prepared.spec, hash_identity(identity)).name
    model = identity["model"]
    if folder.exists() or not model.get("revision"):
        return folder
    earlier = identity | {"model": model | {"revision": prepared.spec.revision or ""}}
    without_commit = parent / default_run_folder(prepared.spec, hash_identity(earlier)).name
    return without_commit if without_commit.exists() else folder


def run_tag(spec: RunSpec) -> str:
    """Return the run tag for run.trec, which is the method or, with an adapter, the adapter's name.

    With an adapter, the method follows if it is not the adapter's own. A method whose options contain paths, such as
    the path of a list of attention heads in the adapter's folder, counts as the adapter's own. If passages are judged,
    the tag ends with the options for passages.
    """
    method = spec.shown_method
    if spec.adapter:
        method = Path(spec.adapter).name + ("" if method != spec.method else f"-{method}")
    passages = "" if spec.passages is None else f"-passages-{spec.passages}"
    return (method + passages).translate(str.maketrans(":,=", "---"))


def describe_environment() -> dict[str, str]:
    """Return versions, platform, command and start time; they are recorded, but not part of the run's identity."""
    versions = {"python": platform.python_version(), "platform": platform.platform(), "command": " ".join(sys.argv[:2])}
    for distribution in _RECORDED:
        try:
            versions[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return versions | {"started": datetime.now(UTC).isoformat(timespec="seconds")}


def _describe_sources(prepared: PreparedRun) -> dict[str, Any]:
    """Return where the model and the adapter are from; empty for a model that is not loaded from files."""
    files: ModelFiles | None = traits(prepared.backend).files
    folder: Path | None = traits(prepared.backend).settings_folder
    if files is None:
        return {}
    sources = {"model": source_of_model(files)}
    if prepared.setup.config.adapter and folder:
        sources["adapter"] = source_of_model(cached_snapshot(folder))
    return sources


def _rescore(prepared: PreparedRun, folder: RunFolder) -> dict[str, Any]:
    files = folder.spec().get("files", {})
    folder.check_files(without="qrels.trec")  # which may be replaced below
    summary = folder.read_json("summary.json", "calls") | {"folder": str(folder.path)}
    if prepared.qrels:  # without judgments, the recorded scores are kept
        summary |= summarise_scores(_write_scores(prepared, folder, folder.read_run("run.trec")))
        if files:
            files["qrels.trec"] = folder.file_hash("qrels.trec")
            folder.write_json("spec.json", folder.spec() | {"files": files})
    summary |= {"method": prepared.spec.shown_method, "model": prepared.spec.model, "depth": prepared.spec.depth}
    folder.write_json("summary.json", summary)
    return summary | {"reused_calls": summary["calls"]}


def _write_scores(prepared: PreparedRun, folder: RunFolder, result: Run) -> dict[str, Any] | None:
    if not prepared.qrels:
        return None  # before the candidates are read into memory
    spec = prepared.spec
    scores = score_runs(
        prepared.qrels, result, prepared.first_stage, measures=spec.measures, relevant=prepared.relevant
    )
    if scores is not None:
        folder.write_qrels(prepared.qrels)
        folder.write_json("scores.json", scores)
    return scores


def judge_scores_of_list(ranked: RankedList) -> JudgeScores:
    """Return the scores of a reranked list as a line of judge_scores.jsonl."""
    scores = dict(zip(ranked.ranking.doc_ids, ranked.scores, strict=True)) if ranked.score_kind else {}
    if ranked.score_kind is None or all(score is None for score in scores.values()):
        return JudgeScores(query=ranked.ranking.query.id)
    return JudgeScores(query=ranked.ranking.query.id, kind=ranked.score_kind.name, scores=scores)


@contextmanager
def open_result_files(
    folder: RunFolder, prepared: PreparedRun, name: str
) -> Generator[Callable[[Ranking, RankedList], None]]:
    """Yield a function that writes the results of one list, given its candidates in first-stage order.

    All files are replaced when the block ends, or none if it ends with an error.
    """
    with ExitStack() as stack:  # files are replaced in reverse order: run.trec, the sign of a finished run, is the last
        write_run = stack.enter_context(open_trec_run_file(folder.path / "run.trec", name))
        write_relevance = None
        if prepared.calibration is not None:
            relevance = open_relevance_file(folder.path / "relevance.jsonl", prepared)
            write_relevance = stack.enter_context(relevance)
        write_scores = stack.enter_context(open_judge_scores(folder.path / "judge_scores.jsonl"))
        write_split = stack.enter_context(folder.open_splits())

        def write(candidates: Ranking, ranked: RankedList) -> None:
            write_run(ranked.ranking)
            write_scores(judge_scores_of_list(ranked))
            if write_relevance is not None:
                write_relevance(candidates, ranked)
            for window, capacity in ranked.split:
                write_split(window, capacity)

        yield write


@contextmanager
def open_relevance_file(path: Path, prepared: PreparedRun) -> Generator[Callable[[Ranking, RankedList], None]]:
    """Yield a function that writes calibrated probabilities of one list, given its candidates with their scores.

    The file is replaced if the block ends without an error. An empty list is not written.
    """
    calibration = prepared.calibration
    if calibration is None:
        raise UsageError("The run has no calibration", expected="a file written by `rerank calibrate`")
    name = first_stage_of_calibration(prepared.spec.first_stage)
    with replace_text_file(path) as file:

        def write(candidates: Ranking, ranked: RankedList) -> None:
            doc_ids = ranked.ranking.doc_ids
            if not doc_ids:
                return
            scores = dict(zip(candidates.doc_ids, candidates.scores, strict=False))
            calibrated = calibrate_list(calibration, ranked, [scores.get(doc) for doc in doc_ids], name)
            row = {
                "query": ranked.ranking.query.id,
                "answerable": calibrated.answerable,
                "fit": calibrated.fit,
                "relevance": dict(zip(doc_ids, calibrated.relevance, strict=True)),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield write


_log = logging.getLogger(__name__)


@named_path_errors()
def complete_resumed_spec(given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Complete a run specification from the folder of the run to resume.

    All values in spec.json, including null, override the defaults, so that a run can be resumed after a default has
    changed. If a recorded file of the adapter no longer exists at its path, for example because the run was started on
    another machine, the path is replaced by that of the same file in the adapter's folder. Without a spec.json, the
    given values specify a new run and are not changed.
    """
    if "collection" in given and not (path / "spec.json").is_file():
        return dict(given)
    document = RunFolder.existing(path).spec()
    recorded, model = document["spec"], document["identity"].get("model", {})
    # values for settings that the version that wrote spec.json lacked, so that the run behaves as then
    is_file = isinstance(model, Mapping)
    is_mixed = is_file and "adapter" in model and "adapter_dtype" not in model and model.get("dtype") != "float32"
    earlier = {"adapter_dtype": "float32"} if is_mixed and "engine" not in model else {}
    values = complete_spec_from_file(given, {**LATER_KEYS, **earlier, **recorded}, path / "spec.json")
    named: dict[str, Any] = {name: values[name] for name in ("adapter", "model") if name in values}
    for name, value in assembly_defaults(named).items():
        if name not in given and _has_moved(recorded.get(name), value):
            values[name] = value
    return values


def continue_without_commit(prepared: PreparedRun, folder: RunFolder) -> PreparedRun:
    """Return the run with the model's recorded identity if the folder is of a version that recorded no commit.

    Otherwise the run would be another one, and its logged calls could not be used. A notice is logged, because the
    weights of the first calls are not known.
    """
    if not (folder.path / "spec.json").is_file():
        return prepared
    recorded, current = folder.spec()["identity"].get("model", {}), prepared.backend.identity
    if not isinstance(recorded, Mapping) or not lacks_commit(recorded, current, prepared.spec.revision or ""):
        return prepared
    _log.warning(
        "%s was written by a version that did not record the commit of %s; the run continues with commit %s",
        folder.path,
        current["model"],
        current["revision"][:12],
    )
    backend = cast(Backend, _WithIdentity(prepared.backend, recorded))
    return replace(prepared, backend=backend, judge=prepared.judge.with_backend(backend))


class _WithIdentity(BackendWrapper):
    """A backend with another identity; everything else is that of the wrapped backend."""

    def __init__(self, backend: Backend, identity: Mapping[str, str]) -> None:
        self.backend, self._identity = backend, dict(identity)

    @property
    def identity(self) -> Mapping[str, str]:
        return self._identity


def _has_moved(recorded: object, own: object) -> bool:
    """Return whether a recorded setting differs from the adapter's only in folders, and one of its files is missing.

    A user's file may have the same name as the adapter's file; if the user's file still exists, it is the one to use.
    """
    if recorded == own or _without_folders(recorded) != _without_folders(own):
        return False
    options, own_options = (Selector.parse(str(value)).options for value in (recorded, own))
    files = [value for key, value in options.items() if value != own_options.get(key)] or [str(recorded)]
    return not all(Path(file).is_file() for file in files)


def _without_folders(value: object) -> object:
    """Return a setting with paths shortened to file names: ``heads=a/b.json`` becomes ``heads=b.json``."""
    return re.sub(r"[^=,]*/", "", value) if isinstance(value, str) else value


#: Files of a finished run whose hashes are in spec.json, in addition to those of its candidates.
_HASHED = ("run.trec", "judge_scores.jsonl", "relevance.jsonl", "splits.jsonl", "passages.jsonl", "qrels.trec")
#: Maximum number of failures that a summary lists.
NAMED_FAILURES = 20


@dataclass(kw_only=True)
class RunTally:
    """Counts over reranked lists, which a summary reports."""

    #: Number of windows per status, such as ``ok``, including statuses without windows.
    windows: dict[str, int] = field(default_factory=lambda: count_statuses(()))
    split: int = 0  # number of windows that exceeded the context and were ranked in parts
    #: The first failures, up to `NAMED_FAILURES`, each with query, status and detail.
    failures: list[dict[str, str]] = field(default_factory=list)
    passages_cut: int = 0  # number of passages that were truncated to make a prompt fit in the context
    tokens_cut: int = 0
    blank: int = 0  # number of queries without text, whose documents keep their order
    unmatched_calls: int = 0  # number of calls in the log that no request of the finished run matches

    def add(self, ranked: RankedList) -> None:
        for window, verdict in ranked.judged:
            self.windows[verdict.status] += 1
            if verdict.status in FAILURES and len(self.failures) < NAMED_FAILURES:
                failure = {"query": window.query.id, "status": str(verdict.status), "detail": verdict.detail}
                self.failures.append(failure)
        self.split += len(ranked.split)
        self.blank += not ranked.ranking.query.text.strip()
        self.passages_cut += len(ranked.dropped)
        self.tokens_cut += sum(ranked.dropped.values())

    def failure_rate(self) -> float:
        total = sum(self.windows.values())
        return sum(self.windows[status] for status in FAILURES) / total if total else 0.0


def summarise_run(
    spec: RunSpec, tally: RunTally, usage: Usage, *, queries: int, scores: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the content of summary.json without the name and hash of the folder."""
    prices = find_model_prices(spec.model)
    return {
        "method": spec.shown_method,
        "model": spec.model,
        "depth": spec.depth,
        "queries": queries,
        **summarise_scores(scores),
        "windows": tally.windows,
        "split_windows": tally.split,  # windows that exceeded the context and were ranked in parts
        "complete": not tally.windows["error"],  # if false, --resume repeats the calls without a reply
        "failure_rate": tally.failure_rate(),
        "failures": tally.failures,
        "cut": {"passages": tally.passages_cut, "tokens": tally.tokens_cut},
        **vars(usage),
        **({"unmatched_calls": tally.unmatched_calls} if tally.unmatched_calls else {}),
        "cached_share": usage.cached_share,
        "cost": None if prices is None else prices.cost(usage),
        "prices": None if prices is None else asdict(prices),
    }


def summarise_scores(scores: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the part of a summary that depends on relevance judgments and measures."""
    if scores is None:
        return {"scores": {}, "first_stage_scores": {}, "missing": 0}
    return {
        "scores": scores["run"]["mean"],
        "first_stage_scores": scores["first_stage"]["mean"],
        "missing": scores["run"]["missing"],
    }


def score_runs(
    qrels: Qrels, result: Run, first_stage: Run, *, measures: Sequence[str], relevant: int
) -> dict[str, Any] | None:
    """Return the content of scores.json: means and per-query values of both runs; None without judgments."""
    if not qrels:
        return None
    if message := evaluation_overlap_note(qrels, first_stage):
        warnings.warn(message, stacklevel=2)
    contents = {}
    for name, run in (("run", result), ("first_stage", first_stage)):
        scores = evaluate_run(qrels, run, measures, relevant=relevant)
        per_query = {measure: dict(values) for measure, values in scores.values.items()}
        contents[name] = {"mean": scores.summary(), "missing": len(scores.missing), "per_query": per_query}
    return {"measures": list(measures), "relevant": relevant, **contents}


#: Minimum number of seconds between two updates: layers report tokens more often than anyone can read.
_SECONDS_BETWEEN_UPDATES = 0.2


@contextmanager
def show_run_progress(prepared: PreparedRun, title: str = "") -> Generator[Callable[[Reply], None]]:
    """Show the progress of a run, and yield the function that `execute_run` calls with each reply.

    A local model also reports the tokens of the batch in progress, so that the speed is known before the first reply.
    """
    total = prepared.calls()
    with show_detailed_progress(title or prepared.setup.method.name, total, bound="at most") as show:
        speed, shown = RunSpeed(total), 0.0

        def on_reply(reply: Reply) -> None:
            speed.add_reply(reply)
            show(speed.calls, speed.describe())

        def on_tokens(tokens: float) -> None:
            nonlocal shown
            speed.add_tokens_in_progress(tokens)
            if (now := time.monotonic()) - shown >= _SECONDS_BETWEEN_UPDATES:
                shown = now
                show(speed.calls, speed.describe())

        backend = traits(prepared.backend)
        backend.report_tokens_to(on_tokens)
        try:
            yield on_reply
        finally:
            backend.report_tokens_to(None)


class RunSpeed:
    """Speed of a run so far. Replies that are reused from a log are counted as calls, but not for the speed."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.calls = 0
        self._total, self._clock, self._started = total, clock, clock()
        self._new_calls, self._tokens, self._in_progress = 0, 0, 0.0

    def add_reply(self, reply: Reply) -> None:
        """Count a reply; its tokens replace those counted for incomplete replies."""
        self.calls += 1
        if not reply.reused:
            self._new_calls += 1
            self._tokens += reply.tokens_in - reply.tokens_cached + reply.tokens_out
            self._in_progress = 0.0

    def add_tokens_in_progress(self, tokens: float) -> None:
        """Count tokens processed for an incomplete reply; a token after half of the layers counts as 0.5."""
        self._in_progress += tokens

    def describe(self) -> str:
        """Describe the number of tokens, the speed and, from the first new reply on, the time left at this speed."""
        seconds = max(self._clock() - self._started, 1e-9)
        tokens = self._tokens + self._in_progress
        speed = [f"{tokens:,.0f} tokens", f"{tokens / seconds:,.0f}/s"] if tokens else []
        more = self._total - self.calls
        left = more * seconds / self._new_calls if more > 0 and self._new_calls else None
        return ", ".join(filter(None, [*speed, format_time_left(left, bound="at most")]))
