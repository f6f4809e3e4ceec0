"""Functions that open the calibration of a ranker, and apply it to a reranked list."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rerank.assemble import RankerSetup
from rerank.calibration import CalibratedList, Calibration, identity_bound_to_calibration
from rerank.errors import UsageError
from rerank.judges import PromptJudge
from rerank.pipeline.results import RankedList
from rerank.tasks.identities import model_base_of_backend

_log = logging.getLogger(__name__)


def open_reranker_setup_calibration(setup: RankerSetup, judge: PromptJudge) -> Calibration | None:
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


def calibrate_list_of_reranker(
    calibration: Calibration, ranked: RankedList, given: Sequence[float | None], first_stage: str | None
) -> CalibratedList:
    """Return the calibrated probabilities of a reranked list.

    Args:
        calibration: The calibration.
        ranked: The reranked list.
        given: First-stage scores in the order of the reranked list; None for a document without a score. They are used
            only if all documents have a score.
        first_stage: Name of the first stage; None if it is not known.
    """
    known = [score for score in given if score is not None]
    scores = known if len(known) == len(given) else None
    return calibration.apply(ranked.scores, scores, first_stage_name=first_stage)
