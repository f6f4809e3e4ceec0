"""The protocol of components that act between optimizer steps: layer sampling and `rerank.finetune.extra.callbacks`."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from rerank.finetune.components import CalibrationBatches, ParameterKind, TrainingComponent


class CallbackPart(TrainingComponent, Protocol):
    """A component that acts between optimizer steps through a trainer callback. Dataclass fields are its options."""

    #: Kinds of trained parameters that the component supports.
    fits: ClassVar[frozenset[ParameterKind]]
    #: Reason why the component does not support the other kinds, as a sentence; empty if it supports all kinds.
    reason: ClassVar[str]

    def callback(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the `transformers.TrainerCallback` through which the component acts.

        Training that is resumed at any step must behave like uninterrupted training. Random choices must therefore
        depend only on seed and step, or be stored in ``TrainerState`` (as ``ExportableState``).
        """
