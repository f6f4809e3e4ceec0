"""Selection and configuration of services to which a training reports metrics, such as tensorboard and wandb."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from rerank.errors import BackendError, MissingPrerequisiteError, UnknownNameError, UsageError


def pick_reporting_services(names: Sequence[str] | None) -> list[str]:
    """Return the names of the services, as transformers' argument ``report_to`` accepts them.

    Args:
        names: Names of services, or ``none`` for no service. If None, tensorboard is used if it is installed.
    """
    if names is None:
        return ["tensorboard"] if find_spec("tensorboard") else []
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    installed = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    wanted = [name for name in dict.fromkeys(names) if name != "none"]
    if wanted and "none" in names:
        raise UsageError(
            f"--report-to none is combined with --report-to {wanted[0]}", expected="either none or names of services"
        )
    for name in wanted:
        if name not in INTEGRATION_TO_CALLBACK:
            known = [*INTEGRATION_TO_CALLBACK, "none"]
            raise UnknownNameError("reporting service", name, known, limit=len(known))
        if name not in installed:
            raise MissingPrerequisiteError(
                f"The training is to be reported to {name}, which is not installed",
                remedy=f"Run: pip install {name.replace('_', '-')}, or omit --report-to {name}",
            )
    return wanted


@contextmanager
def reporting_environment(folder: Path, services: Sequence[str]) -> Iterator[None]:
    """Set environment variables so that services write into the training folder and send nothing over the network.

    Variables that are already set keep their values, except for the folder of tensorboard. Runs of wandb are offline;
    ``wandb sync`` uploads them. At the end, a wandb run that was started in the context is finished, and the
    variables are restored.

    Args:
        folder: Output folder of the training.
        services: Names of the services in use.
    """
    ours = {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "WANDB_PROJECT": "rerank",
        "MLFLOW_TRACKING_URI": (folder.absolute() / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",  # newer versions of mlflow require it for folders
        "MLFLOW_EXPERIMENT_NAME": "rerank",
    }
    changed = {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard")} | {
        key: value for key, value in ours.items() if key not in os.environ
    }
    before = {key: os.environ.get(key) for key in changed}
    os.environ.update(changed)
    try:
        yield
    except Exception as error:
        service = type(error).__module__.partition(".")[0]
        if service not in services:
            raise
        raise BackendError(
            f"Reporting to {service} failed: {error}",
            remedy=f"Check the settings of {service}, or continue with --resume --report-to none",
        ) from error
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and getattr(wandb, "run", None) is not None:
            wandb.finish()
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
