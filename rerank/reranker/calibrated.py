"""Functions that open the calibration of a ranker, and apply it to a reranked list."""

from __future__ import annotations

from collections.abc import Sequence

from rerank.assemble import RankerSetup
from rerank.calibration import CalibratedList, Calibration, identity_bound_to_calibration
from rerank.errors import UsageError
from rerank.judges import PromptJudge
from rerank.pipeline.results import RankedList


def open_reranker_setup_calibration(setup: RankerSetup, judge: PromptJudge) -> Calibration | None:
    """Return the calibration that the user named, or that of the adapter or trained model; None if neither exists.

    The calibration of an adapter or trained model is ignored if the ranker has another method, prompt or base model.

    Raises:
        MissingResourceError: The file does not exist.
        DataError: The file is not a calibration.
        UsageError: The named calibration belongs to another ranker.
    """
    found = setup.calibration_file(judge.backend)
    if found is None:
        return None
    path, is_named = found
    calibration = Calibration.load(path)
    try:
        calibration.check(identity_bound_to_calibration(setup.identity(judge)))
    except UsageError:
        if is_named:
            raise
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
