"""Tasks, requests, replies, and the backend protocol."""

from rerank.tasks.kinds import (
    AttentionTask,
    ContinuationTask,
    CrossEncoderTask,
    GenerationTask,
    LikelihoodTask,
    LogitTask,
    PermutationTask,
    Task,
    task_backend_is_selectable,
    task_backend_sees_pictures,
    task_backend_takes_verbatim,
    tasks_supported_by_backend,
)
from rerank.tasks.options import (
    DTYPES,
    BackendOptions,
    FileAddress,
    ServerAddress,
    resolve_task_context_size,
    task_backend_settings_folder,
)
from rerank.tasks.requests import AsyncBackend, Backend, CancelledAfterReplyError, Finish, Reply, Request, Sampling

__all__ = [
    "DTYPES",
    "AsyncBackend",
    "AttentionTask",
    "Backend",
    "BackendOptions",
    "CancelledAfterReplyError",
    "ContinuationTask",
    "CrossEncoderTask",
    "FileAddress",
    "Finish",
    "GenerationTask",
    "LikelihoodTask",
    "LogitTask",
    "PermutationTask",
    "Reply",
    "Request",
    "Sampling",
    "ServerAddress",
    "Task",
    "resolve_task_context_size",
    "task_backend_is_selectable",
    "task_backend_sees_pictures",
    "task_backend_settings_folder",
    "task_backend_takes_verbatim",
    "tasks_supported_by_backend",
]
