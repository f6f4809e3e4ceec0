"""A training in one of several processes, which notes what it holds after a step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch.distributed

from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer import training_run
from rerank.finetune.trainer.list_trainer import ListTrainer
from rerank.finetune.trainer.training import train_adapter


def train(recipe: str, folder: Path, resume: bool, meeting: str, rank: int, processes: int) -> None:
    """Train, and write the bytes of weights, gradients and optimizer state; errors go to a file beside the folder.

    ``meeting`` is the file by which the processes find each other, without a network.
    """
    os.dup2(os.open(errors_of(folder, rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    torch.set_num_threads(1)
    held: dict[str, int] = {}
    _measure(held)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "unused", "MASTER_PORT": "1"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    train_adapter(Recipe.make(json.loads(recipe)), folder, device="cpu", resume=resume)
    held_by(folder, rank).write_text(json.dumps(held))


def errors_of(folder: Path, rank: int) -> Path:
    return Path(f"{folder}.errors{rank}")


def held_by(folder: Path, rank: int) -> Path:
    return Path(f"{folder}.held{rank}")


def _measure(held: dict[str, int]) -> None:
    """Note the bytes before weights are sharded, when gradients are clipped and when a step is logged."""
    run: Any = training_run
    clip, log, shard = ListTrainer._get_grad_norm, ListTrainer.log, run.shard_weights

    def sharded(module: Any, *arguments: Any) -> None:
        storages = {value.untyped_storage()._cdata: value.untyped_storage() for value in module.parameters()}
        held.update(read=sum(storage.nbytes() for storage in storages.values()))
        shard(module, *arguments)

    def clipped(self: Any, model: Any, grad_norm: Any = None) -> Any:
        weights = list(model.parameters())
        # Of the adapter shadow, what is behind the last layer does not train, and is not a weight of the model.
        layers = [(n, v) for n, v in model.named_parameters() if ".layers." in n and "shadow" not in n]
        frozen = [value for _, value in layers if not value.requires_grad]
        held.update(weights=_size(_part(weights)), frozen=_size(_part(frozen)), frozen_whole=_size(frozen))
        held.update(gradients=_size(_part(value.grad for value in weights if value.grad is not None)))
        return clip(self, model, grad_norm)

    def logged(self: Any, *args: Any, **options: Any) -> Any:
        states = [v for entry in self.optimizer.state.values() for k, v in entry.items() if k != "step"]
        held.update(state=_size(_part(states)))
        return log(self, *args, **options)

    ListTrainer._get_grad_norm, ListTrainer.log = clipped, logged  # type: ignore[method-assign]
    run.shard_weights = sharded


def _part(values: Iterable[Any]) -> list[Any]:
    """Return what this process holds of each value."""
    return [getattr(value, "to_local", lambda value=value: value)() for value in values]


def _size(values: Iterable[Any]) -> int:
    return sum(value.numel() * value.element_size() for value in values)
