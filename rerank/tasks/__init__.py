"""Requests to models, the tasks that they contain, replies, and the protocol of the backends that run models."""

from rerank.settings import DTYPES, FileAddress, ServerAddress
from rerank.tasks.backends import (
    BackendOptions,
    resolve_task_context_size,
    task_backend_is_selectable,
    task_backend_sees_pictures,
    task_backend_settings_folder,
    task_backend_takes_verbatim,
    tasks_supported_by_backend,
)
from rerank.tasks.kinds import (
    AttentionTask,
    ContinuationTask,
    CrossEncoderTask,
    DecisionTask,
    FusionTask,
    GenerationTask,
    HeadTask,
    LikelihoodTask,
    LogitTask,
    PermutationTask,
    QuestionType,
    Task,
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
    "FusionTask",
    "GenerationTask",
    "HeadTask",
    "LikelihoodTask",
    "LogitTask",
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
    "task_backend_takes_verbatim",
    "tasks_supported_by_backend",
]
