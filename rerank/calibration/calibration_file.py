"""The calibration file. A calibration converts the raw scores of a ranked list to probabilities of relevance.

The file is human-readable JSON and belongs to one ranker and one first stage. It contains up to four fits, which differ
in their inputs: the judge's scores or, for documents without a judge score, ranks; each with or without first-stage
scores. The scores that are available for a list decide which fits are used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from rerank.calibration.models import INPUTS, OLDER_INPUTS, Fit, FitName, document_inputs, make_non_increasing
from rerank.errors import DataError, UsageError, describe_pydantic_error, error_repr
from rerank.io.json_records import parse_json
from rerank.io.model_base import ModelBase
from rerank.io.settings_files import read_settings_text
from rerank.io.text_files import replace_text_file

_FORMAT = "listrank calibration"
#: Version of the file format. It increases with every change that older code would misread.
_VERSION = 1
#: Keys of a ranker's identity that determine its scores. Data types, batches and limits change scores only slightly.
BOUND = ("model", "weights", "revision", "adapter", "strategy", "judge", "passages", "heads", "prompt")
#: Keys that tell which weights of a model were used.
WEIGHTS = ("model", "weights", "revision")


def identity_bound_to_calibration(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of a run's identity (in ``spec.json``) to which a calibration is bound: keys in `BOUND`."""
    model = identity.get("model", {})
    flat = {**identity, **(model if isinstance(model, Mapping) else {"model": model})}
    return {key: str(flat[key]) for key in BOUND if flat.get(key)}


