"""What a way of sampling layers is: a callback of transformers' trainer that decides which layers train.

Whatever is done between steps (`rerank.finetune.extra.callbacks`) has the same form.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from rerank.finetune.parts import Calibrate, Part, Shape


class Between(Part, Protocol):
    """Something that acts between steps. Its fields are its options."""

    #: What may train under it.
    fits: ClassVar[frozenset[Shape]]
    #: Why it does not fit the others, as a sentence; empty where it fits all.
    reason: ClassVar[str]

    def callback(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """A `transformers.TrainerCallback`.

        Training that is resumed at step s acts as one that came there without a break: what is drawn depends on the
        seed and the step alone, or is kept in ``TrainerState`` (as ``ExportableState``).
        """
