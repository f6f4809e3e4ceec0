"""Upper bounds on the cost of a run, computed by running its strategy with a judge that only counts requests.

For adaptive strategies (heaps, bubble sort, top-down), the number of calls depends on the replies. Their maximum number
of calls is used, and tokens are scaled in proportion. Prompt tokens are exact for the first window of a query and
approximate for later windows, whose documents depend on replies. Completion tokens are an upper bound.
"""

from __future__ import annotations

import math
from typing import Any

from rerank.experiment.collected_requests import collect_run_requests
from rerank.experiment.prepare import PreparedRun
from rerank.experiment.provider_batches import batch_interface_of_run
from rerank.models.prices import compute_model_cost, estimate_search_units
from rerank.tasks import CrossEncoderTask, Reply, Request
from rerank.tasks.usage import Usage


def estimate_run_cost(prepared: PreparedRun, *, in_batches: bool = False) -> dict[str, Any]:
    """Estimate the calls and tokens of a prepared run, without calling the model.

    Args:
        prepared: The prepared run.
        in_batches: Whether the run's requests are sent through the provider's batch interface.

    Returns:
        ``queries``; upper bounds ``calls``, ``tokens_in`` and ``tokens_out``; ``cost`` in US dollars, None if unknown.

    Raises:
        UsageError: ``in_batches`` is set, and the backend has no batch interface or a request depends on a reply.
    """
    if in_batches:
        batch_interface_of_run(prepared)
    counter, counted = prepared.backend.tokens, Usage()

    def count(request: Request) -> None:
        sampling = request.sampling
        searches = 0
        if isinstance(request.task, CrossEncoderTask):
            searches = estimate_search_units(counter.lengths([message.content for message in request.prompt]))
        tokens_out = sampling.max_tokens + sampling.thinking
        counted.add(Reply(tokens_in=counter.count(request.prompt), tokens_out=tokens_out, search_units=searches))

    collect_run_requests(prepared, count, in_one_round=in_batches)
    calls = max(prepared.calls(), counted.calls) if counted.calls else 0
    tokens_in, tokens_out = (
        math.ceil(tokens * calls / max(1, counted.calls)) for tokens in (counted.tokens_in, counted.tokens_out)
    )
    batched = {"tokens_in": tokens_in, "tokens_out": tokens_out} if in_batches else {}
    most = Usage(tokens_in=tokens_in, tokens_out=tokens_out, search_units=counted.search_units, batched=batched)
    return {
        "queries": prepared.lists.survey.queries,
        "calls": calls,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "cost": compute_model_cost(prepared.spec.model, most),
    }
