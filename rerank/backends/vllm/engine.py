"""A running vLLM engine: requests enter it at any time, and its own thread computes one step after the other.

Each result is returned as soon as it is there, so that the next request can take its place in the batch.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from rerank.errors import BackendError, UsageError

#: Seconds without requests after which the thread ends; the next request starts a new thread.
_IDLE = 10.0
#: Seconds to wait for the current step when an engine is stopped.
_STOPPING = 30.0
#: Engines that run. Those in this process share global state, so only one of them can run.
_running: WeakSet[EngineStream] = WeakSet()


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A tokenized request to a vLLM engine."""

    prompt: Sequence[int]
    #: Fields of the request's ``SamplingParams``; the defaults are greedy decoding and no detokenization. Requests to a
    #: model with a classification head have fields of ``PoolingParams`` instead.
    parameters: Mapping[str, Any]


#: Function that runs requests together and returns, in order, the result of each: vLLM's ``CompletionOutput`` or, with
#: a classification head, ``PoolingOutput``.
RunEngine = Callable[[Sequence[EngineRequest]], Awaitable[list[Any]]]


class RefusedRequestError(Exception):
    """The engine does not accept a request, which does not affect others."""


@dataclass(eq=False, slots=True)
class EngineCall:
    """A request in the engine, and its result."""

    request: EngineRequest
    params: Any  # ``vllm.SamplingParams`` or ``vllm.PoolingParams``
    future: asyncio.Future[Any]
    name: str  # id of the request in the engine
    #: The call's share of the engine's time in seconds; before it ends, minus the time before it entered the engine.
    seconds: float = 0.0


class EngineStream:
    """A running engine, whose requests come from an event loop. Public methods may be called by any thread."""

    def __init__(self, llm: Any, adapter: Any = None) -> None:
        self._llm, self._engine, self._adapter = llm, llm.llm_engine, adapter
        self._new: deque[EngineCall] = deque()
        self._cancelled: deque[EngineCall] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._error: BackendError | None = None  # why the engine is not used any more
        self._names = map(str, itertools.count())
        self._clock = 0.0  # seconds of all steps, each divided by the number of calls that shared it
        _running.add(self)

    @property
    def max_model_len(self) -> int:
        return int(self._llm.model_config.max_model_len)

    async def run(self, requests: Sequence[EngineRequest]) -> list[EngineCall]:
        """Run requests together and return their calls with results; if cancelled, the requests leave the engine.

        Raises:
            UsageError: vLLM does not accept the sampling settings.
            RefusedRequestError: The engine does not accept one of the requests.
            BackendError: The engine failed or was stopped.
        """
        loop = asyncio.get_running_loop()
        calls = [
            EngineCall(request, make_params(request.parameters), loop.create_future(), next(self._names))
            for request in requests
        ]
        with self._changed:
            if self._error is not None:
                raise self._error
            self._new.extend(calls)
            if calls and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="rerank-vllm", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            await asyncio.gather(*(call.future for call in calls))
        finally:
            if left := [call for call in calls if not call.future.done() or call.future.cancelled()]:
                with self._changed:
                    self._cancelled.extend(left)
        return calls

    def stop(self, error: BackendError) -> None:
        """Stop the engine after its current step; calls in progress and later calls raise ``error``."""
        self.end_thread(error)
        self._engine.engine_core.shutdown()
        _running.discard(self)

    def end_thread(self, error: BackendError) -> None:
        """Raise ``error`` in all calls, and wait until the thread has ended."""
        with self._changed:
            self._error = self._error or error
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOPPING)

    def _work(self) -> None:
        active: dict[str, EngineCall] = {}
        ended: list[tuple[EngineCall, Any]] = []
        while True:
            with self._changed:
                if not (active or self._new or self._error):
                    self._changed.wait(_IDLE)
                new, self._new = self._new, deque()
                cancelled, self._cancelled = self._cancelled, deque()
                if self._error is not None or not (active or new):
                    self._thread = None
                    break
            try:
                ended += [(call, error) for call in new if (error := self._enter(call, active)) is not None]
                if left := [call.name for call in cancelled if active.pop(call.name, None)]:
                    self._engine.abort_request(left)
                ended += self._step(active)
            except Exception as error:  # noqa: BLE001 - whatever it is, later results would be wrong
                failure = BackendError(
                    f"vLLM failed on {len(active)} requests: {error or repr(error)}",
                    remedy="Load the model again; run again with --resume, which keeps finished results. A smaller "
                    "--context-size needs less memory, and --model hf:NAME runs the model through transformers",
                )
                failure.__cause__ = error
                with self._changed:
                    self._error = failure
            for call, _ in ended:
                active.pop(call.name, None)
            _resolve_together(ended)
            ended = []
        _resolve_together([(call, self._error) for call in (*active.values(), *new)])

    def _enter(self, call: EngineCall, active: dict[str, EngineCall]) -> RefusedRequestError | None:
        """Add a call to the engine, unless it was cancelled before; return the error if the engine refuses it."""
        if call.future.cancelled():
            return None
        try:
            (prompt,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": list(call.request.prompt)}])
            self._engine.add_request(call.name, prompt, call.params, lora_request=self._adapter)
        except Exception as error:  # noqa: BLE001 - the classes differ between versions
            return RefusedRequestError(f"vLLM does not accept the request: {error or repr(error)}")
        call.seconds = -self._clock
        active[call.name] = call
        return None

    def _step(self, active: dict[str, EngineCall]) -> list[tuple[EngineCall, Any]]:
        if not active:
            return []
        started = time.perf_counter()
        outputs = self._engine.step()
        self._clock += (time.perf_counter() - started) / len(active)
        ended = []
        for output in outputs:
            if output.finished and (call := active.get(output.request_id)):
                call.seconds += self._clock
                reason = getattr(output, "error", None)  # of pooling only
                error = RefusedRequestError(f"vLLM failed on the request: {reason}") if reason else None
                result = output.outputs[0] if isinstance(output.outputs, list) else output.outputs
                ended.append((call, error or result))
        return ended


def make_params(parameters: Mapping[str, Any]) -> Any:
    """Return the ``vllm.SamplingParams`` or ``PoolingParams`` of a request."""
    from vllm import PoolingParams, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    if "use_activation" in parameters:
        return PoolingParams(**parameters)
    defaults = {"temperature": 0.0, "detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}
    try:
        return SamplingParams(**{**defaults, **parameters})
    except Exception as error:  # the class differs between versions; the call only validates its arguments
        raise UsageError(f"vLLM does not accept the sampling settings: {error}") from error


def _resolve_together(ended: Sequence[tuple[EngineCall, Any]]) -> None:
    """Set results and errors of calls on their event loops, with one callback per loop."""
    for loop in {call.future.get_loop() for call, _ in ended}:
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, [item for item in ended if item[0].future.get_loop() is loop])


def _resolve(results: Sequence[tuple[EngineCall, Any]]) -> None:
    for call, result in results:
        if call.future.done():  # cancelled in the meantime
            continue
        if isinstance(result, Exception):
            call.future.set_exception(result)
        else:
            call.future.set_result(result)


def stop_engines_in_process(error: BackendError) -> None:
    """Stop all engines that run in this process."""
    for stream in list(_running):
        stream.stop(error)


@atexit.register
def _end_threads() -> None:
    """End the threads before the interpreter does, since they may not be in the middle of a step then."""
    for stream in list(_running):
        stream.end_thread(BackendError("The process ends"))
