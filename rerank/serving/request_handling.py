"""What every endpoint does with a request: count it, and stop working if its client leaves."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TypeVar

from starlette.requests import Request

from rerank.serving.api_errors import api_error_from_exception
from rerank.serving.disconnects import ClientLeftError, run_while_connected
from rerank.serving.server_metrics import ServerMetrics

T = TypeVar("T")


async def handle_request(request: Request, metrics: ServerMetrics, work: Coroutine[object, object, T]) -> T:
    """Return the result of ``work``, and count the request with the status of its answer.

    Args:
        request: The request, whose body has been read.
        metrics: The counters.
        work: Computes the answer.

    Raises:
        ClientLeftError: The client left before it got the answer.
    """
    with metrics.request(request.url.path) as status:
        try:
            result = await run_while_connected(request, work)
        except ClientLeftError:
            raise
        except Exception as error:
            status.append(str(api_error_from_exception(error).status))
            raise
        status.append("200")
        return result
