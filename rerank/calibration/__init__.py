"""Calibration of raw scores to probabilities of relevance. A calibration file is applied without numpy or SciPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rerank.calibration.calibration_file import (
    CalibratedList,
    Calibration,
    FittedFirstStage,
    first_stage_of_calibration,
    identity_bound_to_calibration,
)
from rerank.calibration.judged_lists import RankedCollection, is_absolute_score_to_calibrate

if TYPE_CHECKING:
    from rerank.calibration.report import CalibrationResult, fit_calibration

__all__ = [
    "CalibratedList",
    "Calibration",
    "CalibrationResult",
    "FittedFirstStage",
    "RankedCollection",
    "first_stage_of_calibration",
    "fit_calibration",
    "identity_bound_to_calibration",
    "is_absolute_score_to_calibrate",
]


def __getattr__(name: str) -> Any:
    """Import what fits calibrations, and numpy with it, on first use (PEP 562)."""
    if name in ("CalibrationResult", "fit_calibration"):
        from rerank.calibration import report

        return getattr(report, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
