"""Storage of a run in its folder: call log (all model calls), manifest (``spec.json``), candidates and results."""

from rerank.store.call_log import Call, CallLog, open_shared_cache
from rerank.store.logging_backend import LoggingBackend, NoLog, log_calls
from rerank.store.run_folder import CallLogRepair, RunFolder, hash_identity, repair_call_log

__all__ = [
    "Call",
    "CallLog",
    "CallLogRepair",
    "LoggingBackend",
    "NoLog",
    "RunFolder",
    "hash_identity",
    "log_calls",
    "open_shared_cache",
    "repair_call_log",
]
