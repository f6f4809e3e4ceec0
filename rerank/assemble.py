"""Assembly of rankers: from model, adapter, method, prompt and limits to backend, strategy and judge.

The reranker, the commands, benchmarks, label teachers, training and validation all assemble their rankers here, so the
same settings always send the same requests.

    setup = assemble({"model": "smollm2-135m", "adapter": "smollm2-135m-attention"})
    judge = setup.open_judge(setup.open_backend())
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict, cast

import pydantic
from pydantic import Field, ValidationError

from rerank.errors import UnknownNameError, UsageError, shorten
from rerank.judges import Limits, PromptJudge, check_judge, check_pictures, judges, open_judge
from rerank.methods import Method, open_method
from rerank.models import backend_class, open_backend, prompt_for, settings_folder
from rerank.models.adapters import adapter_defaults, adapter_folder
from rerank.pipeline.method_identity import judge_text, passages_text, strategy_text
from rerank.pipeline.passages import PassageAggregation
from rerank.prompts import PromptTemplate, load_prompt
from rerank.selector import Selector
from rerank.strategies import Strategy, open_strategy, strategies
from rerank.tasks import Backend, BackendOptions
from rerank.types import Qrels


class RankerOptions(TypedDict, total=False):
    """Settings of a ranker except its model, named like the command's flags.

    A missing key or None means the default; `RankerConfig` documents them.
    """

    adapter: str | None
    adapter_dtype: str | None
    revision: str | None
    method: str | None
    window_size: int | None
    stride: int | None
    passes: int | None
    top_k: int | None
    passages: str | None
    prompt: str | None
    min_passage_tokens: int | None
    max_passage_tokens: int | None
    context_size: int | None
    temperature: float | None
    seed: int | None
    thinking_tokens: int | None
    dtype: str | None
    device: str | None
    device_map: str | None
    batch_size: int | None
    reuse: bool | None
    deterministic: bool | None
    trust_remote_code: bool | None
    base_url: str | None
    concurrency: int | None
    timeout: float | None
    calibration: str | None
    retries: int | None


_Positive = Annotated[int, Field(ge=1)]


@pydantic.dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankerConfig:
    """Complete settings of a ranker. Names, defaults and allowed values are those of the command's flags.

    `from_settings` reports an invalid value as a UsageError, the constructor as a ValidationError of pydantic.

    Attributes:
        model: A name of `rerank models`, a folder, a hub id, ``openai:NAME``, ``vllm:NAME`` or ``fake:KIND``.
        adapter: Name of `rerank models`, folder or hub id of a PEFT adapter.
        adapter_dtype: Data type of the adapter: ``auto`` for that of the model, or ``float32``.
        revision: Branch, tag or commit of the model on the hub.
        method: Name of a method, or ``strategy:judge``, with options such as ``sliding,size=10,stride=5``.
        window_size: Documents per window, for strategies with windows.
        stride: Documents by which the window moves; half of ``window_size`` if only the latter is set.
        passes: Number of passes, for strategies that support several.
        top_k: Rerank only the top K; the remaining documents keep their input order.
        passages: How documents are divided into passages, such as ``max,size=150,stride=75``; None judges them whole.
        prompt: Name of a shipped prompt or path of a YAML file; ``auto`` selects it by method and model.
        min_passage_tokens: Minimum number of tokens kept of each passage.
        max_passage_tokens: Passages are truncated to at most this many tokens.
        context_size: Tokens of context to use; None for the model's whole context.
        temperature: Sampling temperature; 0 is greedy.
        seed: Seed for sampling and for stochastic strategies.
        thinking_tokens: Tokens that a reasoning model may spend before its answer.
        dtype: Data type of the weights.
        device: Torch device; ``auto`` selects the first accelerator.
        device_map: How to distribute a model over several devices; empty for one device.
        batch_size: Number of requests per batch; None for the backend's default.
        reuse: Compute prompt prefixes that several requests share once, with a local model.
        deterministic: Process requests one by one without reuse, with a local model: a reply depends on its request
            alone.
        trust_remote_code: Run Python code from the model's repository.
        base_url: Address of an OpenAI-compatible server.
        concurrency: Number of concurrent requests to a server; None for the backend's default.
        timeout: Seconds to wait for a server's reply; None for the backend's default.
        calibration: File of `rerank calibrate` that turns scores into probabilities of relevance; None for the one in
            the folder of the adapter or the trained model, if it has one.
        retries: Attempts after the first to get a server's reply; None for the backend's default.
    """

    model: str = "smollm2-135m"
    adapter: str | None = None
    adapter_dtype: str = "auto"
    revision: str | None = None
    method: str = "fullrank"
    window_size: int | None = None
    stride: int | None = None
    passes: int | None = None
    top_k: _Positive | None = None
    passages: str | None = None
    prompt: str = "auto"
    min_passage_tokens: _Positive = 32
    max_passage_tokens: _Positive | None = None
    context_size: _Positive | None = None
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    seed: int = 0
    thinking_tokens: Annotated[int, Field(ge=0)] = 0
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    device_map: Literal["", "auto", "balanced", "sequential", "tp"] = ""
    batch_size: _Positive | None = None
    reuse: bool = True
    deterministic: bool = False
    trust_remote_code: bool = False
    base_url: str | None = None
    concurrency: _Positive | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None
    calibration: str | None = None
    retries: Annotated[int, Field(ge=0)] | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], *, backend: Backend | None = None) -> RankerConfig:
        """Complete settings with those of the adapter or trained model, then with the defaults.

        Args:
            settings: The settings that are given; None counts as missing.
            backend: The open backend of the model, if there is one.

        Raises:
            UnknownNameError: No setting has this name; the message suggests the nearest.
            UsageError: The value of a setting is invalid.
            MissingResourceError: The adapter does not exist.
        """
        names = [f.name for f in fields(cls)]
        for name in settings:
            if name not in names:
                raise UnknownNameError("setting of a ranker", name, names)
        given = {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in settings.items()
            if value is not None
        }
        config = cls._make(given)
        values = {name: getattr(config, name) for name in given}
        return cls._make(values | trained_settings(values, backend))

    @classmethod
    def _make(cls, values: Mapping[str, Any]) -> Self:
        try:
            return cls(**values)
        except ValidationError as error:
            problem = error.errors()[0]
            expected = problem["msg"].removeprefix("Input should be ")
            raise UsageError(f"{problem['loc'][0]} = {shorten(problem['input'])}", expected=expected) from error

    def backend_options(self) -> BackendOptions:
        """Return the options for loading and running the model.

        Raises:
            UsageError: A value is out of range.
        """
        given = {option.name: getattr(self, option.name) for option in fields(BackendOptions)}
        return BackendOptions(**{name: value for name, value in given.items() if value is not None})

    def limits(self) -> Limits:
        """Return the token budget and the decoding of the judge; greedy decoding has no seed."""
        return Limits(
            min_passage_tokens=self.min_passage_tokens,
            max_passage_tokens=self.max_passage_tokens,
            context_size=self.context_size,
            temperature=self.temperature,
            seed=self.seed if self.temperature > 0 else 0,
            thinking_tokens=self.thinking_tokens,
        )


def trained_settings(settings: Mapping[str, Any], backend: Backend | None = None) -> dict[str, Any]:
    """Return the settings that an adapter, or a trained or merged model, has for the keys missing in ``settings``.

    Args:
        settings: The settings that are given.
        backend: The open backend of the model. It knows which folder it was loaded from; its model's name may not be a
            path, or may be that of another folder.

    Raises:
        MissingResourceError: The adapter does not exist.
        DataError: Its settings cannot be read.
    """
    if settings.get("adapter"):
        folder: Path | None = adapter_folder(settings["adapter"])
    elif backend is not None:
        folder = getattr(backend, "settings_folder", None)
    else:
        folder = settings_folder(settings["model"]) if settings.get("model") else None
    return adapter_defaults(folder, settings) if folder else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerPlan:
    """The part of a ranker that the settings decide without opening a prompt or a model.

    Attributes:
        config: The settings.
        method: The method with all its options.
        strategy: Decides which windows are judged.
        passages: How documents are divided into passages; None judges them whole.
    """

    config: RankerConfig
    method: Method
    strategy: Strategy
    passages: PassageAggregation | None

    @property
    def limits(self) -> Limits:
        """Token budget and decoding of the judge."""
        return self.config.limits()

    def method_identity(self) -> dict[str, str]:
        """Return strategy, judge and passages as they enter the hash of a run."""
        return {
            "strategy": strategy_text(self.method.strategy.name, self.strategy),
            "judge": judge_text(self.method.judge),
            **({"passages": passages_text(self.passages)} if self.passages else {}),
        }

    def open_recorded_judge(self, backend: Backend) -> PromptJudge:
        """Build a judge that reads recorded replies.

        Recorded replies are found by their window, so the prompt does not matter, and files that only affect the
        requests (a prompt, a list of attention heads) may no longer exist.
        """
        judge = judges.get(self.method.judge.name)
        options = {key: value for key, value in self.method.judge.options.items() if key not in judge.request_options}
        limits = Limits(temperature=self.limits.temperature, seed=self.limits.seed)
        selector = dataclasses.replace(self.method.judge, options=options)
        return open_judge(selector, backend, load_prompt(judge.prompt or "listwise"), limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerSetup(RankerPlan):
    """A complete ranker except for the loaded model.

    Attributes:
        prompt: Name or path of the prompt.
        template: The prompt.
    """

    prompt: str
    template: PromptTemplate

    def check_backend(self) -> None:
        """Check that the model's backend supports the judge and the prompt, without loading the model.

        Raises:
            UsageError: The backend does not support the judge, or pictures that the prompt shows.
        """
        backend = backend_class(self.config.model, self.method.backend)
        check_judge(self.method.judge, backend, self.config.model)
        check_pictures(self.template, backend, self.config.model)

    def open_backend(self, *, qrels: Qrels | None = None, lazy: bool = False) -> Backend:
        """Load the model, or connect to its server.

        Args:
            qrels: Relevance judgments for ``fake:perfect``.
            lazy: Load the weights of a local model at the first call.

        Raises:
            RerankError: The model cannot be opened, or its backend does not support the judge.
        """
        self.check_backend()
        options, kind = self.config.backend_options(), self.method.backend
        return open_backend(self.config.model, options, qrels=qrels, kind=kind, lazy=lazy)

    def identity(self, judge: PromptJudge) -> dict[str, Any]:
        """Return what decides a judge's scores, as in the ``identity`` of a run: model, method and prompt."""
        return {
            "prompt": self.template.digest,
            "model": dict(judge.backend.identity),
            **self.method_identity(),
            **judge.identity,
        }

    def calibration_file(self) -> tuple[Path, bool] | None:
        """Return the calibration and whether the user named it; None if there is none."""
        if self.config.calibration:
            return Path(self.config.calibration).expanduser(), True
        folder = adapter_folder(self.config.adapter) if self.config.adapter else settings_folder(self.config.model)
        path = None if folder is None else folder / "calibration.json"
        return None if path is None or not path.is_file() else (path, False)

    def open_judge(self, backend: Backend, **options: str) -> PromptJudge:
        """Build the judge for a backend.

        Args:
            backend: The backend that runs its requests.
            options: Options of the judge that override those of the method.

        Raises:
            UsageError: The backend does not support the judge.
        """
        judge = dataclasses.replace(self.method.judge, options={**self.method.judge.options, **options})
        return open_judge(judge, backend, self.template, self.limits)


