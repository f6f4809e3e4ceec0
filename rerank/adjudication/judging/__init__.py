"""Judging itself: sessions that can be left and taken up again, by people at the keyboard or by a language model."""

from __future__ import annotations

from rerank.adjudication.judging.asking import judge_by_model
from rerank.adjudication.judging.grading import Grader
from rerank.adjudication.judging.judgment import Judgment
from rerank.adjudication.judging.session import Session
from rerank.adjudication.judging.terms import Terms
from rerank.adjudication.judging.texts import Texts

__all__ = ["Grader", "Judgment", "Session", "Terms", "Texts", "judge_by_model"]
