"""The identity to which a calibration is bound: the ranker's model, adapter, method and prompt, and its first stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rerank.errors import error_repr

#: Keys of a ranker's identity that determine its scores. Data types, batches and limits change scores only slightly.
BOUND = ("model", "weights", "revision", "adapter", "strategy", "judge", "passages", "heads", "prompt")


def identity_bound_to_calibration(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of a run's identity to which a calibration is bound.

    Args:
        identity: The value of ``identity`` in a run folder's ``spec.json``, or a mapping with the same keys: ``model``
            (the identity of the backend), ``strategy``, ``judge``, ``prompt``, and ``passages`` and ``heads`` if they
            exist. Other keys are ignored.
    """
    model = identity.get("model", {})
    flat = {**identity, **(model if isinstance(model, Mapping) else {"model": model})}
    return {key: str(flat[key]) for key in BOUND if flat.get(key)}


def describe_calibrated_ranker_differences(fitted: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """Describe how a calibration's ranker differs from another, such as ``prompt is 'a' there and 'b' here``.

    The list is empty if the rankers do not differ.

    The name of the model is ignored if both rankers have a hash of the weights, because the same model may be stored in
    several folders.
    """
    keys = [key for key in BOUND if fitted.get(key, "") != current.get(key, "")]
    if fitted.get("weights") and current.get("weights"):
        keys = [key for key in keys if key != "model"]
    there, here = (
        {key: _format_calibrated_ranker_setting(ranker.get(key)) for key in keys} for ranker in (fitted, current)
    )
    return [f"{key} is {there[key]} there and {here[key]} here" for key in keys]


#: Keys that tell which weights of a model were used.
WEIGHTS = ("model", "weights", "revision")


def first_stage_of_calibration(selector: str) -> str:
    """Return the name under which a calibration stores a first stage: its selector, without the path of a run file.

    Examples:
        >>> first_stage_of_calibration("bm25,k1=1.2"), first_stage_of_calibration("run:folder/first.trec")
        ('bm25,k1=1.2', 'run')
    """
    return "run" if selector.startswith("run:") else selector


def _format_calibrated_ranker_setting(value: str | None) -> str:
    return error_repr(value, 70) if value else "none"
