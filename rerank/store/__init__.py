"""What is kept of a run: the call log, the folder around it, and how both are read again."""

from __future__ import annotations

from rerank.store.calls import Call, CallLog, shared_cache
from rerank.store.folder import RunFolder, identity_hash
from rerank.store.logged import Logged, Usage

__all__ = ["Call", "CallLog", "Logged", "RunFolder", "Usage", "identity_hash", "shared_cache"]
