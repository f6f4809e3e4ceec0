"""One call of a reranker: its checked arguments, its report and its calibrated probabilities."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, get_args

from rerank.assemble import RankerSetup
from rerank.calibration import CalibratedList, Calibration, identity_bound_to_calibration
from rerank.errors import PartialFailureError, UnknownNameError, UsageError
from rerank.judges import FAILURES, PromptJudge
from rerank.judges.base import SELECTION
from rerank.models.prices import compute_cost
from rerank.pipeline.results import LATE, RankedList, count_statuses
from rerank.reranker.hits import Cut, RankingReport
from rerank.retrieval.base.given_documents import Candidate
from rerank.tasks import Backend
from rerank.tasks.backends import model_base_of_backend, traits
from rerank.types import Ranking

#: Number of characters of a query whose tokens are counted for a remark.
_COUNTED = 65_536

_log = logging.getLogger("rerank.reranker")

#: What happens if a window fails: ``keep`` leaves the window in its given order, ``raise`` raises an error.
OnFailure = Literal["keep", "raise"]


class RankOptions(TypedDict, total=False):
    """Options for one ranking."""

    #: First-stage scores of the documents, which then determine the first-stage order. If omitted, the documents' key
    #: ``score`` is used; without either, there are no first-stage scores.
    scores: Sequence[float] | None
    #: Number of hits to return, at least 0; None for all. Methods that can stop early do so.
    top_k: int | None
    #: Minimum probability of relevance of a hit or, without a calibration, minimum ``unit_score``, of which
    #: `Hits.notes` then has a note; hits below it are omitted. None for no threshold.
    threshold: float | None
    #: Seconds from now. Windows that are not judged by then keep their given order; a model in this process still
    #: finishes its current batch. None for no limit.
    deadline: float | None
    #: ``keep`` or ``raise``, as in `Reranker`; None to use the ``on_failure`` of the reranker.
    on_failure: OnFailure | None
    #: Description of what counts as relevant, for prompts that have a place for it. If the prompt has no such place,
    #: the instruction has no effect, and `Hits.notes` contains a note.
    instruction: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCall:
    """A checked call of `Reranker.rank`."""

    ranking: Ranking  # the first-stage list; the ids of its documents are their positions
    candidates: Sequence[Candidate]
    top_k: int | None  # number of hits to return; None for all
    threshold: float | None  # minimum probability or unit score of a hit; None for no threshold
    deadline: float | None  # `time.monotonic` value of the deadline; None for no deadline
    on_failure: OnFailure  # ``keep`` to leave a failed window in its given order, or ``raise`` to raise an error


def check_on_failure(value: OnFailure) -> OnFailure:
    """Return the value of ``on_failure`` after checking it."""
    if value not in get_args(OnFailure):
        raise UnknownNameError("value of on_failure", value, get_args(OnFailure))
    return value


def report_on(
    ranked: RankedList, judge: PromptJudge, on_failure: OnFailure, deadline: float | None = None
) -> RankingReport:
    """Return the report on a ranking; if windows failed or the deadline passed, log one warning."""
    windows = count_statuses(ranked.judged)
    # windows that failed for a reason other than the deadline
    failures = [verdict for _, verdict in ranked.judged if verdict.status in FAILURES]
    if ranked.expired:
        failures = [verdict for verdict in failures if LATE not in verdict.detail]
    degraded = []
    if failures:
        counts = ", ".join(f"{n} {status}" for status, n in windows.items() if n and status in FAILURES)
        degraded.append(f"Windows kept their given order: {counts} of {len(ranked.judged)}. {failures[0].detail}")
    if ranked.expired:
        degraded.append("The deadline passed: windows that were not judged kept their given order")
    if degraded:
        _log.warning("Degraded ranking of query %r: %s", ranked.ranking.query.id, "; ".join(degraded))
    if failures and on_failure == "raise":
        raise PartialFailureError(degraded[0], expected="a verdict on every window (on_failure='raise')")
    # A verdict may contain a remark even if it did not fail, such as that the judge received no first-stage scores.
    remarks = dict.fromkeys(verdict.detail for _, verdict in ranked.judged if verdict.status == "ok" and verdict.detail)
    if ranked.score_kind == SELECTION and (selection := [score for score in ranked.scores if score is not None]):
        remarks[f"The model selected {sum(selection):.0f} of {len(selection)} documents"] = None
    if not ranked.ranking.query.text.strip():
        remarks["The query is empty, so the documents keep their order"] = None
    limit = traits(judge.backend).query_limit
    if limit is not None and (count := judge.backend.tokens.lengths([ranked.ranking.query.text[:_COUNTED]])[0]) > limit:
        remarks[f"The model reads only the first {limit} of the {count} tokens of the query"] = None
    if ranked.ranking.query.instruction and not judge.template.takes_instruction:
        remarks[f"The prompt {judge.template.name!r} has no place for an instruction, so it had no effect"] = None
    if deadline is not None and not ranked.expired and time.monotonic() > deadline:
        remarks["The ranking is complete but late: the deadline passed during the last batch of the model"] = None
    return RankingReport(
        windows=windows,
        score_kind=ranked.score_kind.name if ranked.score_kind else "",
        has_absolute_scores=ranked.score_kind is not None and ranked.score_kind.scope == "absolute",
        usage=ranked.usage,
        cost=compute_cost(judge.backend.identity.get("model", ""), ranked.usage),
        cut=Cut(passages=len(ranked.dropped), tokens=sum(ranked.dropped.values())),
        expired=ranked.expired,
        notes=(*degraded, *remarks),
    )


def open_calibration(setup: RankerSetup, judge: PromptJudge) -> Calibration | None:
    """Return the calibration that the user named, or that of the adapter or trained model; None if neither exists.

    The calibration of an adapter or trained model is ignored if the ranker has another method, prompt or base model,
    and with a warning if only the weights of the base model differ.
    """
    found = setup.calibration_file(judge.backend)
    if found is None:
        return None
    path, is_named = found
    calibration, identity = Calibration.load(path), identity_bound_to_calibration(setup.identity(judge))
    try:
        calibration.check(identity)
    except UsageError:
        if is_named:
            raise
        if calibration.differs_in_weights(identity, model_base_of_backend(judge.backend)):
            _log.warning(
                "The calibration of %s was fitted with other weights, so hits have no probability of relevance; "
                "`rerank calibrate` fits one for the weights in use",
                Path(setup.config.adapter or setup.config.model).name,
            )
        return None
    return calibration


def calibrate_list(
    calibration: Calibration, ranked: RankedList, given: Sequence[float | None], first_stage: str | None
) -> CalibratedList:
    """Return the calibrated probabilities of a reranked list.

    ``given`` are first-stage scores in its order; they are used only if no document lacks one.
    """
    known = [score for score in given if score is not None]
    scores = known if len(known) == len(given) else None
    return calibration.apply(ranked.scores, scores, first_stage_name=first_stage)


class _Discard:
    def write(self, data: object) -> int:
        return 0


def check_backend_pickles(backend: Backend) -> None:
    """Check that a backend can be pickled; what only some picklers accept, as in a notebook, causes no error here."""
    try:
        pickle.Pickler(_Discard()).dump(backend)
    except TypeError as error:
        raise UsageError(
            f"The reranker cannot be pickled, because its backend {type(backend).__name__} cannot be pickled: {error}",
            expected="a backend that another process can open again, such as a backend of Reranker.from_pretrained",
            remedy="Open the reranker in the other process, or give the class of the backend a method __reduce__",
        ) from error
    except (AttributeError, pickle.PicklingError):
        return
