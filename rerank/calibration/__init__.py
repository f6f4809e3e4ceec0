"""Calibration: raw scores of a ranked list -> probabilities of relevance.

`Calibration` reads a file and applies it, without numpy or SciPy. `fit_calibration` fits one to runs with judgments.
"""

from __future__ import annotations

from rerank.calibration.calibration_file import CalibratedList, Calibration, FirstStage
from rerank.calibration.judged_lists import RankedCollection, is_absolute_score_kind
from rerank.calibration.ranker_identity import calibrated_first_stage_name, identity_bound_to_calibration
from rerank.calibration.report import CalibrationResult, fit_calibration

__all__ = [
    "CalibratedList",
    "Calibration",
    "CalibrationResult",
    "FirstStage",
    "RankedCollection",
    "calibrated_first_stage_name",
    "fit_calibration",
    "identity_bound_to_calibration",
    "is_absolute_score_kind",
]
