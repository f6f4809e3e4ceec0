"""Storage of a run: call log, manifest (``spec.json``), candidates and results."""

from __future__ import annotations

from rerank.store.call_log import Call, CallLog, shared_cache
from rerank.store.logging_backend import LoggingBackend, Usage
from rerank.store.run_folder import RunFolder, identity_hash

__all__ = ["Call", "CallLog", "LoggingBackend", "RunFolder", "Usage", "identity_hash", "shared_cache"]