def plan_ranker(config: RankerConfig) -> RankerPlan:
    """Look up the method of the settings and build its strategy.

    Raises:
        UnknownNameError: No method, option or passage aggregate has this name.
        UsageError: The strategy does not have an option, or a value is out of range.
    """
    method = open_method(config.method)
    method = dataclasses.replace(method, strategy=_with_flags(config, method))
    return RankerPlan(
        config=config,
        method=method,
        strategy=open_strategy(method.strategy),
        passages=None if config.passages is None else PassageAggregation.parse(config.passages),
    )


def assemble(settings: Mapping[str, Any] | RankerConfig, *, backend: Backend | None = None) -> RankerSetup:
    """Assemble a ranker from its settings; no model is loaded.

    Args:
        settings: Settings named as in `RankerConfig`. Missing ones come from the adapter or the trained model, then
            the defaults.
        backend: The open backend of the model, if there is one.

    Raises:
        UnknownNameError: No setting, method, option, prompt or passage aggregate has this name.
        UsageError: The strategy does not have an option, or a value is out of range.
        MissingResourceError: The adapter or the prompt file does not exist.
    """
    if not isinstance(settings, RankerConfig):
        settings = RankerConfig.from_settings(settings, backend=backend)
    plan = plan_ranker(settings)
    method_prompt = plan.method.own_prompt if plan.config.prompt == "auto" else ""
    prompt = method_prompt or prompt_for(plan.config.model, plan.config.prompt)
    return RankerSetup(
        config=plan.config,
        method=plan.method,
        strategy=plan.strategy,
        passages=plan.passages,
        prompt=prompt,
        template=load_prompt(prompt),
    )


