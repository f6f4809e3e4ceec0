"""Assembly of rankers: settings (model, adapter, method, prompt, limits) become a backend, a strategy and a judge.

The reranker, the commands, benchmarks, label teachers, training and validation all assemble their rankers here, so the
same settings always lead to the same requests.

    setup = assemble_ranker({"model": "smollm2-135m", "adapter": "smollm2-135m-attention"})
    judge = setup.open_judge(setup.open_backend())
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

from rerank.errors import UsageError
from rerank.io.model_base import ModelBinding
from rerank.io.paths import named_path_errors
from rerank.judges import (
    Judge,
    Limits,
    PromptJudge,
    check_judge_prompt_runs_on_backend,
    check_judge_runs_on_backend,
    judges,
    open_judge,
)
from rerank.methods import Method, open_method
from rerank.models import (
    backend_class_of_model,
    base_model_of_adapter,
    check_model_files,
    default_method_of_model,
    model_settings_folder,
    open_model_backend,
    prompt_for_model,
    recipe_of_model,
    reranker_preset_of_model,
)
from rerank.models.adapters import adapter_folder, read_defaults
from rerank.pipeline.method_identity import describe_judge, describe_passages, describe_strategy
from rerank.pipeline.passages import PassageAggregation
from rerank.pipeline.stream import Ranker
from rerank.prompts import PromptTemplate, load_prompt
from rerank.settings import RankerSettings
from rerank.strategies import Strategy, open_strategy, strategies
from rerank.tasks import Backend
from rerank.tasks.backends import model_base_of_backend, traits
from rerank.types import Qrels

_log = logging.getLogger(__name__)

#: Method that replaces ``auto`` if neither the adapter, the model nor the backend has a method of its own.
DEFAULT_METHOD = "fullrank"
#: File with the calibration in the folder of an adapter or trained model. The model's hash (`rerank.io.model_base`)
#: ignores files of this name, so that adding a calibration does not change the identity of runs.
CALIBRATION = "rerank-calibration.json"
#: Flags that set options of a strategy, by name of the option.
_FLAGS = {"size": "--window-size", "stride": "--stride", "passes": "--passes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerPlan:
    """The part of a ranker that depends only on the settings, not on a prompt or a model."""

    config: RankerSettings
    method: Method  # with all its options
    strategy: Strategy
    passages: PassageAggregation | None  # None to judge whole documents

    @property
    def limits(self) -> Limits:
        return self.config.limits()

    def ranker(self, judge: Judge) -> Ranker:
        """Return what reranks lists with a judge, except the backend that answers its requests."""
        return Ranker(strategy=self.strategy, judge=judge, passages=self.passages, top_k=self.config.top_k)

    def method_identity(self) -> dict[str, str]:
        """Return the texts that represent strategy, judge and passages in the hash of a run."""
        return {
            "strategy": describe_strategy(self.method.strategy.name, self.strategy),
            "judge": describe_judge(self.method.judge),
            **({"passages": describe_passages(self.passages)} if self.passages else {}),
        }

    def open_recorded_judge(self, backend: Backend) -> PromptJudge:
        """Build a judge that uses recorded replies, which are looked up by window.

        The prompt has no effect, and files that only affect the requests, such as a list of heads, may have been
        deleted.
        """
        judge = judges.get(self.method.judge.name)
        options = {key: value for key, value in self.method.judge.options.items() if key not in judge.request_options}
        limits = Limits(temperature=self.limits.temperature, seed=self.limits.seed)
        selector = replace(self.method.judge, options=options)
        return open_judge(selector, backend, load_prompt(judge.prompt or "listwise"), limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerSetup(RankerPlan):
    """A complete ranker except for the loaded model."""

    prompt: str  # name or path of the template
    template: PromptTemplate

    def check_backend(self) -> None:
        """Check that the model's backend supports the judge and the prompt, without loading the model."""
        backend = backend_class_of_model(self.config.model, self.method.backend)
        check_judge_runs_on_backend(self.method.judge, backend, self.config.model)
        check_judge_prompt_runs_on_backend(self.template, backend, self.config.model)
        check_model_files(self.config.model, self.config, self.method.backend)

    def open_backend(self, *, qrels: Qrels | None = None, lazy: bool = False) -> Backend:
        """Load the model, or connect to its server.

        ``qrels`` are for ``fake:perfect``. A ``lazy`` local model loads its weights only at the first call.
        """
        self.check_backend()
        return open_model_backend(self.config.model, self.config, qrels=qrels, kind=self.method.backend, lazy=lazy)

    def open_judge(self, backend: Backend, **options: str) -> PromptJudge:
        """Build the judge for a backend; ``options`` override the options of the judge in the method."""
        judge = replace(self.method.judge, options={**self.method.judge.options, **options})
        return open_judge(judge, backend, self.template, self.limits)

    def identity(self, judge: PromptJudge) -> dict[str, Any]:
        """Return everything that determines a judge's scores (model, method and prompt), as in a run's ``identity``."""
        return {
            "prompt": self.template.digest,
            "model": dict(judge.backend.identity),
            **self.method_identity(),
            **judge.identity,
        }

    def calibration_file(self, backend: Backend) -> tuple[Path, bool] | None:
        """Return the path of the ranker's calibration, and whether the user set it; None if there is no calibration."""
        if self.config.calibration:
            return Path(self.config.calibration).expanduser(), True
        folder = _settings_folder({"adapter": self.config.adapter}, backend)
        path = None if folder is None else folder / CALIBRATION
        return None if path is None or not path.is_file() else (path, False)

    @property
    def logit_divisor(self) -> float:
        """Number by which the authors of the model divide its logits before the sigmoid, if it is run as they do."""
        preset = reranker_preset_of_model(self.config.model, self.config.revision or "")
        judge = preset and preset.recipe and open_method(preset.recipe["method"]).judge
        return preset.logit_divisor if preset and judge == self.method.judge else 1.0

    def note_other_weights(self, judge: PromptJudge) -> None:
        """Log one line if the adapter or the heads were measured with other weights than those of the judge's model."""
        identity, adapter = judge.backend.identity, self.config.adapter or ""
        binding = ModelBinding.read(adapter_folder(adapter)) if adapter else None
        if binding and (identity.get("weights") or identity.get("revision")) not in binding.weights:
            is_same = binding.base.is_same(model_base_of_backend(judge.backend))
            _log.warning(
                "Adapter %s was measured with %s of %s%s (%s), so its figures may not hold here",
                Path(adapter).name,
                "other weights" if is_same else "weights",
                binding.base.hub_id,
                " than these" if is_same else f", and whether {identity.get('model')} is this model is not known",
                "; ".join(binding.weights.values()),
            )
        elif getattr(judge, "has_heads_of_other_weights", False):
            _log.warning("The heads were selected with other weights of %s than these", identity.get("model"))

    def with_commit_of(self, backend: Backend) -> RankerSetup:
        """Return this setup with the commit of an open backend, so that other processes open the same weights.

        They also start vLLM for requests of the same length.
        """
        known = {"revision": getattr(traits(backend).files, "commit", ""), "vllm_options": traits(backend).vllm_options}
        changes = {name: value for name, value in known.items() if value}
        return replace(self, config=self.config.model_copy(update=changes)) if changes else self


