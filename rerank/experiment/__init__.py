"""Whole runs: prepared, estimated, executed, replayed, verified. The library side of `rerank run` and its relatives."""

from __future__ import annotations

from rerank.experiment.estimate import estimate
from rerank.experiment.execute import check_failures, execute, run
from rerank.experiment.prepare import Prepared, prepare
from rerank.experiment.replay import replay, rescore, verify

__all__ = ["Prepared", "check_failures", "estimate", "execute", "prepare", "replay", "rescore", "run", "verify"]
