"""From a specification to everything that its run needs: collection, candidates, judgments, strategy, backend.

Asks the model nothing. Knows how the rooms fit together, not what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from rerank.collections import Collection
from rerank.errors import UsageError
from rerank.evaluation import parse_measures
from rerank.experiment.candidates import Found, digest, load, lowest_relevant, retrieve
from rerank.experiment.prices import cost
from rerank.experiment.spec import Execution, RunSpec
from rerank.judges import Asking, Limits, check_judge, judges, open_judge, options_of
from rerank.lm.loading import adapter_folder
from rerank.methods import Method, open_method
from rerank.models import BackendOptions, backend_class, open_backend, prompt_for
from rerank.models.trained import as_trained
from rerank.prompts import PromptTemplate, load_prompt
from rerank.selector import Selector
from rerank.strategies import Passages, Strategy, open_strategy, strategies
from rerank.tasks import Backend
from rerank.types import Qrels, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything a run needs, before the first call.

    Attributes:
        spec: What was asked for.
        collection: Where it comes from.
        first_stage: The first-stage lists, one for every query that takes part; some may be empty.
        qrels: The judgments of the queries that take part; empty if there are none.
        relevant: Lowest grade that binary measures count.
        method: The method's card.
        strategy: Which windows.
        passages: How documents are cut for the judge; None where they are shown whole.
        template: Which prompt.
        backend: Who answers.
    """

    spec: RunSpec
    collection: Collection
    first_stage: Run
    qrels: Qrels
    relevant: int
    method: Method
    strategy: Strategy
    passages: Passages | None = None
    template: PromptTemplate
    backend: Backend

    def judge(self, backend: Backend) -> Asking:
        """The method's judge, asking ``backend``.

        Raises:
            UsageError: The backend cannot answer what the judge asks.
        """
        limits = Limits(
            min_passage_tokens=self.spec.min_passage_tokens,
            max_passage_tokens=self.spec.max_passage_tokens,
            context_size=self.spec.context_size,
            temperature=self.spec.temperature,
            seed=_seed(self.spec),
            thinking_tokens=self.spec.thinking_tokens,
        )
        return open_judge(self.method.judge_selector, backend, self.template, limits)

    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, for the hash."""
        return {
            "first_stage": digest(self.first_stage),
            "prompt": self.template.digest,
            "model": dict(self.backend.identity),
            **settings(self.spec),
            **self.judge(self.backend).identity,
        }

    def calls(self) -> int:
        """How many requests it takes, at most, if all windows fit the context."""
        each = judges.get(self.method.judge).calls
        lists = self.first_stage.values()
        counts = [len(self.passages.expand(one) if self.passages else one) for one in lists]
        return sum(self.strategy.calls(count) * int(each(count)) for count in counts)


def settings(spec: RunSpec) -> dict[str, Any]:
    """The part of a run's identity that its specification alone decides."""
    method = open_method(spec.method)
    return {
        "strategy": repr(strategy_of(spec, method)),
        "judge": _described(method),
        "shuffle": f"random {spec.seed}" if spec.shuffle == "random" else spec.shuffle,
        "min_passage_tokens": spec.min_passage_tokens,
        "max_passage_tokens": spec.max_passage_tokens,
        "context_size": spec.context_size,
        "temperature": spec.temperature,
        "seed": _seed(spec),
        **({"top_k": spec.top_k} if spec.top_k is not None else {}),
        **({"passages": repr(passages)} if (passages := passages_of(spec)) else {}),
        **({"thinking_tokens": spec.thinking_tokens} if spec.thinking_tokens else {}),
    }


def _described(method: Method) -> str:
    """A judge with all its options, those that were not given too; what a file holds is in `Asking.identity`."""
    # Where a file lies decides nothing: a run that was sent elsewhere is the same run.
    given = {key: value.rpartition("/")[2] for key, value in Selector.parse(method.judge_selector).options.items()}
    known = {f.name: f.default for f in fields(judges.get(method.judge)) if f.name in options_of(method.judge)}
    return f"{method.judge}({', '.join(f'{key}={given.get(key, default)}' for key, default in known.items())})"


def _seed(spec: RunSpec) -> int:
    """The seed of sampling; greedy decoding has none, so that another one does not ask everything again."""
    return spec.seed if spec.temperature > 0 else 0


def passages_of(spec: RunSpec) -> Passages | None:
    """How documents are cut for the judge; None where they are shown whole.

    Raises:
        UsageError: An option that does not exist or does not fit.
    """
    return None if spec.passages is None else Passages.parse(spec.passages)


