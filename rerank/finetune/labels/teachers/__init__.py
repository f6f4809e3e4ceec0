"""Teachers: who puts the candidates of a first stage in order, one a file, opened by name.

Any first stage that is no teacher of its own, such as ``bm25`` or ``hybrid:bm25+dense``, is one as well.
"""

from __future__ import annotations

from typing import cast

from rerank.errors import UnknownNameError
from rerank.finetune.labels.teachers.base import Opinion, Task, Teacher
from rerank.registry import Registry
from rerank.retrieval import first_stages
from rerank.selector import Selector, build

__all__ = ["Opinion", "Task", "Teacher", "open_teacher", "teachers"]

teachers = Registry("finetune.labels.teachers", "teacher")


def open_teacher(selector: str) -> Teacher:
    """Open a teacher, e.g. ``method``, ``run:FILE``, ``qrels``, ``dense`` or ``bm25,k1=1.2``.

    Raises:
        UnknownNameError: No such teacher and no such first stage, or no such option; the message suggests the nearest.
        UsageError: An option that does not fit.
    """
    name = Selector.parse(selector).name.replace("-", "_")
    if name in teachers.names():
        return cast(Teacher, build(teachers, selector))
    if name in first_stages.names():
        return cast(Teacher, teachers.get("search")(selector))
    raise UnknownNameError("teacher", name, {*teachers.names(), *first_stages.names()})
