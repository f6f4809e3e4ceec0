"""What a model is asked and what it returns: tasks, requests, replies, and the backend protocol."""

from rerank.tasks.kinds import Attend, Permute, Recite, Relate, Task, Weigh, Write, tasks_of
from rerank.tasks.options import DTYPES, BackendOptions, context_of
from rerank.tasks.requests import Backend, Finish, Reply, Request, Sampling

__all__ = [
    "DTYPES",
    "Attend",
    "Backend",
    "BackendOptions",
    "Finish",
    "Permute",
    "Recite",
    "Relate",
    "Reply",
    "Request",
    "Sampling",
    "Task",
    "Weigh",
    "Write",
    "context_of",
    "tasks_of",
]
