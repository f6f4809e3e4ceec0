"""Tasks, requests, replies, and the backend protocol."""

from rerank.tasks.kinds import (
    AttentionTask,
    ContinuationTask,
    CrossEncoderTask,
    DecisionTask,
    GenerationTask,
    LikelihoodTask,
    PermutationTask,
    QuestionType,
    Task,
    task_backend_is_selectable,
    task_backend_sees_pictures,
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
    "DecisionTask",
    "FileAddress",
    "Finish",
    "GenerationTask",
    "LikelihoodTask",
    "PermutationTask",
    "QuestionType",
    "Reply",
    "Request",
    "Sampling",
    "ServerAddress",
    "Task",
    "resolve_task_context_size",
    "task_backend_is_selectable",
    "task_backend_sees_pictures",
    "task_backend_settings_folder",
    "tasks_supported_by_backend",
]
