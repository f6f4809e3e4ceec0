"""What a calibration is bound to: model, adapter, method and prompt of the ranker, and the name of the first stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rerank.errors import error_repr

#: Keys of a ranker's identity that decide its scores. Number types, batches and limits change them only slightly.
BOUND = ("model", "weights", "revision", "adapter", "strategy", "judge", "passages", "heads", "prompt")


def identity_bound_to_calibration(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of a run's identity that its calibration is bound to.

    Args:
        identity: The ``identity`` of a run folder's ``spec.json``, or the same keys of another ranker: ``model`` (the
            identity of the backend), ``strategy``, ``judge``, ``prompt``, and ``passages`` and ``heads`` if they exist.
            Other keys are ignored.
    """
    model = identity.get("model", {})
    flat = {**identity, **(model if isinstance(model, Mapping) else {"model": model})}
    return {key: str(flat[key]) for key in BOUND if flat.get(key)}


def describe_ranker_differences(fitted: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """Describe how two rankers differ, such as ``prompt is 'a' there and 'b' here``; empty if they do not.

    The name of a model is ignored if both have a hash of its weights, since one model may be in several folders.
    """
    keys = [key for key in BOUND if fitted.get(key, "") != current.get(key, "")]
    if fitted.get("weights") and current.get("weights"):
        keys = [key for key in keys if key != "model"]
    return [
        f"{key} is {_format_ranker_setting(fitted.get(key))} there and {_format_ranker_setting(current.get(key))} here"
        for key in keys
    ]


def calibrated_first_stage_name(selector: str) -> str:
    """Return the name that binds a calibration to a first stage: its selector, without the path of a run file.

    >>> calibrated_first_stage_name("bm25,k1=1.2"), calibrated_first_stage_name("run:folder/first.trec")
    ('bm25,k1=1.2', 'run')
    """
    return "run" if selector.startswith("run:") else selector


def _format_ranker_setting(value: str | None) -> str:
    return error_repr(value, 70) if value else "none"
