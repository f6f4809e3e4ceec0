"""Options that several commands share. An option group is a dataclass whose fields are options of a command."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from typer import Argument, Option

from rerank.evaluation.pairwise_decisions import ComparisonOptions, build_test_selector
from rerank.experiment.spec import Execution

if TYPE_CHECKING:
    from rerank.models import BackendOptions

# Output

Format = Literal["text", "json", "jsonl"]
FormatOption = Annotated[Format, Option("--format", help="Output format: text, json, or jsonl (one object per line).")]
#: Formats of commands whose result is a table for a paper.
TableFormat = Literal["text", "json", "jsonl", "csv", "latex", "markdown", "html"]
TableFormatOption = Annotated[
    TableFormat,
    Option(
        "--format",
        help="Output format: text, json, jsonl (one object per line), csv, latex (booktabs), markdown or html.",
    ),
]
WideOption = Annotated[bool, Option("--wide", help="Show all columns on a terminal.")]
DryRun = Annotated[bool, Option("--dry-run", help="Estimate calls, tokens and cost without calling the model.")]


# Runs, judgments, measures and tests

_RUNS = Argument(metavar="RUN...", help="Run files (TREC, MS MARCO or JSON; may be gzipped), or folders of run files.")
RunsArgument = Annotated[list[Path], _RUNS]
OptionalRuns = Annotated[list[Path] | None, _RUNS]
NamesOption = Annotated[
    list[str] | None,
    Option("--name", help="Name of a run in the output; repeat it for all runs, in order. (default: end of the path)"),
]
_QRELS = Option("--qrels", help="Relevance judgments: a file, or the selector of a collection.")
QrelsOption = Annotated[str, _QRELS]
OptionalQrels = Annotated[str | None, _QRELS]
MeasuresOption = Annotated[list[str] | None, Option("--measure", "-m", help="Measure; repeatable. (default: nDCG@10)")]
#: Lowest relevant grade of binary measures.
Relevant = Annotated[
    int | None,
    Option(min=1, help="Lowest grade that binary measures count as relevant; 2 for TREC Deep Learning. (default: 1)"),
]
#: Lowest relevant grade of judgments that several systems share.
LowestGrade = Annotated[
    int | None, Option(min=1, help="Lowest grade that counts as relevant; 2 for TREC Deep Learning. (default: 1)")
]
AlphaOption = Annotated[float, "Significance level."]
IntervalAlpha = Annotated[float, "Intervals have the confidence level 1 - alpha."]
PoolDepth = Annotated[int, Option(min=1, help="Pool depth: number of documents pooled from each run.")]
#: Largest numbers of bootstrap samples and of repetitions; with more, a command would fill the memory or not end.
MOST_SAMPLES, MOST_REPETITIONS = 1_000_000, 1000
SampleSeed = Annotated[int, Option(min=0, help="Seed of the samples.")]


@dataclass_transform(frozen_default=True, kw_only_default=True)
class OptionGroup:
    """Base class of groups, frozen dataclasses whose fields are options of a command; ``panel`` is their heading."""

    panel: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)


class MeasureOptions(OptionGroup):
    """Options for scoring runs: relevance judgments and measures."""

    qrels: OptionalQrels = None
    measures: MeasuresOption = None
    relevant: Relevant = None


class SignificanceOptions(OptionGroup):
    """Options for the significance test of pairs of systems."""

    test: Annotated[str, "Paired test: t, wilcoxon, sign, permutation, bootstrap, tukey-randomised or tukey-anova."] = (
        "t"
    )
    correction: Annotated[
        str,
        "Correction for multiple comparisons: none, bonferroni, holm, hochberg, bh, by, or auto (none for "
        "Tukey's tests, otherwise holm).",
    ] = "auto"
    alpha: AlphaOption = 0.05
    permutations: Annotated[
        int | None,
        Option(min=1, help="Number of resamples of a resampling test. (default: 10000; tukey-randomised: 100000)"),
    ] = None
    seed: Annotated[int | None, Option(min=0, help="Seed for the resamples. (default: 0)")] = None

    @property
    def selector(self) -> str:
        """The test and its options as a selector, the text from which library functions create the test."""
        return build_test_selector(self.test, permutations=self.permutations, seed=self.seed)

    def comparison_options(self, **family: Any) -> ComparisonOptions:
        """Return the comparison options that the library functions accept; ``family`` contains their other fields."""
        return ComparisonOptions(test=self.selector, correction=self.correction, alpha=self.alpha, **family)


# Models

TorchDevice = Annotated[str, "Torch device."]
DecompositionDevice = Annotated[str, "Torch device for decompositions."]


class ModelLoadOptions(OptionGroup):
    """Options for loading a model. Omitted options are None."""

    panel = "Model"

    device: Annotated[str | None, "Torch device: cpu, cuda, cuda:1, mps or auto. (default: auto)"] = None
    dtype: Annotated[str | None, "Data type: float32, bfloat16, float16 or auto. (default: auto)"] = None
    batch_size: Annotated[int | None, Option(min=1, help="Number of prompts per batch.")] = None
    base_url: Annotated[
        list[str] | None,
        "Address of the server of an openai:, api: or decisions: model; repeatable for several servers.",
    ] = None

    def options(self) -> BackendOptions:
        """Return the options in the form that `rerank.models.open_model_backend` accepts."""
        from rerank.models import BackendOptions

        given = {field.name: getattr(self, field.name) for field in fields(ModelLoadOptions)}
        return BackendOptions(**{name: value for name, value in given.items() if value is not None})


class EngineOptions(OptionGroup):
    """Options for the processes that run a model. Omitted options are None."""

    panel = "Model"

    engine: Annotated[str | None, "Where the model runs: local, ray, or ray:ADDRESS. (default: local)"] = None
    workers: Annotated[int | None, "Number of workers of the engine ray."] = None
    gpus_per_worker: Annotated[float | None, "GPUs per worker of the engine ray. (default: what a model needs)"] = None
    worker_timeout: Annotated[float | None, "Restart a worker that has returned no reply for this many seconds."] = None

    def execution(self) -> Execution:
        """Return the options of this group that are fields of `Execution`; other options are ignored."""
        return Execution.make({k: v for k, v in vars(self).items() if v is not None and k in Execution.model_fields})


# Option groups


def expand_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command in which each option group of ``function`` is replaced by one parameter per field.

    In groups and commands, ``Annotated[TYPE, "..."]`` is an option with this help, without a negative flag for bools.
    """
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    groups: dict[str, Any] = {p.name: p.annotation for p in parameters if is_dataclass(p.annotation)}
    expanded: list[inspect.Parameter] = []
    for parameter in parameters:
        if (group := groups.get(parameter.name)) is None:
            expanded.append(_parameter(parameter.name, parameter.annotation, parameter.default))
            continue
        hints = get_type_hints(group, include_extras=True)
        for field in fields(group):
            declaring = next(cls for cls in group.__mro__ if field.name in inspect.get_annotations(cls))
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            expanded.append(_parameter(field.name, hints[field.name], default, vars(declaring).get("panel")))

    @functools.wraps(function)
    def command(**values: Any) -> None:
        options = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        function(**values, **options)

    return replace_parameters(command, expanded)


def _parameter(name: str, annotation: Any, default: Any, panel: str | None = None) -> inspect.Parameter:
    kind, *metadata = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if metadata:
        option = copy.copy(metadata[0])
        if isinstance(option, str):
            option = Option(*[f"--{name.replace('_', '-')}"] if kind is bool else [], help=option)
        if panel:
            option.rich_help_panel = panel
        annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def replace_parameters(command: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    """Give a command the parameters that Typer reads, and return it."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
