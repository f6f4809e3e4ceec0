"""Tasks, requests, replies, and the backend protocol."""

from rerank.tasks.kinds import (
    AttentionTask,
    ContinuationTask,
    CrossEncoderTask,
    GenerationTask,
    LikelihoodTask,
    PermutationTask,
    Task,
    backend_sees_pictures,
    is_backend_selectable,
    tasks_supported_by_backend,
)
from rerank.tasks.options import DTYPES, BackendOptions, backend_settings_folder, resolve_context_size
from rerank.tasks.requests import AsyncBackend, Backend, Finish, Reply, Request, Sampling

__all__ = [
    "DTYPES",
    "AsyncBackend",
    "AttentionTask",
    "Backend",
    "BackendOptions",
    "ContinuationTask",
    "CrossEncoderTask",
    "Finish",
    "GenerationTask",
    "LikelihoodTask",
    "PermutationTask",
    "Reply",
    "Request",
    "Sampling",
    "Task",
    "backend_sees_pictures",
    "backend_settings_folder",
    "is_backend_selectable",
    "resolve_context_size",
    "tasks_supported_by_backend",
]
