"""Calibration: raw scores of a ranked list -> probabilities of relevance.

`Calibration` reads a file and applies it, without numpy or SciPy. `calibrate` fits one to runs with judgments.
"""

from __future__ import annotations

from rerank.calibration.calibration_file import CalibratedList, Calibration, FirstStage
from rerank.calibration.judged_lists import RankedCollection, is_absolute_score_kind
from rerank.calibration.ranker_identity import bound_identity, first_stage_name
from rerank.calibration.report import CalibrationResult, calibrate

__all__ = [
    "CalibratedList",
    "Calibration",
    "CalibrationResult",
    "FirstStage",
    "RankedCollection",
    "bound_identity",
    "calibrate",
    "first_stage_name",
    "is_absolute_score_kind",
]