#: Flags that set options of a strategy: option -> flag, for messages.
_FLAGS = {"size": "--window-size", "stride": "--stride", "passes": "--passes"}


def _with_flags(config: RankerConfig, method: Method) -> Selector:
    """Return the method's strategy with the options set by flags of their own.

    If passages are judged, ``top_k`` counts documents, so it does not limit the number of passages.

    Raises:
        UsageError: The strategy does not have an option, or is not a dataclass.
    """
    strategy_type = strategies.get(method.strategy.name)
    if not is_dataclass(strategy_type):  # its fields are its options, which are part of a run's identity
        raise UsageError(f"The strategy {method.strategy.name!r} is not a dataclass", expected="a frozen dataclass")
    flags = {"size": config.window_size, "stride": config.stride, "passes": config.passes}
    required: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    optional = {"top_k": config.top_k if config.passages is None else None, "seed": config.seed or None}
    if config.window_size and not config.stride and "stride" not in method.strategy.options:
        # No document would move from one window to the next if they did not overlap.
        optional["stride"] = max(1, config.window_size // 2)
    known = {f.name for f in fields(cast(Any, strategy_type))}
    for name in required:
        if name not in known:
            raise UsageError(
                f"{_FLAGS[name]} with --method {method.name}",
                expected=f"an option of the strategy {method.strategy.name!r}, which has: {', '.join(sorted(known))}",
                remedy="Omit it, or use --method sliding",
            )
    # The driver applies top_k to the result itself, and only some strategies have a stride or a seed.
    applied = {name: value for name, value in optional.items() if value is not None and name in known}
    return dataclasses.replace(method.strategy, options={**method.strategy.options, **required, **applied})
