"""Ways of putting one window in order: one a file, found by name."""

from __future__ import annotations

from rerank.judges.base import FAILURES, STATUSES, Judge, Status, Verdict
from rerank.registry import Registry

__all__ = ["FAILURES", "STATUSES", "Judge", "Status", "Verdict", "judges"]

judges = Registry("judges", "judge")
