"""Planning and execution of the runs of a suite; the hash of a run's identity in its folder's name keeps runs apart."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rerank.backends.replay import Replay
from rerank.errors import BackendError, DataError, MissingResourceError, RerankError
from rerank.experiment import check_failure_rate, estimate_run_cost, execute_run, prepare_run
from rerank.experiment.candidates import RetrievedCandidates, retrieve_shared
from rerank.experiment.execute import folder_of_run
from rerank.experiment.prepare import PreparedRun, ranker_settings, spec_with_trained_defaults
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.model_base import ModelBase, hash_file_contents_of_model
from rerank.judges.attention.heads import model_identity
from rerank.leaderboard.suites.suite import CandidateGroup, Suite, SuiteRun
from rerank.lm.loading import LANGUAGE, locate_files, named_loading_errors, quiet_transformers, require_torch
from rerank.methods import open_method
from rerank.models import backend_class_of_model, resolve_model_name, split_model_selector, with_hub_id_of_preset
from rerank.models.adapters import adapter_folder
from rerank.prompts.base import TokenCounter
from rerank.store import RunFolder, hash_identity
from rerank.store.run_folder import base_of_weights
from rerank.tasks import (
    Backend,
    BackendOptions,
    CrossEncoderTask,
    Reply,
    Request,
    resolve_task_context_size,
    task_backend_sees_pictures,
    tasks_supported_by_backend,
)
from rerank.tasks.backends import BaseBackend, lacks_commit

_MODEL = ("model", "adapter", "base_url")  #: Fields of a specification that identify the model.
#: Fields of a specification that determine the candidates.
_OF_LISTS = ("collection", "first_stage", "depth", "max_queries", "queries", "qrels")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run folder of a suite, with its specification and summary."""

    folder: RunFolder
    document: Mapping[str, Any]  #: Contents of spec.json.
    summary: Mapping[str, Any] | None  #: Contents of summary.json; None while the run is unfinished.

    def holds(self, prepared: PreparedRun, identity: Mapping[str, Any]) -> bool:
        """Return True if the folder holds the given run, with the same candidates, prompt, settings and model.

        If the run has a planning backend, two models count as the same if name, weights (or revision), adapter and
        requested data type are equal; models that accept images must also have the same image processor.
        """
        theirs, ours = dict(self.document["identity"]), dict(identity)
        model, expected = dict(theirs.pop("model", {})), dict(ours.pop("model"))
        if theirs != ours:
            return False
        if lacks_commit(model, expected, prepared.spec.revision or ""):
            model["revision"] = expected["revision"]
        if not isinstance(prepared.backend, PlanningBackend):
            return model == expected
        requested = {key: self.document["spec"].get(key) for key in ("model", "dtype")}
        if model.get("processor") != expected.get("processor"):
            return False
        return model_identity(model) == model_identity(expected) and requested == {
            key: getattr(prepared.spec, key) for key in requested
        }

    def replies(self) -> int:
        """Return the number of replies that are already stored in the call log of the run folder."""
        try:
            with self.folder.calls(readonly=True) as calls:
                return len(calls)
        except (MissingResourceError, DataError):  # the run was killed before it created the call log
            return 0


def read_stored_runs(out: Path) -> list[StoredRun]:
    """Read all run folders in a suite's folder."""
    runs = []
    for path in sorted(out.iterdir()) if out.is_dir() else []:
        if (path / "spec.json").is_file():
            folder = RunFolder(path)
            folder.check_checksums()
            keys = ("calls", "tokens_in", "tokens_out", "seconds")
            summary = folder.read_json("summary.json", *keys) if folder.finished else None
            runs.append(StoredRun(folder=folder, document=folder.spec(), summary=summary))
    return runs


def estimate_seconds(runs: list[StoredRun], spec: RunSpec, tokens: int) -> float | None:
    """Estimate seconds for a number of tokens from finished runs of the model, if possible with the same method."""
    wanted = spec.model_dump(mode="json", include=set(_MODEL))
    model = [run for run in runs if run.summary and all(run.document["spec"].get(x) == wanted[x] for x in _MODEL)]
    similar = [run for run in model if run.document["spec"].get("method") == spec.method] or model
    spent = sum(run.summary["tokens_in"] + run.summary["tokens_out"] for run in similar if run.summary)
    return sum(run.summary["seconds"] for run in similar if run.summary) * tokens / spent if spent else None


