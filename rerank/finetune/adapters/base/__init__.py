"""What an adapter is: it readies a model for training, and writes what came of it in a form that others load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from rerank.finetune.parts import Calibrate, Part, Shape


class Adapter(Part, Protocol):
    """A way of training a model. Its fields are its options; `LinearTargets` holds those that most have."""

    #: What trains, for optimizers and layer sampling, which fit some shapes only.
    shape: ClassVar[Shape]
    #: Whether the model computes the same before and after `attach`, up to rounding.
    identity: ClassVar[bool]
    #: Whether `attach` changes weights of the base model, so that a checkpoint has to keep them.
    moves_base: ClassVar[bool]
    #: Whether what was trained can be added to the base model's weights (`merge_and_unload` of peft).
    merges: ClassVar[bool]
    #: Whether `save` writes an adapter, for `peft.PeftModel.from_pretrained`, or a whole model, for
    #: `transformers.AutoModelForCausalLM.from_pretrained`.
    saves: ClassVar[Literal["adapter", "model"]]
    #: Whether what `save` writes loads in vLLM as a LoRA.
    vllm: ClassVar[bool]
    #: ``cuda`` where it does not run without; else empty.
    needs: ClassVar[str]

    def attach(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """Return the model to train: a `peft.PeftModel`, or ``model`` itself where its own weights train.

        What is to train asks for gradients afterwards, and nothing else does. The same model, data and seed give the
        same result to the bit.

        Args:
            model: A causal language model of transformers, in evaluation mode.
            calibrate: Batches, for adapters that begin from gradients.
            seed: For whatever is drawn; torch's own generator may be seeded with it.

        Raises:
            UsageError: The options do not fit the model.
            MissingPrerequisiteError: Something that it needs is not here, such as CUDA.
        """

    def save(self, model: Any, folder: Path) -> None:
        """Write what was trained so that `peft.PeftModel.from_pretrained` loads it onto the untouched base model.

        ``adapter_config.json`` and ``adapter_model.safetensors``; a whole model where `saves` says so.

        Args:
            model: What `attach` returned, trained. It may be trained on afterwards: nothing in it changes.
            folder: An existing folder.
        """

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """(rows, columns) of what it would train in an untouched model, as `trainable` asks for them."""

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """How many numbers train, by the published formula.

        Args:
            shapes: (rows, columns) of the weight of every matrix that is adapted; all parameters' for full training,
                vectors as (1, size).
        """


@runtime_checkable
class SupportsCallbacks(Protocol):
    """An adapter that has something to do between steps."""

    def callbacks(self, model: Any) -> list[Any]:
        """Callbacks of transformers' trainer for a model that `attach` returned."""
