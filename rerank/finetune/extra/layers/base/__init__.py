"""The protocol of components that act between optimizer steps: layer sampling and `rerank.finetune.extra.callbacks`."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from rerank.finetune.components import CalibrationBatches, ParameterKind, TrainingComponent


class CallbackPart(TrainingComponent, Protocol):
    """Component that supplies a trainer callback. Its fields are its options."""

    #: Kinds of trained parameters that it supports.
    fits: ClassVar[frozenset[ParameterKind]]
    #: Reason why it does not support the others, as a sentence; empty if it supports all.
    reason: ClassVar[str]

    def callback(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return a `transformers.TrainerCallback`.

        A training resumed at step s must behave like an uninterrupted one: random choices depend on seed and step only,
        or are stored in ``TrainerState`` (as ``ExportableState``).
        """