def strategy_of(spec: RunSpec, method: Method) -> Strategy:
    """The method's strategy with the options that were given.

    Where passages are judged, how many documents are wanted says nothing of how many passages are.

    Raises:
        UsageError: An option that this strategy has not, or a strategy of another package that is no dataclass.
    """
    given = {"size": spec.window_size, "stride": spec.stride, "passes": spec.passes}
    given["top_k"] = spec.top_k if spec.passages is None else None
    given["seed"] = spec.seed or None
    if spec.window_size and not spec.stride and "stride" not in Selector.parse(method.strategy_selector).options:
        given["stride"] = max(1, spec.window_size // 2)  # windows that do not overlap hand nothing on
    given = {name: value for name, value in given.items() if value is not None}
    made = strategies.get(method.strategy)
    if not is_dataclass(made):  # its fields are its options, and its repr is part of a run's identity
        raise UsageError(f"The strategy {method.strategy!r} is no dataclass", expected="a frozen dataclass")
    known = {field.name for field in fields(made)}
    unasked = {"top_k", "seed"} | ({"stride"} if not spec.stride else set())
    for name in unasked - known:  # the driver cuts what comes out; few strategies have a stride, or chance
        given.pop(name, None)
    flags = {"size": "--window-size", "stride": "--stride", "passes": "--passes"}
    for name in given:
        if name not in known:
            raise UsageError(
                f"{flags[name]} with --method {method.name}",
                expected=f"no such option: the strategy {method.strategy!r} has none of that kind",
                remedy="Leave it out, or use --method sliding",
            )
    options = ",".join(f"{name}={value}" for name, value in given.items())
    return open_strategy(method.with_options(options).strategy_selector)


def prompt_of(spec: RunSpec, method: Method) -> str:
    """The prompt that is meant: the one named, else the one that suits the method, else that of the model."""
    return method.own_prompt if method.own_prompt and spec.prompt == "auto" else prompt_for(spec.model, spec.prompt)


def as_trained_for(spec: RunSpec) -> RunSpec:
    """The specification with what its adapter, or its model, says of its own use, where the user says nothing."""
    given = spec.model_dump(include=spec.model_fields_set)
    if spec.adapter:
        return spec.model_copy(update=as_trained(adapter_folder(spec.adapter), given))
    return spec.model_copy(update=as_trained(Path(spec.model), given | {"model": spec.model}))


def prepare(
    spec: RunSpec,
    execution: Execution,
    *,
    judged_only: bool = True,
    backend: Backend | None = None,
    found: Found | None = None,
) -> Prepared:
    """Open everything a run needs and check all that can be checked; asks the model nothing.

    Args:
        spec: What is asked for.
        execution: How.
        judged_only: See `load`.
        backend: One that is loaded already, for several runs with one model; it must be what ``spec`` names.
        found: What `find` gave for this collection and first stage, for several runs over the same candidates.
    """
    spec = as_trained_for(spec)
    method = open_method(spec.method)
    cost(spec.model, 0, 0)  # a broken price table must not be found after the last call
    strategy = strategy_of(spec, method)
    passages = passages_of(spec)
    template = load_prompt(prompt_of(spec, method))
    collection, queries, qrels = (found.collection, [], found.qrels) if found else load(spec, judged_only=judged_only)
    relevant = lowest_relevant(spec, collection)
    parse_measures(spec.measures, relevant=relevant)
    if backend is None:  # loading a model can take minutes
        check_judge(method.judge_selector, backend_class(spec.model, method.backend), spec.model)
    first_stage = found.first_stage if found else retrieve(spec, collection, queries)
    backend = backend or open_backend(
        spec.model, backend_options(spec, execution), qrels=qrels or None, kind=method.backend
    )
    open_judge(method.judge_selector, backend, template)  # a pair that cannot work is refused before a folder is made
    return Prepared(
        spec=spec,
        collection=collection,
        first_stage=first_stage,
        qrels=qrels,
        relevant=relevant,
        method=method,
        strategy=strategy,
        passages=passages,
        template=template,
        backend=backend,
    )


def backend_options(spec: RunSpec, execution: Execution) -> BackendOptions:
    """How a run's model is loaded and run.

    Raises:
        UsageError: A value out of its range.
    """
    return BackendOptions(
        revision=spec.revision or "",
        adapter=spec.adapter or "",
        dtype=spec.dtype,
        device=execution.device,
        batch_size=execution.batch_size,
        context_size=spec.context_size,
        trust_remote_code=spec.trust_remote_code,
        device_map=execution.device_map,
        base_url=spec.base_url or "",
        concurrency=execution.concurrency,
        timeout=execution.timeout,
    )