def describe_ranker_differences(fitted: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """Describe how a calibration's ranker differs from another, such as ``prompt is 'a' there and 'b' here``.

    A model may be stored in several folders, so its name is ignored if both have a hash of the weights.
    """
    keys = [key for key in BOUND if fitted.get(key, "") != current.get(key, "")]
    if fitted.get("weights") and current.get("weights"):
        keys = [key for key in keys if key != "model"]
    there, here = (
        {key: error_repr(value, 70) if (value := ranker.get(key)) else "none" for key in keys}
        for ranker in (fitted, current)
    )
    return [f"{key} is {there[key]} there and {here[key]} here" for key in keys]


def first_stage_of_calibration(selector: str) -> str:
    """Return the name under which a calibration stores a first stage: its selector, without the path of a run file.

    >>> first_stage_of_calibration("bm25,k1=1.2"), first_stage_of_calibration("run:folder/first.trec")
    ('bm25,k1=1.2', 'run')
    """
    return "run" if selector.startswith("run:") else selector


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedList:
    """The calibrated probabilities of one ranked list: of each document, and of the list as a whole."""

    relevance: tuple[float, ...]  #: Probability of relevance of each document, in ranking order and non-increasing.
    answerable: float  #: Probability that at least one document is relevant.
    #: Name of the fit, such as ``judge+first-stage``; two names with a comma if only some documents have a judge score.
    fit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedFirstStage:
    """The first stage whose scores the calibration was fitted to; a list with its median outside is of another."""

    name: str  #: Name of the first stage, such as ``bm25``.
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The calibration of one ranker: fitted models that convert its scores to probabilities of relevance."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # also of the parts, since a misspelt key would be a default

    #: Identity of the ranker that the calibration is bound to (`identity_bound_to_calibration`).
    ranker: Mapping[str, str]
    kind: str  #: Kind of the judge's scores; empty if the judge has no scores.
    relevant: int  #: Lowest grade that counted as relevant in the first of the runs that the calibration was fitted to.
    first_stage: FittedFirstStage | None  #: The first stage; None if the runs had no first-stage scores.
    fits: Mapping[FitName, Fit]
    depths: tuple[int, ...]  #: Lengths of the lists that the models were fitted to.
    report: Mapping[str, Any] = field(default_factory=dict)  #: Measures on held-out queries, for information only.
    base: ModelBase | None = None  #: The published model whose weights the ranker runs; None if it is not known.
    #: Other weights of this model (hashes or commits) for which the calibration was shown to hold, each with the
    #: evidence. For all other weights it gives no probabilities.
    holds_for: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bases = {"rank", *({"judge"} & {name.partition("+")[0] for name in self.fits})}
        needed = bases if self.first_stage is None else bases | {f"{base}+first-stage" for base in bases}
        if set(self.fits) != needed:
            raise DataError(
                f"The calibration has the fits {', '.join(self.fits) or '(none)'}", expected=", ".join(sorted(needed))
            )
        for name, fit in self.fits.items():
            if fit.documents.regression.inputs not in (INPUTS[name], OLDER_INPUTS.get(name)):
                raise DataError(
                    f"The fit {name!r} has the inputs {', '.join(fit.documents.regression.inputs)}",
                    expected=", ".join(INPUTS[name]),
                )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a calibration file and check it. No code in the file is executed.

        Raises:
            MissingResourceError: The file does not exist.
            DataError: The file is not a calibration, or it has another version of the format.
        """
        from pydantic import TypeAdapter, ValidationError

        parsed = parse_json(read_settings_text(path, "calibration"), str(path))
        content = parsed if isinstance(parsed, dict) else {}
        if content.pop("format", None) != _FORMAT:
            raise DataError(f"{str(path)!r} is not a calibration", expected="a file that `rerank calibrate` wrote")
        if (version := content.pop("version", None)) != _VERSION:
            raise DataError(
                f"{str(path)!r} has version {error_repr(version)} of the calibration format",
                expected=f"version {_VERSION}",
                remedy="Fit the calibration again with `rerank calibrate`, or install a newer version of listrank",
            )
        try:
            return TypeAdapter(cls).validate_json(json.dumps(content), strict=True)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise DataError(f"{str(path)!r}: {where} {describe_pydantic_error(fault)}") from error
        except DataError as error:
            raise DataError(f"{str(path)!r}: {error.found}", expected=error.expected) from error

    def save(self, path: str | Path) -> None:
        """Write the calibration file. An existing file is replaced atomically.

        Raises:
            MissingResourceError: The folder does not exist.
            StorageError: The file cannot be written.
        """
        fields = asdict(self)
        later = {name: value for name in ("base", "holds_for") if (value := fields.pop(name))}
        content = {"format": _FORMAT, "version": _VERSION, **fields, **later}
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        # every innermost list is on one line
        text = re.sub(r"\[\n([^][{}]*)\n *\]", lambda match: f"[{' '.join(match[1].split())}]", text)
        with replace_text_file(path) as file:
            file.write(text + "\n")

    def check(self, ranker_identity: Mapping[str, str]) -> None:
        """Raise a `UsageError` that lists the differences of a ranker (see `identity_bound_to_calibration`), if any."""
        if differences := describe_ranker_differences(self.ranker, self._as_fitted(ranker_identity)):
            raise UsageError(
                f"The calibration belongs to another ranker: {', '.join(differences)}",
                remedy="Fit a calibration for this ranker with `rerank calibrate`, or omit the calibration",
            )

    def differs_in_weights(self, ranker_identity: Mapping[str, str], base: ModelBase | None) -> bool:
        """Return whether a ranker differs from the calibration's only in the weights of one published model."""
        if self.base is None or not self.base.is_same(base):
            return False
        fitted, current = (
            {key: value for key, value in ranker.items() if key not in WEIGHTS}
            for ranker in (self.ranker, self._as_fitted(ranker_identity))
        )
        return not describe_ranker_differences(fitted, current)

    def _as_fitted(self, ranker_identity: Mapping[str, str]) -> Mapping[str, str]:
        """Return the identity of a ranker, with the fitted weights in place of weights for which this also holds."""
        current = ranker_identity.get("weights") or ranker_identity.get("revision")
        # Calibrations of some versions do not record the commits of models on the hub.
        is_recorded = bool({"weights", "revision"} & self.ranker.keys()) or "revision" not in ranker_identity
        is_same = not is_recorded and self.ranker.get("model") == ranker_identity.get("model")
        if current not in self.holds_for and not is_same:
            return ranker_identity
        fitted = {key: self.ranker[key] for key in WEIGHTS if key in self.ranker}
        return {key: value for key, value in ranker_identity.items() if key not in WEIGHTS} | fitted

    def apply(
        self,
        judge_scores: Sequence[float | None] | None,
        first_stage: Sequence[float] | None,
        *,
        first_stage_name: str | None,
    ) -> CalibratedList:
        """Convert the scores of one ranked list, in ranking order, to probabilities of relevance.

        All scores are raw. ``judge_scores`` has None for documents without a score; it is None itself if the judge has
        no scores. If the name of the first stage differs from the one in the calibration, or its median score is
        outside the range in the training set, the fit without first-stage scores is used.

        Raises:
            UsageError: Both ``judge_scores`` and ``first_stage`` are None (pass one None per document as
                ``judge_scores`` instead), or their lengths differ.
            DataError: A score is not finite.
        """
        if judge_scores is None and first_stage is None:
            raise UsageError(
                "The list has no judge scores and no first-stage scores, so its length is unknown",
                expected="at least one of these two kinds of scores",
                remedy="Pass one None per document as judge_scores",
            )
        if judge_scores is not None and first_stage is not None and len(judge_scores) != len(first_stage):
            raise UsageError(
                f"The list has {len(judge_scores)} judge scores and {len(first_stage)} first-stage scores",
                expected="one of each per document",
            )
        for what, values in (("judge score", judge_scores or ()), ("first-stage score", first_stage or ())):
            for rank, value in enumerate(values, 1):
                if value is not None and not math.isfinite(value):
                    raise DataError(f"The {what} at rank {rank} is {value}", expected="a finite number")
        count = len(judge_scores if judge_scores is not None else first_stage or ())
        judge = [None] * count if judge_scores is None else judge_scores
        scores = first_stage if self._is_fitted_to(first_stage, first_stage_name) else None
        scored = [i for i, score in enumerate(judge) if score is not None] if "judge" in self.fits else []
        others = sorted({*range(count)} - {*scored})
        probabilities = [0.0] * count
        used: list[FitName] = []
        for positions, name in ((scored, "judge"), (others, "rank")):
            if positions or (name == "rank" and not used):
                fit = cast(FitName, name if scores is None else f"{name}+first-stage")
                used.append(fit)
                columns = document_inputs(
                    self.fits[fit].documents.regression.inputs,
                    judge=[judge[i] for i in positions],
                    first_stage=None if scores is None else [scores[i] for i in positions],
                    ranks=[i + 1 for i in positions],
                    length=max(count, 1),
                )
                for i, p in zip(positions, self.fits[fit].documents.probabilities(columns), strict=True):
                    probabilities[i] = p
        relevance = make_non_increasing(probabilities)
        return CalibratedList(
            relevance=tuple(relevance), answerable=self.fits[used[0]].answerable(relevance), fit=", ".join(used)
        )

    def _is_fitted_to(self, scores: Sequence[float] | None, name: str | None) -> bool:
        if not scores or self.first_stage is None or name not in (None, self.first_stage.name):
            return False
        return self.first_stage.low <= sorted(scores)[len(scores) // 2] <= self.first_stage.high
