"""Which prefixes a batch uses: those that repeat, and those that its prompts share, whatever is cached."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest

pytest.importorskip("torch")

from rerank.lm.local_tasks import plan_prefixes
from tests.lm.prefixed_jobs import make_job, piece

INSTRUCTION, QUERY, SUFFIX = piece(1, 40), piece(2, 10), piece(3, 20)


def passage(start: int, length: int = 50) -> list[int]:
    return piece(start, length)


def pair(first: int, second: int, *, query: Sequence[int] = QUERY) -> list[Sequence[int]]:
    return [INSTRUCTION, query, passage(first), passage(second), SUFFIX]


def test_a_pair_uses_all_prefixes_up_to_its_first_passage() -> None:
    assert plan_prefixes([make_job(pair(100, 110), 2)]) == [(40, 50, 100)]


def test_the_only_passage_is_not_expected_again() -> None:
    job = make_job([INSTRUCTION, QUERY, passage(100), SUFFIX], 1)
    assert plan_prefixes([job]) == [(40, 50)]


def test_a_passage_before_the_query_is_not_expected_again() -> None:
    job = make_job([INSTRUCTION, passage(100), [*QUERY, *SUFFIX]], 1)
    assert plan_prefixes([job]) == [(40,)]


def test_the_first_passage_of_a_long_window_is_not_expected_again() -> None:
    pieces = [INSTRUCTION, QUERY, *(passage(100 + number) for number in range(20)), SUFFIX]
    assert plan_prefixes([make_job(pieces, 20)]) == [(40, 50)]


def test_prompts_of_a_batch_share_a_prefix_up_to_where_they_part() -> None:
    """Not one prefix per passage: only the longest that both have."""
    window = [INSTRUCTION, QUERY, *(passage(100 + number) for number in range(18))]
    jobs = [make_job([*window, passage(200), passage(last), SUFFIX], 20) for last in (210, 220)]
    assert plan_prefixes(jobs) == [(40, 50, 50 + 19 * 50)] * 2
    alone = make_job([INSTRUCTION, QUERY, *(passage(150 + number) for number in range(20)), SUFFIX], 20)
    assert plan_prefixes([*jobs, alone]) == [(40, 50, 50 + 19 * 50), (40, 50, 50 + 19 * 50), (40, 50)]


def test_a_shared_prefix_must_save_more_than_a_forward_pass_costs() -> None:
    """Windows of three that begin with the same two passages."""
    for length, shared in ((8, ()), (50, (150,))):
        pieces = [INSTRUCTION, QUERY, passage(100), passage(110, length)]
        jobs = [make_job([*pieces, passage(last), SUFFIX], 3) for last in (120, 130)]
        assert plan_prefixes(jobs) == [(40, 50, 100, *shared)] * 2


def test_equal_beginnings_without_a_boundary_are_not_shared() -> None:
    jobs = [make_job([[*INSTRUCTION, *QUERY, *passage(100), *passage(last), *SUFFIX]], 2) for last in (110, 120)]
    assert plan_prefixes(jobs) == [(), ()]


def test_a_token_remains_to_predict_the_next_one() -> None:
    job = make_job([INSTRUCTION, QUERY, []], 0)
    assert job.boundaries == (40, 50)
    assert plan_prefixes([job]) == [(40,)]


def test_too_few_boundaries_for_the_passages() -> None:
    """A tokenizer whose tokens cross the boundaries of a template has fewer."""
    job = make_job([INSTRUCTION, passage(100), SUFFIX], 3)
    assert plan_prefixes([job]) == [()]


def test_the_plan_of_a_prompt_depends_on_the_batch_and_not_on_its_order() -> None:
    jobs = [make_job(pair(*ids), 2, index=at) for at, ids in enumerate([(100, 110), (100, 120), (110, 100)])]
    plan = {job.index: ends for job, ends in zip(jobs, plan_prefixes(jobs), strict=True)}
    for order in permutations(jobs):
        assert plan_prefixes(order) == [plan[job.index] for job in order]
    assert plan_prefixes([]) == []