def plan_ranker(config: RankerSettings) -> RankerPlan:
    """Look up the method that the settings name, and build its strategy."""
    method = open_method(config.method)
    strategy_type = strategies.get(method.strategy.name)
    if not is_dataclass(strategy_type):  # the fields are the options, which are part of a run's identity
        raise UsageError(f"The strategy {method.strategy.name!r} is not a dataclass", expected="a frozen dataclass")
    known = {f.name for f in fields(cast(Any, strategy_type))}
    flags = {"size": config.window_size, "stride": config.stride, "passes": config.passes}
    required: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    for name in required:
        if name not in known:
            raise UsageError(
                f"{_FLAGS[name]} cannot be used with --method {method.name}",
                expected=f"an option of the strategy {method.strategy.name!r}, which has: {', '.join(sorted(known))}",
                remedy=f"Omit {_FLAGS[name]}, or use --method sliding",
            )
    # These options are not required: the driver itself applies top_k, and only some strategies have a stride or a seed.
    # If passages are judged, the strategy receives no top_k, because that counts documents, not passages.
    optional = {"top_k": config.top_k if config.passages is None else None, "seed": config.seed or None}
    if config.window_size and not config.stride and "stride" not in method.strategy.options:
        # Windows must overlap, because otherwise no document could move from one window to the next.
        optional["stride"] = max(1, config.window_size // 2)
    applied = {name: value for name, value in optional.items() if value is not None and name in known}
    selector = replace(method.strategy, options={**method.strategy.options, **required, **applied})
    return RankerPlan(
        config=config,
        method=replace(method, strategy=selector),
        strategy=open_strategy(selector),
        passages=None if config.passages is None else PassageAggregation.parse(config.passages),
    )


@named_path_errors()
def assemble_ranker(settings: Mapping[str, Any] | RankerSettings, *, backend: Backend | None = None) -> RankerSetup:
    """Assemble a ranker from its settings, completed by `complete_settings`; no model is loaded."""
    config = settings if isinstance(settings, RankerSettings) else complete_settings(settings, backend)
    plan = plan_ranker(config)
    limit = config.max_passage_tokens
    if plan.passages and limit is not None and plan.passages.size > limit:
        _log.warning(
            "Passages of %d words are truncated to %d tokens, the limit of the adapter or of max_passage_tokens",
            plan.passages.size,
            limit,
        )
    method_prompt = plan.method.own_prompt if config.prompt == "auto" else ""
    prompt = method_prompt or prompt_for_model(config.model, config.prompt)
    _warn_of_other_recipe(plan, prompt)
    return RankerSetup(
        config=config,
        method=plan.method,
        strategy=plan.strategy,
        passages=plan.passages,
        prompt=prompt,
        template=load_prompt(prompt),
    )


def _warn_of_other_recipe(plan: RankerPlan, prompt: str) -> None:
    """Warn if a published reranker is used without the judge or the prompt with which it was trained.

    Without a warning, the error would not be noticed: users of Qwen3-Reranker report scores that are almost random
    without its template (github.com/vllm-project/vllm, issues 20478 and 21681).
    """
    preset = None if plan.config.adapter else reranker_preset_of_model(plan.config.model, plan.config.revision or "")
    if preset is None or not preset.recipe or not preset.recognise.hub:  # without patterns, it was not trained to rank
        return
    published = open_method(preset.recipe["method"])
    own_prompt = preset.recipe.get("prompt", published.own_prompt)
    judge = plan.method.judge
    is_published = judge.name == published.judge.name and published.judge.options.items() <= judge.options.items()
    if not is_published or (own_prompt and prompt != own_prompt):
        _log.warning(
            "Model %s is a reranker of the family %s, which was trained for --method %s%s; its scores with --method %s "
            "and prompt %s may be close to random. To use the preset %s, run the weights here (--model hf:NAME, "
            "vllm:NAME or a folder) without --method and --prompt",
            plan.config.model,
            preset.family,
            preset.recipe["method"],
            f" --prompt {own_prompt}" if own_prompt else "",
            plan.config.method,
            prompt,
            preset.name,
        )


def complete_settings(settings: Mapping[str, Any], backend: Backend | None = None) -> RankerSettings:
    """Complete settings with those of the adapter or the trained model, and then with the defaults; None is missing.

    ``backend`` is the backend of the model, if it is already open.
    """
    given = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in settings.items()
        if value is not None or name not in RankerSettings.model_fields
    }
    config = RankerSettings(**given)
    values = {name: getattr(config, name) for name in given}  # checked and converted
    if not config.adapter:
        values["model"] = config.model
    return RankerSettings(**values | assembly_defaults(values, backend))


