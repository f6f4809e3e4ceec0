"""Suites run: what is there and what is missing, what it will take, and the missing runs made one after the other.

Each run is what `rerank run` would make of its specification, in a folder named by its hash, so nothing of one
specification can end up in another's. Knows the order of things; results are put side by side in `_suite_results`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rerank.backends.replay import Replay
from rerank.errors import RerankError
from rerank.experiment import check_failures, estimate, execute, prepare
from rerank.experiment.candidates import RetrievedCandidates, retrieve_candidates
from rerank.experiment.execute import default_folder
from rerank.experiment.prepare import PreparedRun, with_trained_settings
from rerank.experiment.spec import Execution, RunSpec
from rerank.leaderboard.suites.planning_backend import (
    ModelCache,
    PlanningBackend,
    has_weights,
    model_key,
    open_planning_backend,
)
from rerank.leaderboard.suites.stored_runs import StoredRun, estimate_seconds, read_stored_runs
from rerank.leaderboard.suites.suite import CandidateGroup, Suite, SuiteRun
from rerank.methods import open_method
from rerank.store import identity_hash
from rerank.tasks import Backend

#: Executes one prepared run and returns its summary, as `rerank.experiment.execute` does.
Runner = Callable[[PreparedRun, Execution], dict[str, Any]]
#: What may go wrong with one run and leave the others alone; anything else is a mistake of ours and ends the suite.
_TROUBLE = (RerankError, OSError, RuntimeError, MemoryError)


@dataclass(kw_only=True)
class PlannedRun:
    """One run of a suite, before it is made.

    Attributes:
        run: Which.
        found: Its candidates, shared with the other runs of its group; None if they cannot be had.
        spec: The run, as its adapter completed it.
        stored: Its folder, if it is finished.
        expected: What it would take at most: ``calls``, ``tokens_in``, ``tokens_out``, ``cost``, and ``seconds``, None
            where no finished run tells how fast the model is. Of a finished run: what it took.
        committed: Replies of an unfinished run that are there already.
        problem: Why it cannot be made; empty if it can, as far as one can tell.
    """

    run: SuiteRun
    spec: RunSpec
    found: RetrievedCandidates | None = None
    stored: StoredRun | None = None
    expected: dict[str, Any] = field(default_factory=dict)
    committed: int = 0
    problem: str = ""

    @property
    def status(self) -> str:
        """``done`` or ``missing``."""
        return "done" if self.stored else "missing"

    def to_dict(self) -> dict[str, Any]:
        """A row of ``rerank bench --dry-run --format json``."""
        known = self.expected
        tokens = known["tokens_in"] + known["tokens_out"] if known else None
        return {
            "spec": self.spec.model_dump(mode="json"),
            "status": self.status,
            "tokens": tokens,
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
    """One run of a suite after its turn.

    Attributes:
        planned: Which.
        summary: Its summary; None if there is none.
        problem: Why it failed or is unfinished; empty if neither. A run with failed windows has both.
    """

    planned: PlannedRun
    summary: dict[str, Any] | None = None
    problem: str = ""


def plan_runs(suite: Suite, out: Path, execution: Execution) -> list[PlannedRun]:
    """Retrieve every first stage once, and find out of every run whether it is there and what it would take.

    Asks no model anything and loads no weights. Runs that a seed does not change are left out after the first.

    Args:
        suite: What is to be run.
        out: Folder of the runs' folders; need not exist.
        execution: How.
    """
    planner = _Planner(read_stored_runs(out), execution)
    seen: set[tuple[str, str, str]] = set()
    planned = []
    for run in suite.expand():
        one, name = planner.plan(run)
        if not name or (key := (str(run.group), run.system, name)) not in seen:
            planned.append(one)
            if name:
                seen.add(key)
    return planned


def sum_costs(planned: Sequence[PlannedRun]) -> dict[str, Any]:
    """What the missing runs would take together: ``runs``, ``done``, ``missing``, ``calls``, ``tokens``, ``seconds``.

    ``seconds`` is None where the speed of a model is not known; ``problems`` are runs that cannot be made.
    """
    rows = [one.to_dict() for one in planned if not one.stored and not one.problem]
    seconds = [row["seconds"] for row in rows]
    return {
        "runs": len(planned),
        "done": sum(one.stored is not None for one in planned),
        "missing": sum(one.stored is None for one in planned),
        "problems": sum(bool(one.problem) for one in planned),
        "calls": sum(row["calls"] for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
        "seconds": None if None in seconds else sum(seconds),
    }


def execute_runs(
    planned: Sequence[PlannedRun], out: Path, execution: Execution, *, run: Runner = execute
) -> Iterator[SuiteResult]:
    """Make the missing runs, and go on with unfinished ones; answer the finished ones from their folders.

    A run that fails is given back with its problem, and the next one has its turn. One model is held at a time.

    Args:
        planned: What `plan` gave.
        out: Folder of the runs' folders.
        execution: How; ``out``, ``resume`` and ``overwrite`` are decided here.
        run: Who executes a run.
    """
    shelf = ModelCache()
    for one in planned:
        if one.found is None:
            yield SuiteResult(planned=one, problem=one.problem)
            continue
        try:
            summary = _answered(one, execution) if one.stored else _made(one, out, execution, run, shelf)
        except _TROUBLE as error:
            shelf.drop()  # a model that failed may be past answering
            yield SuiteResult(planned=one, problem=str(error) or repr(error))
            continue
        try:
            check_failures(summary, one.spec.max_failure_rate)
        except RerankError as error:
            yield SuiteResult(planned=one, summary=summary, problem=str(error))
        else:
            yield SuiteResult(planned=one, summary=summary, problem=_unfinished(summary))


def _unfinished(summary: dict[str, Any]) -> str:
    """Why a run that its limit of failures lets pass counts as missing all the same; empty if it does not."""
    if summary.get("complete", True):
        return ""
    errors = summary["windows"]["error"]
    return f"It is unfinished: {errors} of its windows got no reply. The same command asks these again."


def _answered(one: PlannedRun, execution: Execution) -> dict[str, Any]:
    """The summary of a finished run, scored as the suite asks for now. Nobody can be asked anything."""
    kept = one.stored
    if kept is None:
        raise RuntimeError(f"{one.run} is not finished")
    identity = kept.document["identity"]
    backend = Replay((), identity=identity["model"], letters=tuple(identity.get("letters", "").split()))
    prepared = prepare(one.spec, execution, backend=backend, candidates=one.found)
    return execute(prepared, execution.model_copy(update={"out": kept.folder.path, "resume": True}))


def _made(one: PlannedRun, out: Path, execution: Execution, run: Runner, shelf: ModelCache) -> dict[str, Any]:
    kind = open_method(one.spec.method).backend
    prepared = prepare(one.spec, execution, backend=shelf.take(one.spec, kind), candidates=one.found)
    shelf.put(prepared.spec, kind, prepared.backend)
    name = default_folder(prepared.spec, identity_hash(prepared.identity())).name
    return run(prepared, execution.model_copy(update={"out": out / name, "resume": True}))


class _Planner:
    """What runs have in common while they are planned: candidates, descriptions of models, the folder."""

    def __init__(self, kept: list[StoredRun], execution: Execution) -> None:
        self._kept, self._execution = kept, execution
        self._found: dict[tuple[Any, ...], RetrievedCandidates | str] = {}
        self._described: dict[tuple[Any, ...], PlanningBackend] = {}

    def plan(self, run: SuiteRun) -> tuple[PlannedRun, str]:
        """One run, and its name among those of its reranker over the same candidates; empty if it has a problem."""
        one = PlannedRun(run=run, spec=run.spec)
        found = self._candidates(run.group, run.spec)
        if isinstance(found, str):
            one.problem = found
            return one, ""
        one.found = found
        try:
            one.spec = with_trained_settings(run.spec)
            prepared = prepare(one.spec, self._execution, backend=self._backend(one.spec), candidates=found)
            identity = prepared.identity()
            alike = [kept for kept in self._kept if kept.holds(prepared, identity)]
            one.stored = next((kept for kept in alike if kept.summary), None)
            one.committed = max((kept.replies() for kept in alike), default=0)
            one.expected = self._expected(one, prepared)
            return one, identity_hash(identity)
        except _TROUBLE as error:
            one.problem = str(error) or repr(error)
            return one, ""

    def _expected(self, one: PlannedRun, prepared: PreparedRun) -> dict[str, Any]:
        if one.stored and one.stored.summary:
            return {key: one.stored.summary.get(key) for key in ("calls", "tokens_in", "tokens_out", "cost", "seconds")}
        expected = estimate(prepared)
        seconds = estimate_seconds(self._kept, one.spec, expected["tokens_in"] + expected["tokens_out"])
        return expected | {"seconds": seconds}

    def _candidates(self, group: CandidateGroup, spec: RunSpec) -> RetrievedCandidates | str:
        """The candidates of a group, retrieved once; what stands in the way of them where there are none."""
        asked = group.values()
        key = tuple(asked.get(name) for name in _OF_LISTS)
        if key not in self._found:
            try:
                self._found[key] = retrieve_candidates(spec)
            except _TROUBLE as error:
                self._found[key] = str(error) or repr(error)
        return self._found[key]

    def _backend(self, spec: RunSpec) -> Backend | None:
        """A stand-in for a model of weights; None for what is opened at no cost."""
        kind = open_method(spec.method).backend
        if not has_weights(spec, kind):
            return None
        key = model_key(spec, kind)
        if key not in self._described:
            self._described[key] = open_planning_backend(spec, kind)
        return self._described[key]


#: What decides which lists a run gets.
_OF_LISTS = ("collection", "first_stage", "depth", "max_queries", "queries", "qrels")
