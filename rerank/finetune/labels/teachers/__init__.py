"""Teachers, which rank the candidates of a first stage and are opened by name.

First stages without a teacher of the same name, such as ``bm25`` or ``hybrid:bm25+dense``, can be used as teachers too.
"""

from typing import cast

from rerank.errors import UnknownNameError
from rerank.finetune.labels.teachers.base import LabellingTask, Teacher, TeacherRanking
from rerank.registry import Registry
from rerank.retrieval import first_stages
from rerank.selector import Selector, build_from_selector

__all__ = ["LabellingTask", "Teacher", "TeacherRanking", "open_teacher", "teachers"]

teachers = Registry(
    "finetune.labels.teachers", "teacher", shared={"finetune.labels.teachers.built_in": "dense method qrels run search"}
)


def open_teacher(selector: str) -> Teacher:
    """Open a teacher, such as ``method``, ``run:FILE``, ``qrels``, ``dense`` or ``bm25,k1=1.2``."""
    if (name := Selector.parse(selector).name.replace("-", "_")) in teachers.names():
        return cast(Teacher, build_from_selector(teachers, selector))
    if name in first_stages.names():
        return cast(Teacher, teachers.get("search")(selector))
    raise UnknownNameError("teacher", name, {*teachers.names(), *first_stages.names()})
