"""Tasks, requests, replies, and the backend protocol."""

from rerank.tasks.kinds import (
    AttentionTask,
    ContinuationTask,
    CrossEncoderTask,
    GenerationTask,
    LikelihoodTask,
    PermutationTask,
    Task,
    is_selectable,
    sees_pictures,
    supported_tasks,
)
from rerank.tasks.options import DTYPES, BackendOptions, folder_with_settings, resolve_context_size
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
    "folder_with_settings",
    "is_selectable",
    "resolve_context_size",
    "sees_pictures",
    "supported_tasks",
]