#: Function that executes one prepared run and returns its summary, such as `rerank.experiment.execute_run`.
Runner = Callable[[PreparedRun, Execution], dict[str, Any]]


@dataclass(kw_only=True)
class PlannedRun:
    """A run of a suite before its execution."""

    run: SuiteRun  #: The run as the suite defines it.
    spec: RunSpec  #: Specification of the run, completed with the settings of its adapter.
    #: Candidates, shared with all runs that have the same ones; None if they could not be retrieved.
    candidates: RetrievedCandidates | None = None
    stored: StoredRun | None = None  #: The finished run in the suite's folder; None if it is missing or unfinished.
    #: Upper bounds of ``calls``, ``tokens_in``, ``tokens_out`` and ``cost``, and an estimate of ``seconds``, which is
    #: None if no finished run of the model exists. For a finished run, the measured values.
    expected: dict[str, Any] = field(default_factory=dict)
    committed: int = 0  #: Number of replies that are already stored in the run's folder.
    problem: str = ""  #: Reason why the run cannot be executed; empty if no reason was found.

    @property
    def status(self) -> str:
        return "done" if self.stored else "missing"

    def to_dict(self) -> dict[str, Any]:
        """Return the run as a row of ``rerank bench --dry-run --format json``."""
        known = self.expected
        return {
            "spec": self.spec.model_dump(mode="json"),
            "status": self.status,
            "tokens": known["tokens_in"] + known["tokens_out"] if known else None,
            "seconds": known.get("seconds"),
            "collection": self.run.group.table.title,
            "system": self.run.system,
            "calls": known.get("calls"),
            "committed": self.committed,
            "cost": known.get("cost"),
            "folder": str(self.stored.folder.path) if self.stored else None,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """Summary of one run of a suite, or the reason why the run failed."""

    planned: PlannedRun
    summary: dict[str, Any] | None = None  #: Contents of summary.json; None if the run failed before it was written.
    #: Reason why the run failed or is unfinished; empty otherwise. A run with too many failed windows has both a
    #: summary and a problem.
    problem: str = ""


def plan_runs(suite: Suite, out: Path, execution: Execution) -> list[PlannedRun]:
    """Plan the runs of a suite without loading weights; a run that is identical for several seeds is planned once."""
    planner = _Planner(read_stored_runs(out), execution)
    seen: set[tuple[str, str, str]] = set()
    planned = []
    for run in suite.expand():
        planned_run, name = planner.plan(run)
        if not name or (key := (str(run.group), run.system, name)) not in seen:
            planned.append(planned_run)
            if name:
                seen.add(key)
    return planned


def sum_costs(planned: Sequence[PlannedRun]) -> dict[str, Any]:
    """Count runs by state, and sum what the missing runs without problems cost; unknown ``seconds`` are None."""
    rows = [planned_run.to_dict() for planned_run in planned if not planned_run.stored and not planned_run.problem]
    seconds = [row["seconds"] for row in rows]
    return {
        "runs": len(planned),
        "done": sum(planned_run.stored is not None for planned_run in planned),
        "missing": sum(planned_run.stored is None for planned_run in planned),
        "problems": sum(bool(planned_run.problem) for planned_run in planned),
        "calls": sum(row["calls"] for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
        "seconds": None if None in seconds else sum(seconds),
    }


def execute_runs(
    planned: Sequence[PlannedRun], out: Path, execution: Execution, *, run: Runner = execute_run
) -> Iterator[SuiteResult]:
    """Execute missing runs, resume unfinished ones, and read finished ones, with one model loaded at a time.

    A run that fails is yielded with its problem, and the next run follows.
    """
    cache = ModelCache()
    for planned_run in planned:
        if planned_run.candidates is None:
            yield SuiteResult(planned=planned_run, problem=planned_run.problem)
            continue
        try:
            if planned_run.stored:
                summary = _read_finished_run(planned_run, planned_run.stored, execution)
            else:
                kind = open_method(planned_run.spec.method).backend
                backend = cache.take(planned_run.spec, kind)
                prepared = prepare_run(planned_run.spec, execution, backend=backend, candidates=planned_run.candidates)
                cache.put(prepared.spec, kind, prepared.backend)
                folder = folder_of_run(prepared, out)
                summary = run(prepared, execution.model_copy(update={"out": folder, "resume": True}))
        except Exception as error:  # noqa: BLE001 - a bug in one run must not end the others
            cache.drop()  # a model that failed may be unusable
            yield SuiteResult(planned=planned_run, problem=_describe_error(error))
            continue
        problem = ""
        try:
            check_failure_rate(summary, planned_run.spec.max_failure_rate)
            if not summary["complete"]:
                unanswered = f"{summary['windows']['error']} of its windows got no reply"
                problem = f"The run is unfinished: {unanswered}. Repeat the command to retry them."
        except RerankError as error:
            problem = str(error)
        yield SuiteResult(planned=planned_run, summary=summary, problem=problem)


def _describe_error(error: Exception) -> str:
    """Return the message of an error of this package, or the class and the message of any other error."""
    return str(error) if isinstance(error, RerankError) else repr(error)


def _read_finished_run(planned_run: PlannedRun, stored: StoredRun, execution: Execution) -> dict[str, Any]:
    """Return the summary of a finished run, scored with the measures of the suite; no model is called."""
    identity = stored.document["identity"]
    backend = Replay((), identity=identity["model"], letters=tuple(identity.get("letters", "").split()))
    backend.base = base_of_weights(stored.document)
    prepared = prepare_run(planned_run.spec, execution, backend=backend, candidates=planned_run.candidates)
    return execute_run(prepared, execution.model_copy(update={"out": stored.folder.path, "resume": True}))


class _Planner:
    """Planner that finds stored runs and estimates costs. Candidates and planning backends are shared among runs."""

    def __init__(self, stored: list[StoredRun], execution: Execution) -> None:
        self._stored, self._execution = stored, execution
        self._found: dict[tuple[Any, ...], RetrievedCandidates | str] = {}
        self._backends: dict[tuple[Any, ...], PlanningBackend] = {}

    def plan(self, run: SuiteRun) -> tuple[PlannedRun, str]:
        """Plan one run. Return it with the hash of its identity, which is empty if the run has a problem."""
        planned_run = PlannedRun(run=run, spec=run.spec)
        found = self._candidates(run.group, run.spec)
        if isinstance(found, str):
            planned_run.problem = found
            return planned_run, ""
        planned_run.candidates = found
        try:
            planned_run.spec = spec_with_trained_defaults(run.spec)
            backend = self._backend(planned_run.spec)
            prepared = prepare_run(planned_run.spec, self._execution, backend=backend, candidates=found)
            identity = prepared.identity()
            matching = [stored for stored in self._stored if stored.holds(prepared, identity)]
            planned_run.stored = next((stored for stored in matching if stored.summary), None)
            planned_run.committed = max((stored.replies() for stored in matching), default=0)
            planned_run.expected = self._expected(planned_run, prepared)
            return planned_run, hash_identity(identity)
        except Exception as error:  # noqa: BLE001 - as above
            planned_run.problem = _describe_error(error)
            return planned_run, ""

    def _expected(self, planned_run: PlannedRun, prepared: PreparedRun) -> dict[str, Any]:
        if planned_run.stored and planned_run.stored.summary:
            keys = ("calls", "tokens_in", "tokens_out", "cost", "seconds")
            return {key: planned_run.stored.summary.get(key) for key in keys}
        expected = estimate_run_cost(prepared)
        seconds = estimate_seconds(self._stored, planned_run.spec, expected["tokens_in"] + expected["tokens_out"])
        return expected | {"seconds": seconds}

    def _candidates(self, group: CandidateGroup, spec: RunSpec) -> RetrievedCandidates | str:
        """Return the candidates of a group, or an error message if retrieval failed; retrieve them only once."""
        values = group.values()
        key = tuple(values.get(name) for name in _OF_LISTS)
        if key not in self._found:
            try:
                self._found[key] = retrieve_shared(spec)
            except Exception as error:  # noqa: BLE001 - as above
                self._found[key] = _describe_error(error)
        return self._found[key]

    def _backend(self, spec: RunSpec) -> Backend | None:
        """Return a backend that plans without loading weights; None if the model's own backend loads none anyway."""
        kind = open_method(spec.method).backend
        if not model_has_weights(spec, kind):
            return None
        key = model_key(spec, kind)
        if key not in self._backends:
            self._backends[key] = open_without_weights(spec, kind)
        return self._backends[key]


# Models: backends without weights for plans, and a cache of one model for the execution

_MARKS = 3  #: Number of special tokens in a query-document pair, as in most cross-encoders.


@dataclass(frozen=True, kw_only=True)
class PlanningBackend(BaseBackend):
    """A backend that counts tokens and identifies the model, but cannot generate."""

    #: Model, weights or revision, and adapter. The data type is not included, because it depends on the machine.
    identity: Mapping[str, str]
    tokens: TokenCounter
    tasks: frozenset[type[Any]]
    sees_pictures: bool = False  #: Whether prompts may show pictures.
    base: ModelBase | None = None  #: The published model; None if it is not known.
    batch_size: int = 1
    costs_money: bool = False

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        raise BackendError(f"{len(requests)} requests were sent to a backend without weights")


def model_has_weights(spec: RunSpec, kind: str) -> bool:
    """Return whether a run's model is loaded from weights; ``kind`` is the backend of its method (default: "")."""
    return hasattr(backend_class_of_model(spec.model, kind), "load")


def model_key(spec: RunSpec, kind: str) -> tuple[Any, ...]:
    """Return the cache key of a loaded model. Runs with equal keys can share the model."""
    loading = (spec.revision, spec.adapter, spec.dtype, spec.trust_remote_code, spec.context_size)
    return (spec.model, kind, *loading)


def open_without_weights(spec: RunSpec, kind: str) -> PlanningBackend:
    """Read a model's configuration and tokenizer, and hash its files; ``spec`` includes the settings of its adapter."""
    options = ranker_settings(spec)
    name = resolve_model_name(split_model_selector(spec.model)[1])
    _, transformers = require_torch()
    files = with_hub_id_of_preset(locate_files(name, options, weights=False))
    code = {"trust_remote_code": options.trust_remote_code}
    backend = backend_class_of_model(spec.model, kind)
    # the transformers class that tokenizes inputs, which is a processor for models with images
    reader_class = getattr(transformers, str(getattr(backend, "classes", LANGUAGE)[1]))
    with quiet_transformers(), named_loading_errors(files):
        config = transformers.AutoConfig.from_pretrained(files.folder, **code)
        reader = reader_class.from_pretrained(files.folder, **code)
    identity = files.identity
    if hasattr(reader, "image_processor"):  # the backend for images uses the same key in its identity
        identity["processor"] = type(reader.image_processor).__name__
    if spec.adapter:
        identity["adapter"] = hash_file_contents_of_model(adapter_folder(spec.adapter))
    tasks = tasks_supported_by_backend(backend)
    tokens = _token_counter(config, reader, options, pairs=CrossEncoderTask in tasks, name=identity["model"])
    sees = task_backend_sees_pictures(backend)
    return PlanningBackend(identity=identity, tokens=tokens, tasks=tasks, sees_pictures=sees, base=files.base)


def _token_counter(config: Any, reader: Any, options: BackendOptions, *, pairs: bool, name: str) -> TokenCounter:
    from rerank.backends.cross_encoder import PairTokens
    from rerank.lm.tokenizers import HfTokens, stated_context_size

    sees = hasattr(reader, "image_processor")
    tokenizer = reader.tokenizer if sees else reader
    size = resolve_task_context_size(stated_context_size(SimpleNamespace(config=config), tokenizer), options, name)
    if sees:
        from rerank.backends.vlm import VlmTokens
        from rerank.io.pictures import require_pillow

        require_pillow()
        return VlmTokens(reader, context_size=size)
    if pairs:
        return PairTokens(tokenizer, context_size=size, special_tokens=_MARKS)
    return HfTokens(tokenizer, context_size=size)


class ModelCache:
    """A cache for one loaded model. Two models seldom fit in memory, and runs of one model are executed in sequence."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._backend: Backend | None = None

    def take(self, spec: RunSpec, kind: str) -> Backend | None:
        """Return the cached model if this run uses the same model; otherwise drop it and return None."""
        if self._key != model_key(spec, kind):
            self.drop()
        return self._backend

    def put(self, spec: RunSpec, kind: str, backend: Backend) -> None:
        """Cache a backend that loads weights. Others are not cached, because they may depend on the qrels of a run."""
        if model_has_weights(spec, kind):
            self._key, self._backend = model_key(spec, kind), backend

    def drop(self) -> None:
        self._key = self._backend = None
