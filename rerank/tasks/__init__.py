"""What a model is asked and what it returns: tasks, requests, replies, and the backend protocol."""

from rerank.tasks.kinds import (
    AttentionTask,
    ContinuationTask,
    CrossEncoderTask,
    GenerationTask,
    LikelihoodTask,
    PermutationTask,
    Task,
    tasks_of,
)
from rerank.tasks.options import DTYPES, BackendOptions, context_of
from rerank.tasks.requests import Backend, Finish, Reply, Request, Sampling

__all__ = [
    "DTYPES",
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
    "context_of",
    "tasks_of",
]
