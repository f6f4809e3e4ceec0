"""What a run is: one frozen value, written by the user as flags or TOML, kept in the run folder as JSON.

`RunSpec` says what is asked for; `Execution` says how the machine goes about it and decides no result. This module
knows fields and files, not what they lead to.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError

Shuffle = Literal["none", "random", "inverse"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def make(cls, values: dict[str, Any]) -> Self:
        """Check values as they come from flags or a file.

        Raises:
            UnknownNameError: A key that does not exist; the message suggests the nearest.
            UsageError: A value that does not fit.
        """
        for key in values:
            if key not in cls.model_fields:
                raise UnknownNameError("key of a run specification", key, cls.model_fields)
        try:
            return cls(**values)
        except ValidationError as error:
            problem = error.errors()[0]
            name = ".".join(map(str, problem["loc"]))
            if problem["type"] == "missing":
                raise UsageError(f"No {name} is given", remedy=f"Pass --{name.replace('_', '-')}") from error
            flag = f"--{name.replace('_', '-')}"
            wanted = problem["msg"].removeprefix("Input should be ")
            raise UsageError(f"{flag} {problem['input']!r}", expected=wanted) from error


class RunSpec(_Frozen):
    """Everything that decides the result of a run. Hashable; TOML in, JSON both ways."""

    collection: str
    """Selector of the collection, e.g. ``pydoc`` or ``beir:data/scifact``."""
    first_stage: str = "bm25"
    """First stage: ``bm25``, ``dense``, ``sparse:MODEL``, ``lucene``, ``hybrid:A+B``, ``run:FILE``, ``candidates``."""
    depth: int = Field(default=100, ge=1)
    """Candidates a query."""
    max_queries: int | None = Field(default=None, ge=1)
    """Take only the first so many queries."""
    queries: tuple[str, ...] = ()
    """Take only the query with this id; repeatable."""
    shuffle: Shuffle = "none"
    """Order in which the candidates are given to the reranker."""
    seed: int = 0
    """For the shuffle and for sampling."""
    method: str = "fullrank"
    """Name of a method, or ``strategy:judge``; options of either may follow, as in ``sliding,size=10,stride=5``."""
    window_size: int | None = None
    """Documents in a window, for strategies that have one."""
    stride: int | None = None
    """How far the window moves, for strategies that have one."""
    passes: int | None = None
    """How often the strategy is repeated, where it can be."""
    top_k: int | None = Field(default=None, ge=1)
    """Rank only the best so many; the rest follows in its given order."""
    passages: str | None = None
    """Judge documents in passages put together by ``max``, ``first`` or ``sum``, as in ``max,size=150,stride=75``."""
    model: str = "smollm2-135m"
    """A name of `rerank models`, a folder, a hub id, ``openai:NAME`` on a server, ``vllm:NAME``, or ``fake:KIND``."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    adapter: str | None = None
    """Name of `rerank models`, folder or hub id of a PEFT adapter; one listrank trained brings model and method."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the weights; auto takes bfloat16 where the processor is fast with it."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless asked for."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server, for ``--model openai:NAME``; else OPENAI_BASE_URL."""
    prompt: str = "auto"
    """Name of a shipped prompt or path of a YAML file; auto takes the one that suits the model, else listwise."""
    min_passage_tokens: int = Field(default=32, ge=1)
    """Passages are never cut below that many tokens."""
    max_passage_tokens: int | None = Field(default=None, ge=1)
    """Nor left longer than that."""
    context_size: int | None = Field(default=None, ge=1)
    """Use less than the model's context."""
    temperature: float = Field(default=0.0, ge=0.0)
    """0 is greedy."""
    thinking_tokens: int = Field(default=0, ge=0)
    """What a reasoning model may spend before it answers; 0 asks it not to think."""
    qrels: str | None = None
    """Judgments, where the collection brings none or others are wanted."""
    measures: tuple[str, ...] = ("nDCG@10",)
    """Names as ir_measures or trec_eval write them."""
    relevant: int | None = Field(default=None, ge=1)
    """Lowest grade that binary measures count as relevant; the collection's own if left out."""
    max_failure_rate: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of failed windows past which the exit code says so."""

    @property
    def shown_method(self) -> str:
        """The method for a reader: of files that its options name, the names alone."""
        return re.sub(r"=[^,]*/", "=", self.method)


class Execution(_Frozen):
    """How the machine goes about it; none of it is part of a run's identity."""

    out: Path | None = None
    """Folder of the run; if left out it is named by the run's hash, under ``runs/``."""
    resume: bool = False
    """Go on where an unfinished folder stopped."""
    overwrite: bool = False
    """Throw an existing folder's calls away."""
    device: str = "auto"
    """Torch device."""
    device_map: Literal["", "auto", "balanced", "sequential", "tp"] = ""
    """Spread a model over devices: its layers (auto, balanced, sequential), or every matrix (tp, under torchrun)."""
    concurrency: int | None = Field(default=None, ge=1)
    """Requests to a server that are under way at a time."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds to wait for a server's answer."""
    batch_size: int | None = Field(default=None, ge=1)
    """Prompts a batch; the backend's own choice if left out."""
    max_total_tokens: int | None = Field(default=None, ge=1)
    """Ask nothing more once prompts and replies have taken that many."""
    call_cache: bool | None = None
    """Keep replies beyond this run; if left out, where calls cost money."""


def read_spec(path: str | Path) -> dict[str, Any]:
    """The keys of a run specification: TOML, or a run folder's spec.json; dashes in keys count as underscores.

    Raises:
        MissingResourceError: There is no such file.
        DataError: It is neither.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingResourceError(f"No run specification at {str(path)!r}", expected="a TOML file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r} is not UTF-8 text", expected="a TOML file") from error
    try:
        values = json.loads(text)["spec"] if str(path).endswith(".json") else tomllib.loads(text)
        given = {key: value for key, value in values.items() if value is not None}
    except (tomllib.TOMLDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{str(path)!r}: {error}", expected="TOML, or the spec.json of a run folder") from error
    return {key.replace("-", "_"): value for key, value in given.items()}
