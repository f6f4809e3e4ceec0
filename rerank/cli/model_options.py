"""Options for loading a model and for the engine that runs it, shared by several commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rerank.experiment.spec import Execution
    from rerank.models import BackendOptions

#: Heading of these options in help texts.
PANEL = "Model"


@dataclass(frozen=True, kw_only=True)
class ModelLoadOptions:
    """Options for loading a model. Omitted options are None."""

    device: Annotated[
        str | None,
        typer.Option(help="Torch device: cpu, cuda, cuda:1, mps or auto. (default: auto)", rich_help_panel=PANEL),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(help="Data type: float32, bfloat16, float16 or auto. (default: auto)", rich_help_panel=PANEL),
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Number of prompts per batch.", rich_help_panel=PANEL)
    ] = None
    base_url: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of the server of an openai:, api: or decisions: model; repeatable for several servers.",
            rich_help_panel=PANEL,
        ),
    ] = None

    def options(self) -> BackendOptions:
        """Return the options in the form that `rerank.models.open_model_backend` accepts."""
        from rerank.models import BackendOptions

        given = {name: getattr(self, name) for name in ModelLoadOptions.__dataclass_fields__}
        return BackendOptions(**{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options for the processes that run a model. Omitted options are None."""

    engine: Annotated[
        str | None,
        typer.Option(help="Where the model runs: local, ray, or ray:ADDRESS. (default: local)", rich_help_panel=PANEL),
    ] = None
    workers: Annotated[int | None, typer.Option(help="Number of workers of the engine ray.", rich_help_panel=PANEL)] = (
        None
    )
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="Number of GPUs per worker of the engine ray.", rich_help_panel=PANEL)
    ] = None
    worker_timeout: Annotated[
        float | None,
        typer.Option(help="Restart a worker that has returned no reply for this many seconds.", rich_help_panel=PANEL),
    ] = None

    def execution(self) -> Execution:
        """Return the options of this group that are fields of `Execution`; other options are ignored."""
        from rerank.experiment.spec import Execution

        given = {key: value for key, value in vars(self).items() if value is not None}
        return Execution.make({key: value for key, value in given.items() if key in Execution.model_fields})
