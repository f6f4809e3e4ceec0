"""The adapter protocol: prepare a model for training, and save the trained parameters in the format of peft."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from rerank.finetune.components import CalibrationBatches, ParameterKind, TrainingComponent


class Adapter(TrainingComponent, Protocol):
    """A method that decides which parameters of a model are trained.

    Dataclass fields are its options; `LinearTargets` defines the options that most adapters share.
    """

    #: Kind of the trained parameters. Optimizers and layer sampling methods support only some kinds.
    shape: ClassVar[ParameterKind]
    #: True if `attach` does not change the outputs of the model, up to rounding.
    identity: ClassVar[bool]
    #: True if `attach` changes weights of the base model, so that a checkpoint has to store them.
    moves_base: ClassVar[bool]
    #: True if the trained parameters can be merged into the base weights (`merge_and_unload` of peft).
    merges: ClassVar[bool]
    #: Output of `save`: an adapter for `peft.PeftModel.from_pretrained`, or a whole model for
    #: `transformers.AutoModelForCausalLM.from_pretrained`.
    saves: ClassVar[Literal["adapter", "model"]]
    #: True if vLLM loads the saved adapter as a LoRA.
    vllm: ClassVar[bool]
    #: Required device: ``cuda``, or empty if the adapter runs on every device.
    needs: ClassVar[str]

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model to train: a `peft.PeftModel`, or ``model`` itself if its own weights are trained.

        Afterwards ``requires_grad`` is True for the trained parameters and False for all others. The result is
        bit-identical for the same model, data and seed.

        Args:
            model: A causal language model of transformers, in evaluation mode.
            calibrate: Calibration batches, for adapters whose initialisation depends on gradients.
            seed: Random seed; implementations may also seed torch's global generator with it.

        Raises:
            UsageError: The options do not fit the model.
            MissingPrerequisiteError: A prerequisite is missing, such as CUDA.
        """

    def save(self, model: Any, folder: Path) -> None:
        """Write the trained parameters so that `peft.PeftModel.from_pretrained` loads them onto the base model.

        The saved adapter applies to the unmodified base model. The files are ``adapter_config.json`` and
        ``adapter_model.safetensors``. If the attribute `saves` is ``model``, a whole model is written instead.

        Args:
            model: The trained model that `attach` returned. The model is not modified, so that training can continue.
            folder: An existing folder.
        """

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """Return the shape (rows, columns) of each weight matrix that would be adapted, for `count_trainable`."""

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of trainable parameters, computed by the formula of the adapter's paper.

        Args:
            shapes: Shape (rows, columns) of every adapted weight matrix. For full fine-tuning, the shapes of all
                parameters, with vectors as (1, size).
        """


@runtime_checkable
class SupportsCallbacks(Protocol):
    """An adapter that acts between optimizer steps, as AdaLoRA does when it prunes ranks."""

    def callbacks(self, model: Any) -> list[Any]:
        """Return `transformers.TrainerCallback` objects for a model that `attach` returned."""


@runtime_checkable
class SupportsPenalty(Protocol):
    """An adapter with a penalty term in the training loss; the penalty depends only on the adapter's parameters."""

    def penalty(self, model: Any) -> Any:
        """Return the weighted penalty for a model that `attach` returned, as a scalar tensor with gradients."""
