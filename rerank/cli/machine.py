"""How a model that a command asks is loaded, as options that several commands have. Knows no command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rerank.models import BackendOptions

#: Under which heading help shows them.
PANEL = "The model that is asked"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how a model runs; None is what was not said."""

    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps or auto. (default: auto)", rich_help_panel=PANEL)
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16, float16 or auto. (default: auto)", rich_help_panel=PANEL),
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Documents asked about together.", rich_help_panel=PANEL)
    ] = None
    base_url: Annotated[
        str | None, typer.Option(help="Where a server is, for --model openai:NAME.", rich_help_panel=PANEL)
    ] = None

    def options(self) -> BackendOptions:
        """The same for `rerank.models.open_backend`."""
        from rerank.models import BackendOptions

        return BackendOptions(
            device=self.device or "auto",
            dtype=self.dtype or "auto",
            batch_size=self.batch_size,
            base_url=self.base_url or "",
        )
