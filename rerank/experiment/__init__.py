"""Functions that prepare, estimate, execute, replay and verify whole runs, as the commands do."""

from rerank.experiment.estimate import estimate_run_cost
from rerank.experiment.execute import (
    check_failure_rate,
    check_run_folder,
    execute_run,
    run_experiment,
    show_run_progress,
)
from rerank.experiment.prepare import PreparedRun, prepare_run
from rerank.experiment.replay import replay_and_rescore_run, replay_run_folder, verify_run_folder

__all__ = [
    "PreparedRun",
    "check_failure_rate",
    "check_run_folder",
    "estimate_run_cost",
    "execute_run",
    "prepare_run",
    "replay_and_rescore_run",
    "replay_run_folder",
    "run_experiment",
    "show_run_progress",
    "verify_run_folder",
]
