"""Preparation of a run: opening its collection, candidates, judgments, strategy, judge and backend."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Self

from rerank.assemble import RankerPlan, RankerSetup, assemble_ranker, assembly_defaults
from rerank.calibration import Calibration
from rerank.collections import Collection
from rerank.evaluation import parse_measures
from rerank.experiment.candidate_lists import CandidateLists
from rerank.experiment.candidates import (
    RetrievedCandidates,
    load_experiment_qrels,
    lowest_relevant_grade_of_spec,
    retrieve_spec_candidates_for_queries,
    select_judged_queries_of_experiment,
    stream_candidates_of_spec,
)
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.paths import named_path_errors
from rerank.judges import PromptJudge, judges
from rerank.lm.model_files import one_commit_per_model
from rerank.models.prices import find_model_prices
from rerank.reranker.calibrated import open_reranker_setup_calibration
from rerank.retrieval import check_first_stage
from rerank.settings import RankerSettings
from rerank.tasks import Backend
from rerank.types import Qrels, Query, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """A run whose collection, candidates, ranker and model are open, ready for the first call.

    Attributes:
        spec: The specification, completed with the settings of the adapter.
        collection: The collection of the queries and documents.
        lists: The candidate lists, one per query; they may be empty. If there are no judgments, the candidates
            may be read from a file whenever they are needed.
        qrels: The relevance judgments of these queries; empty if there are none.
        relevant: Lowest grade that binary measures count as relevant.
        setup: The ranker: method, strategy, prompt and limits.
        backend: The model; if it is local, its weights are loaded at the first call.
        judge: The judge of the method, which calls this backend.
        calibration: Calibration that converts scores to probabilities of relevance; None for no probabilities.
    """

    spec: RunSpec
    collection: Collection
    lists: CandidateLists
    qrels: Qrels
    relevant: int
    setup: RankerSetup
    backend: Backend
    judge: PromptJudge
    calibration: Calibration | None = None

    @property
    def first_stage(self) -> Run:
        """The candidate lists as a run; they are read into memory."""
        return self.lists.run

    def identity(self) -> dict[str, Any]:
        """Return all values that determine the result of the run; their hash identifies the run."""
        return {
            "first_stage": self.lists.survey.digest,
            **run_identity_settings(self.spec, self.setup),
            **self.setup.identity(self.judge),
        }

    def with_spec(self, spec: RunSpec) -> Self:
        """Return this run with another candidate order or seed, for the same candidates, model and method."""
        setup = assemble_ranker(self.setup.config.model_copy(update={"seed": spec.seed}))
        return replace(self, spec=spec, setup=setup, judge=setup.open_judge(self.backend))

    def calls(self) -> int:
        """Return the maximum number of requests, provided that all windows fit in the context."""
        requests = judges.get(self.setup.method.judge.name).calls
        passages = self.setup.passages
        counts = Counter(len(passages.expand(r)) for r in self.lists) if passages else self.lists.survey.lengths
        return sum(n * self.setup.strategy.calls(count) * int(requests(count)) for count, n in counts.items())


def run_identity_settings(spec: RunSpec, plan: RankerPlan) -> dict[str, Any]:
    """Return the part of a run's identity that depends only on its specification."""
    return {
        **plan.method_identity(),
        "shuffle": f"random {spec.seed}" if spec.shuffle == "random" else spec.shuffle,
        "min_passage_tokens": spec.min_passage_tokens,
        "max_passage_tokens": spec.max_passage_tokens,
        "context_size": spec.context_size,
        "temperature": spec.temperature,
        "seed": plan.limits.seed,
        **({"top_k": spec.top_k} if spec.top_k is not None else {}),
        **({"thinking_tokens": spec.thinking_tokens} if spec.thinking_tokens else {}),
    }


def spec_with_trained_defaults(spec: RunSpec) -> RunSpec:
    """Return the specification completed with its method and the settings of its adapter, trained model or preset."""
    given = spec.model_dump(include=spec.model_fields_set) | ({} if spec.adapter else {"model": spec.model})
    return spec.model_copy(update=assembly_defaults(given))


def ranker_config_of_run(spec: RunSpec, execution: Execution | None = None) -> RankerSettings:
    """Return the ranker's settings for a specification that `spec_with_trained_defaults` has completed."""
    values = {**dict(spec), **dict(execution or Execution())}
    return RankerSettings(**{name: values[name] for name in RankerSettings.model_fields})


@one_commit_per_model()
@named_path_errors()
def prepare_run(
    spec: RunSpec,
    execution: Execution,
    *,
    judged_only: bool = True,
    backend: Backend | None = None,
    candidates: RetrievedCandidates | None = None,
) -> PreparedRun:
    """Open everything that a run needs and check its settings; the weights of a local model may not be loaded yet.

    Args:
        spec: The specification.
        execution: Options for execution.
        judged_only: Whether to omit queries without judgments, as in `load_experiment_queries`.
        backend: An open backend for the model of ``spec``, which several runs can share.
        candidates: The result of `retrieve_candidates_of_spec` for this collection and first stage, which several runs
            can share.

    Raises:
        RerankError: The run cannot be prepared.
    """
    spec = spec_with_trained_defaults(spec)
    setup = assemble_ranker(ranker_config_of_run(spec, execution))
    find_model_prices(spec.model)  # raises for an invalid price table now rather than after the last call
    if candidates:
        collection, qrels = candidates.collection, candidates.qrels
        found: CandidateLists | list[Query] = CandidateLists.of(candidates.first_stage)
    else:
        collection, qrels, found = _find_spec_candidates(spec, judged_only=judged_only)
    relevant = lowest_relevant_grade_of_spec(spec, collection)
    parse_measures(spec.measures, relevant=relevant)
    _check_before_searching(spec, setup if backend is None else None, searches=isinstance(found, list))
    if isinstance(found, list):
        found = CandidateLists.of(retrieve_spec_candidates_for_queries(spec, collection, found))
    backend = backend or setup.open_backend(qrels=qrels or None, lazy=True)
    judge = setup.open_judge(backend)
    setup.note_other_weights(judge)
    return PreparedRun(
        spec=spec,
        collection=collection,
        lists=found,
        qrels=qrels,
        relevant=relevant,
        setup=setup,
        backend=backend,
        judge=judge,
        calibration=open_reranker_setup_calibration(setup, judge),
    )


def _check_before_searching(spec: RunSpec, setup: RankerSetup | None, *, searches: bool) -> None:
    """Check the first stage and the model's files before searching and loading, which can take minutes."""
    if searches:
        check_first_stage(spec.first_stage)
    if setup is not None:
        setup.check_backend()


def _find_spec_candidates(
    spec: RunSpec, *, judged_only: bool
) -> tuple[Collection, Qrels, CandidateLists | list[Query]]:
    """Return the collection, the judgments, and the candidates if they can be streamed; otherwise the queries."""
    collection, qrels = load_experiment_qrels(spec)
    if not qrels and (lists := stream_candidates_of_spec(spec, collection)) is not None:
        return collection, qrels, lists
    queries, qrels = select_judged_queries_of_experiment(spec, collection, qrels, judged_only=judged_only)
    return collection, qrels, queries
