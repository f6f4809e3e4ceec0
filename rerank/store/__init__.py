"""Storage of a run in its folder: call log (all model calls), manifest (``spec.json``), candidates and results."""

from __future__ import annotations

from rerank.store.call_log import CallLog
from rerank.store.call_log_repair import CallLogRepair, repair_call_log
from rerank.store.call_log_rows import Call
from rerank.store.logging_backend import LoggingBackend, NoLog, log_calls
from rerank.store.run_folder import RunFolder, hash_run_folder_identity
from rerank.store.shared_call_cache import open_shared_call_cache

__all__ = [
    "Call",
    "CallLog",
    "CallLogRepair",
    "LoggingBackend",
    "NoLog",
    "RunFolder",
    "hash_run_folder_identity",
    "log_calls",
    "open_shared_call_cache",
    "repair_call_log",
]
