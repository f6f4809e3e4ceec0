"""The protocol of components that act between optimizer steps: layer sampling and `rerank.finetune.extra.callbacks`."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from rerank.finetune.components import CalibrationBatches, ParameterKind, TrainingComponent


class CallbackPart(TrainingComponent, Protocol):
    """Component that supplies a trainer callback. Dataclass fields are its options."""

    #: Kinds of trained parameters that it supports.
    fits: ClassVar[frozenset[ParameterKind]]
    #: Reason why it does not support the other kinds, as a sentence; empty if it supports all kinds.
    reason: ClassVar[str]

    def callback(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return a `transformers.TrainerCallback`.

        A training that is resumed at step s must behave like an uninterrupted one. Random choices must therefore depend
        only on seed and step, or be stored in ``TrainerState`` (as ``ExportableState``).
        """
