"""Preparation of a run: opening its collection, candidates, judgments, strategy, judge and backend."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Self

from rerank.assemble import RankerPlan, RankerSetup, assemble_ranker, assembly_defaults
from rerank.calibration import Calibration
from rerank.collections import Collection
from rerank.evaluation import parse_measures
from rerank.experiment.candidates import (
    CandidateLists,
    RetrievedCandidates,
    load_qrels,
    lowest_relevant_grade,
    retrieve_lists,
    select_queries_and_qrels,
    stream_lists,
)
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.paths import named_path_errors
from rerank.judges import PromptJudge, judges
from rerank.lm.model_files import one_commit_per_model
from rerank.models.prices import find_model_prices
from rerank.reranker.calls import open_calibration
from rerank.retrieval import check_first_stage
from rerank.settings import RankerSettings
from rerank.tasks import Backend
from rerank.types import Qrels, Query, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """A run whose collection, candidates, ranker and model are open, ready for the first call."""

    spec: RunSpec  # the specification, completed with the settings of the adapter
    collection: Collection
    #: The candidate lists, one per query; they may be empty. If there are no judgments, the candidates may be read from
    #: a file whenever they are needed.
    lists: CandidateLists
    qrels: Qrels  # the relevance judgments of these queries; empty if there are none
    relevant: int  # lowest grade that binary measures count as relevant
    setup: RankerSetup  # the ranker: method, strategy, prompt and limits
    backend: Backend  # the model; if it is local, its weights are loaded at the first call
    judge: PromptJudge  # the judge of the method, which calls this backend
    #: Calibration that converts scores to probabilities of relevance; None for no probabilities.
    calibration: Calibration | None = None

    @property
    def first_stage(self) -> Run:
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


def ranker_settings(spec: RunSpec, execution: Execution | None = None) -> RankerSettings:
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

    ``judged_only`` is that of `load_queries`. Several runs can share an open ``backend`` for the model of ``spec``, and
    ``candidates``, the result of `retrieve_shared` for this collection and first stage.
    """
    spec = spec_with_trained_defaults(spec)
    setup = assemble_ranker(ranker_settings(spec, execution))
    find_model_prices(spec.model)  # raises for an invalid price table now rather than after the last call
    queries: list[Query] = []
    if candidates:
        collection, qrels = candidates.collection, candidates.qrels
        lists: CandidateLists | None = CandidateLists.of(candidates.first_stage)
    else:
        collection, qrels = load_qrels(spec)
        lists = None if qrels else stream_lists(spec, collection)
        if lists is None:
            queries, qrels = select_queries_and_qrels(spec, collection, qrels, judged_only=judged_only)
    relevant = lowest_relevant_grade(spec, collection)
    parse_measures(spec.measures, relevant=relevant)
    # Everything is checked before searching and loading, which can take minutes.
    if lists is None:
        check_first_stage(spec.first_stage)
    if backend is None:
        setup.check_backend()
    lists = lists or CandidateLists.of(retrieve_lists(spec, collection, queries))
    backend = backend or setup.open_backend(qrels=qrels or None, lazy=True)
    judge = setup.open_judge(backend)
    setup.note_other_weights(judge)
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
