"""The base class of backends for local models, and the processes that use a model. Torch is imported on use.

The threads of torch and the state of an accelerator do not survive a fork, so a model of the parent process would hang.
With tensor parallelism, one model is split over the processes that torchrun started. Only process 0 (the leader) runs
the program. It broadcasts every batch before it calls the model, and the other processes (followers) take part in the
same forward passes.
"""

import atexit
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from rerank.errors import BackendError, RerankError, UsageError, ensure
from rerank.io.model_base import ModelBase
from rerank.lm.model_files import ModelFiles, locate_model
from rerank.tasks import BackendOptions
from rerank.tasks.backends import BaseBackend

#: Id of the process in which the first local model was used; forked processes inherit the value.
_process: int | None = None


def require_model_process() -> None:
    """Check that this process was not forked after a local model was used. Call this before using a model."""
    global _process
    if _process is None:
        _process = os.getpid()
    if _process != os.getpid():
        raise UsageError(
            f"A local model was used in process {_process}, from which this process was forked, and would hang here",
            expected="a process that was started by spawn",
            remedy="Use multiprocessing.get_context('spawn') and pass the reranker or its settings to the process",
        )


def check_scores(scores: Iterable[float], what: str = "scores") -> None:
    """Refuse scores, logits or other numbers that a local model computed if one of them is not finite."""
    ensure(
        all(map(math.isfinite, scores)),
        f"The model computes {what} that are not numbers",
        expected="a data type whose range its activations do not exceed",
        remedy="Pass --dtype float32, or bfloat16 where the model was trained in it",
        error=BackendError,
    )


class LocalModel(BaseBackend):
    """Base class of backends that run a model in this process. Pickling stores its name and options, not its weights.

    A model that was passed as an object has neither ``files`` nor a ``settings_folder``.
    """

    identity: Mapping[str, str]
    files: ModelFiles | None = None
    #: Calls cost time but no money, so they are stored only in the run folder.
    costs_money = False
    _options: BackendOptions = BackendOptions()

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Self:
        """Load a model from a folder or from the hub."""
        raise NotImplementedError

    @staticmethod
    def choose_gpus(options: BackendOptions) -> int:
        """Return the number of GPUs that a process needs for a model with these options, if there are any.

        It is 0, which hides no GPU, if a device map or a device's number selects among all that there are.
        """
        return int(options.device in ("auto", "cuda", "cuda:0") and not options.device_map)

    @property
    def gpus(self) -> int:  # type: ignore[override]
        return self.choose_gpus(self._options)

    @property
    def base(self) -> ModelBase | None:  # type: ignore[override]
        return None if self.files is None else self.files.base

    def set_source(self, files: ModelFiles | str | Path, options: BackendOptions) -> None:
        """Store what ``load`` has loaded, its files or its name, so that another process can load it."""
        if not isinstance(files, ModelFiles):
            files = locate_model(files, options.revision or "", weights=False)
        adapter = str(Path(options.adapter).absolute()) if options.adapter else ""
        changes = {"adapter": adapter, "revision": files.commit or options.revision}
        self.files, self._options = files, options.model_copy(update=changes)
        self.settings_folder = Path(options.adapter or files.folder).absolute()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.files is None:
            raise UsageError(
                f"The model {self.identity.get('model', '')!r} exists only in the memory of this process",
                expected="a model that another process can load",
                remedy="Save the model with save_pretrained, then load it from that folder",
            )
        files = replace(self.files, folder=self.files.folder.absolute())
        return _reopen_in_process, (type(self).load, files, self._options, tuple(self.identity.items()))


def _reopen_in_process(*source: Any) -> Any:
    return _reopen(os.getpid(), *source)


@lru_cache(maxsize=1)  # a worker that receives the same reranker with every task loads its model once
def _reopen(
    process: int,
    load: Callable[[str | Path, BackendOptions], Any],
    files: ModelFiles,
    options: BackendOptions,
    identity: tuple[tuple[str, str], ...],
) -> Any:
    # The cache of the hub may be elsewhere in the other process, so a commit is looked up by its name.
    backend = load(files.name, options)
    backend.files = replace(backend.files, hub_id=files.hub_id)
    if dict(backend.identity) != dict(identity):
        raise BackendError(
            f"Model {str(files)!r} is not the model that was pickled: {dict(backend.identity)}",
            expected=str(dict(identity)),
            remedy="Use the same files and the same kind of device, or open the reranker in this process",
        )
    return backend


def parallel_arguments() -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that split a model over all processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:  # the number of processes that torchrun started
        raise UsageError(
            "--device-map is tp, but there is only one process",
            expected="one process per device, started by torchrun",
            remedy="Run: torchrun --nproc-per-node DEVICES -m rerank ...; or use --device-map auto",
        )
    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    except (ImportError, TypeError):  # an older transformers
        return {"tp_plan": "auto"}


def is_split(model: Any) -> bool:
    """Return whether each process holds only a part of every weight matrix."""
    return (getattr(model, "_tp_size", None) or 1) > 1


def follow_leader(process: Callable[[Any], Any]) -> None:
    """Process every broadcast batch in a follower until the leader ends, then exit; return at once in the leader."""
    import torch.distributed as distributed

    if distributed.get_rank() == 0:
        atexit.register(broadcast_batch, None)
        return
    while True:
        objects: list[Any] = [None]
        distributed.broadcast_object_list(objects, src=0)
        if objects[0] is None:
            raise SystemExit(0)
        try:
            process(objects[0])
        except (RuntimeError, MemoryError, RerankError):  # the leader has the same error and reports it
            continue


def broadcast_batch(batch: Any) -> None:
    """Send the next batch to the followers; None tells them to exit."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.broadcast_object_list([batch], src=0)
