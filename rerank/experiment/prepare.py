"""Prepare a run: open the collection, candidates, judgments, strategy, judge and backend of its specification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from rerank.assemble import RankerConfig, RankerPlan, RankerSetup, assemble_ranker, trained_ranker_defaults
from rerank.calibration import Calibration
from rerank.collections import Collection
from rerank.evaluation import parse_measures
from rerank.experiment.candidate_lists import CandidateLists
from rerank.experiment.candidates import (
    RetrievedCandidates,
    load_experiment_judgments,
    lowest_relevant_grade,
    retrieve_for_queries,
    select_judged_queries,
    stream_candidates,
)
from rerank.experiment.spec import Execution, RunSpec
from rerank.judges import PromptJudge, judges
from rerank.models.prices import compute_model_cost
from rerank.reranker.calibrated import open_calibration
from rerank.tasks import Backend
from rerank.types import Qrels, Query, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """Everything that a run needs before the first call.

    Attributes:
        spec: The specification, completed with the settings of the adapter.
        collection: The collection of the queries and documents.
        lists: The candidates, one ranking per query; rankings may be empty. Without judgments, they may be read from a
            file whenever they are needed.
        qrels: The relevance judgments of these queries; empty if there are none.
        relevant: Lowest grade that binary measures count as relevant.
        setup: Method, strategy, prompt and limits.
        backend: The model; if it is local, its weights are loaded at the first call.
        judge: The judge of the method, with this backend.
        calibration: Turns scores into probabilities of relevance; None for none.
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
        """The candidates in memory."""
        return self.lists.run

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the result; its hash names the run."""
        return {
            "first_stage": self.lists.survey.digest,
            **run_identity_settings(self.spec, self.setup),
            **self.setup.identity(self.judge),
        }

    def with_spec(self, spec: RunSpec) -> Self:
        """Return this run with another order or seed of the same candidates, model and method."""
        setup = assemble_ranker(replace(self.setup.config, seed=spec.seed))
        return replace(self, spec=spec, setup=setup, judge=setup.open_judge(self.backend))

    def calls(self) -> int:
        """Return the maximum number of requests, if all windows fit the context."""
        requests = judges.get(self.setup.method.judge.name).calls
        passages = self.setup.passages
        counts = Counter(len(passages.expand(r)) for r in self.lists) if passages else self.lists.survey.lengths
        return sum(n * self.setup.strategy.calls(count) * int(requests(count)) for count, n in counts.items())


def run_identity_settings(spec: RunSpec, plan: RankerPlan) -> dict[str, Any]:
    """Return the part of a run's identity that its specification alone decides."""
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


def with_trained_defaults(spec: RunSpec) -> RunSpec:
    """Return the specification completed with the settings of its adapter or trained model."""
    given = spec.model_dump(include=spec.model_fields_set) | ({} if spec.adapter else {"model": spec.model})
    return spec.model_copy(update=trained_ranker_defaults(given))


def ranker_config_of_run(spec: RunSpec, execution: Execution | None = None) -> RankerConfig:
    """Return the settings of a run's ranker; the specification must be complete (`with_trained_defaults`)."""
    values: Mapping[str, Any] = {**dict(spec), **dict(execution or Execution())}
    return RankerConfig(**{field.name: values[field.name] for field in fields(RankerConfig)})


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
        execution: Options of execution.
        judged_only: Use only queries that have judgments, as in `load_experiment_queries`.
        backend: An open backend of the model of ``spec``, for several runs with one model.
        candidates: The result of `retrieve_candidates` for this collection and first stage, for several runs over the
            same candidates.

    Raises:
        RerankError: The run cannot be prepared.
    """
    spec = with_trained_defaults(spec)
    setup = assemble_ranker(ranker_config_of_run(spec, execution))
    compute_model_cost(spec.model, 0, 0)  # reports a broken price table now, not after the last call
    if candidates:
        collection, qrels = candidates.collection, candidates.qrels
        found: CandidateLists | list[Query] = CandidateLists.of(candidates.first_stage)
    else:
        collection, qrels, found = _find_run_candidates(spec, judged_only=judged_only)
    relevant = lowest_relevant_grade(spec, collection)
    parse_measures(spec.measures, relevant=relevant)
    if backend is None:
        setup.check_backend()  # before search and loading, which can take minutes
    lists = CandidateLists.of(retrieve_for_queries(spec, collection, found)) if isinstance(found, list) else found
    backend = backend or setup.open_backend(qrels=qrels or None, lazy=True)
    judge = setup.open_judge(backend)
    return PreparedRun(
        spec=spec,
        collection=collection,
        lists=lists,
        qrels=qrels,
        relevant=relevant,
        setup=setup,
        backend=backend,
        judge=judge,
        calibration=open_calibration(setup, judge),
    )


def _find_run_candidates(spec: RunSpec, *, judged_only: bool) -> tuple[Collection, Qrels, CandidateLists | list[Query]]:
    """Return the collection, the judgments, and the candidates if they can be streamed, else the queries to search."""
    collection, qrels = load_experiment_judgments(spec)
    if not qrels and (lists := stream_candidates(spec, collection)) is not None:
        return collection, qrels, lists
    queries, qrels = select_judged_queries(spec, collection, qrels, judged_only=judged_only)
    return collection, qrels, queries
