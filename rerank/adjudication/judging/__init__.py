"""Judging sessions that can be interrupted and resumed. The assessor is a person or a language model."""

from rerank.adjudication.judging.grader import Grader, judge_session_by_model
from rerank.adjudication.judging.session import JudgingSession, JudgingTerms, Judgment, PoolTexts

__all__ = ["Grader", "JudgingSession", "JudgingTerms", "Judgment", "PoolTexts", "judge_session_by_model"]