def assembly_defaults(settings: Mapping[str, Any], backend: Backend | None = None) -> dict[str, Any]:
    """Return the method, its settings and the base model of an adapter, for keys that are missing in ``settings``.

    The defaults are taken from the first of these sources that exists: the settings in the folder of the adapter or of
    the trained or merged model, the recipe of the preset of the model or reranker, the default method of the backend,
    and `DEFAULT_METHOD`. If a method other than ``auto`` is given, prompt and limits of another method are not
    returned. An open ``backend`` stores the folder from which the model was loaded, which its name may not be.
    """
    given = {key: value for key, value in settings.items() if (key, value) != ("method", "auto")}
    if given.get("adapter") and default_method_of_model(given.get("model", "")) == "late-interaction":
        raise UsageError(
            f"--adapter is {given['adapter']}, but {given['model']} stands for a multi-vector model",
            expected="no adapter for such a model",
            remedy="Omit --adapter",
        )
    folder = _settings_folder(given, backend)
    values = read_defaults(folder, given) if folder else {}
    if given.get("adapter") and backend is None and not {"model"} & {*given, *values}:
        base = base_model_of_adapter(given["adapter"])
        values |= {key: value for key, value in base.items() if key not in given}
    if "method" in given or "method" in values:
        return values
    own = traits(backend).default_method if backend else default_method_of_model(given.get("model", ""))
    recipe = recipe_of_model(given.get("adapter") or given.get("model") or "", folder, given.get("revision") or "")
    recipe = {"method": own or DEFAULT_METHOD, **recipe}
    return {key: value for key, value in recipe.items() if key not in given} | values


def _settings_folder(settings: Mapping[str, Any], backend: Backend | None) -> Path | None:
    """Return the folder of the adapter or, without one, of the model; it may contain settings from its training."""
    if settings.get("adapter"):
        return adapter_folder(settings["adapter"])
    if backend is not None:
        return traits(backend).settings_folder
    return model_settings_folder(settings["model"]) if settings.get("model") else None
