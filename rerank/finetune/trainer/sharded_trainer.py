"""The trainer of a module whose weights are sharded over processes. Imports torch.

Every process writes its part of a sharded optimizer state as tensors. torch.distributed.checkpoint is not used, because
its metadata is a pickle, so a checkpoint from an untrusted source could execute code.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers.trainer import SCHEDULER_NAME

from rerank.finetune.trainer.list_trainer import ListTrainer
from rerank.finetune.trainer.listwise_module import ListwiseModule
from rerank.finetune.trainer.training_folder import training_storage_errors
from rerank.finetune.trainer.weight_sharding import (
    average_replicated_gradients,
    gather_tensor,
    load_optimizer_shard,
    reshard_weights,
    save_optimizer_shard,
    trains_whole_model,
)


class ShardedListTrainer(ListTrainer):
    """Trainer of a module that `shard_weights` has sharded; the arguments are those of `ListTrainer`."""

    def __init__(self, module: ListwiseModule, *args: Any, **options: Any) -> None:
        """Set up the trainer without DistributedDataParallel, which rejects sharded weights."""
        super().__init__(module, *args, **options)
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        self._shards_state = trains_whole_model(module)

    def create_optimizer(self, model: Any = None) -> Any:
        """Build the optimizer over the sharded parameters."""
        reshard_weights(cast(torch.nn.Module, self.model))
        return super().create_optimizer(model)

    def complete_gradients(self) -> None:
        """Average the gradients of the parameters that are not sharded; FSDP has averaged the others."""
        average_replicated_gradients(cast(ListwiseModule, self.model))

    # Checkpoints

    def load_weights(self, folder: Path) -> None:
        """Copy the tensors of a checkpoint into the sharded module; each process reads its own part."""
        reshard_weights(cast(torch.nn.Module, self.model))  # a forward pass may have left gathered weights
        super().load_weights(folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Gather the trained tensors and write them in the first process; all processes must call this method."""
        tensors: dict[str, Tensor] = {}
        for name, value in cast(Any, self.model).state_dict().items():
            if name in self._kept:
                whole = gather_tensor(value.detach())
                if self.args.should_save:
                    tensors[name] = whole.cpu()
        self._save(output_dir, tensors)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._shards_state:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        with training_storage_errors():
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_optimizer_shard(self.optimizer, self._state_file(output_dir))
            if self.args.should_save:
                torch.save(cast(Any, self.lr_scheduler).state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._shards_state or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_optimizer_shard(self.optimizer, self._state_file(checkpoint))
        schedule = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
        cast(Any, self.lr_scheduler).load_state_dict(schedule)

    def _state_file(self, folder: str) -> Path:
        return Path(folder) / f"optimizer_{self.args.process_index}_of_{self.args.world_size}.pt"
