"""Judging sessions that can be interrupted and resumed. The assessor is a person or a language model."""

from __future__ import annotations

from rerank.adjudication.judging.grader import Grader
from rerank.adjudication.judging.judging_terms import JudgingTerms
from rerank.adjudication.judging.judgment import Judgment
from rerank.adjudication.judging.model_judging import judge_session_by_model
from rerank.adjudication.judging.pool_texts import PoolTexts
from rerank.adjudication.judging.session import JudgingSession

__all__ = ["Grader", "JudgingSession", "JudgingTerms", "Judgment", "PoolTexts", "judge_session_by_model"]
