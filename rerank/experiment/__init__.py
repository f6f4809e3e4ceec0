"""Whole runs: prepare, estimate, execute, replay and verify them. The library side of `rerank run`."""

from __future__ import annotations

from rerank.experiment.estimate import estimate
from rerank.experiment.execute import check_failures, execute, run
from rerank.experiment.prepare import PreparedRun, prepare
from rerank.experiment.replay import replay, rescore, verify

__all__ = ["PreparedRun", "check_failures", "estimate", "execute", "prepare", "replay", "rescore", "run", "verify"]
