"""Generate the pages of commands, methods, training methods and the reference from the code: `python docs/generate.py`.

It reads names, help texts and examples instead of rendered help, so the output does not depend on the width of a
terminal or the version of the rendering library. A test compares the pages with the generated ones.
"""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from command_pages import table, write_command_pages
from dialect_fields import describe_dialects
from reference_pages import write_reference_pages

from rerank.assemble import DEFAULT_METHOD
from rerank.backends import BACKENDS
from rerank.errors import UsageError
from rerank.finetune.component_registry import describe_training_methods, training_components_of_kind
from rerank.finetune.recipe import describe_recipe_keys
from rerank.methods import describe_methods
from rerank.models import list_rerankers, recipe_of_model, reranker_preset_of_model

DOCS = Path(__file__).parent
_METHODS = """# Methods

<!-- Written by docs/generate.py; change the cards in rerank/methods instead. -->

A method combines a strategy (which windows are judged) with a judge (how the documents of a window are ordered). Any
other pair can be used with `--method STRATEGY:JUDGE`, followed by options of either, as in
`--method sliding,size=10,identifiers=letters`. The same table for scripts: `rerank methods --format json`.
[Which method](../which-method.md) helps to choose.
"""
_RERANKERS = """# Rerankers by name

<!-- Written by docs/generate.py; change the files in rerank/models/rerankers instead. -->

A published reranker was trained with one prompt and one way to score. Used in another way it still returns scores,
but they can be close to random, and nothing shows it
([reports about Qwen3-Reranker](https://github.com/vllm-project/vllm/issues/21681)). Presets hold what the authors
use, so that the name is sufficient:

*Not run: downloads a model.*

```bash
rerank run --collection pydoc --model qwen3-reranker-0.6b --depth 20 --max-queries 2
```

`--method auto`, the default, is replaced by method, prompt and limit of the preset; flags override each. The name of a
preset and its hub id always stand for that preset. Any other folder or hub id is recognised by its files: by values of
`config.json`, by a part of the chat template, or by its name; the class in `config.json` has to be that of the family,
except that some values alone identify it. [Other models](#other-models) are treated by their class. A warning names
the preset if a recognised model gets another method or prompt. A server of chats (`openai:NAME`) gets the preset if
its prompt is a chat (RankZephyr, ReasonRank); prompts with marks of turns, and scores after thoughts (Rank1), need a
local model.

Limits are those of the authors, in tokens (4/3 per word, a quarter per character). Reasoning models think for up to
2,000 to 8,000 tokens per call. *Verified* means that a test compares the prompt with the text that the cited source
makes, byte for byte, and the scores of a small model of the same class with the formula; it says nothing about quality.
Others need code from their repository (`--trust-remote-code`) or cannot be run here, as the note says. Licences are
those of the weights: check them before you rely on them. `7000` means the authors state only 7B.

An adapter (Rank-R1, Setwise-SFT) needs its base model, as in
`--model Qwen/Qwen2.5-7B-Instruct --adapter ielabgroup/Rank-R1-7B-v0.1`.
"""
_FACTS = """
## Sources of licences, sizes and years

*Card* and *page on the hub* are copies of the model's page on huggingface.co, of different ages, read on 2026-11-27.
Abbreviated commits are those of the GitHub repository before them; *mteb* is embeddings-benchmark/mteb,
`mteb/models/model_implementations`.
"""
_OTHERS = """
## Other models

What happens without `--method` to models that are not in the table above. It follows from their `config.json` and the
module list of sentence-transformers, as the linked source states them; a test computes this table from these facts. A
classifier with one or two labels is a cross-encoder, whatever its name, and its score is the logit, or the log odds of
the second label. Conversions of language models (`seq-cls`) expect query and passage in a template that their card
states; the method `cross-encoder` adds none of its own, so read the card before you trust the scores.

Weights that are not in the checkpoint would be random, so a model that lacks some is refused when it is loaded,
whatever the method. *With code* means that the repository brings its own class, which `--trust-remote-code` permits.

Looked for on 2026-12-02, and still without a preset, because prompt and formula are in no public source that could be
read whole: ERank (its prompt is in `examples/utils.py` on the hub), QRRanker (in code on the hub), HeadRank (a paper
without weights). No reranker of TongSearch was found, only its query reasoner. The prompt of NVIDIA's
llama-nemotron-rerank is known, but its bidirectional class needs code of its repository.
"""
_PUBLISHED = """
## Published figures

These figures were measured by others, with their own first stages and depths. They are no results of this project,
and figures of different rows can be compared only if all other columns are equal.
"""
#: Method -> the page that describes it together with others.
_PAGES_OF = {
    "fullrank-images": "../images",
    "head-images": "../images",
    "monot5": "pointwise",
    "multipass": "sliding",
    "qrhead": "icr",
    "core": "icr",
    "first-full": "first",
    "setwise-bubble": "setwise",
    "pairwise-allpair": "pairwise",
    "pairwise-sliding": "pairwise",
    "pointwise-images": "../images",
}
_TRAINING = """# Training methods

<!-- Written by docs/generate.py; change the classes in rerank/finetune and rerank/finetune/methods.toml instead. -->

A recipe names an adapter, an optimizer, and losses or an objective. Layer sampling, callbacks and a rank allocation are
optional. These pages describe the formula, cost and caveats of each method: [adapters](adapters.md),
[optimizers](optimizers.md), [losses](losses.md), [layers, callbacks and ranks](layers.md).
The same table for scripts: `rerank methods --training --format json`, a list of objects with `name`, `kind`, `status`
(`available` or `out-of-scope`), `stability`, `summary`, `paper`, `differs` and `reason`.

The *stability* of a method is `stable` or `experimental`. Experimental methods come from research papers and are used
by few people: they are tested like the others, but their options may change between versions. Their classes are in
`rerank/finetune/extra`. The five adapters that people use come first in the table of adapters; [choosing an
adapter](choosing.md) says why these. [Formulas](formulas.md) compares every method with its paper and names its test.

What an adapter *trains* determines which components can be combined with it: `lora`, factor pairs whose product is
added to a matrix; `other`, new parameters of another kind; `full`, the model's own weights. A recipe with components
that do not fit together is refused before anything is loaded.
"""
_SIZES = """
Numbers are for the default options and the matrices in the layers of a model with 7 billion parameters (28 layers,
hidden size 3,584, intermediate size 18,944, key and value size 512: 6.53 billion weights). They are computed from the
formulas or counted by peft, without a model. In full training, embeddings, head and vectors are added to them. A number
takes 4 bytes.
"""
_TITLES = {
    "adapter": "Adapters",
    "optimizer": "Optimizers",
    "layers": "Layer sampling",
    "callback": "Callbacks",
    "objective": "Objectives",
    "analysis": "Ranks and analysis",
}
#: Kind of training method -> the page that describes its parts.
_PAGE_OF_KIND = {
    "adapter": "adapters.md",
    "optimizer": "optimizers.md",
    "layers": "layers.md",
    "callback": "layers.md",
    "objective": "losses.md",
    "analysis": "layers.md",
}
#: Training method that is no part -> where it is described.
_ELSEWHERE = {
    "icr": "../methods/icr.md",
    "inquire": "../benchmarks/inquire.md",
    "mmteb": "../benchmarks/mmteb.md",
    "t2ranking": "../benchmarks/t2ranking.md",
    "qrels-agreement": "../adjudication.md",
    "intruder-dimensions": "../inspecting.md",
    "update-sparsity": "../inspecting.md",
    "fed-sb": "../inspecting.md#averaging-adapters-of-shards",
}
_FOR_TESTS = ("fake", "fake_server", "replay")


def pages() -> dict[str, str]:
    """Path below docs/ -> the whole page."""
    return {
        "methods/index.md": _methods(),
        "models.md": _rerankers(),
        "training/index.md": _training(),
        "package-index.md": _package_index(),
        "serving.md": _serving(),
        **write_command_pages(),
        **write_reference_pages(),
    }


def _package_index() -> str:
    """Return README.md for a package index, where its relative links and pictures lead nowhere: only their texts."""
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    without_marks = re.sub(r"^\*Not run: .*\*\n\n", "", readme, flags=re.M)
    without_pictures = re.sub(r"!\[([^]]*)\]\([^)]*\)", r"> \1", without_marks)
    return re.sub(r"\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", without_pictures)


def _serving() -> str:
    """Return the page of the server with the tables of fields, which stand between two marks."""
    before, start, rest = (DOCS / "serving.md").read_text(encoding="utf-8").partition("<!-- fields, generated -->\n")
    return before + start + "\n" + "\n".join(describe_dialects(table)) + rest[rest.index("<!-- end of fields -->") :]


def _training() -> str:
    """Return the page of all training methods and of the papers that are not implemented."""
    rows = describe_training_methods()
    parts = [_TRAINING]
    for kind, title in _TITLES.items():
        here = [row for row in rows if row["kind"] == kind and row["status"] == "available"]
        keys = ("stability", "summary", "differs", "paper")
        cells = [[_linked(row), *(row[key] for key in keys)] for row in here]
        head = ("name", "stability", "what it does", "differs from the source", "source")
        parts += [f"## {title}\n", table(head, cells), ""]
    away = [[row["name"], row["summary"], row["reason"], row["paper"]] for row in rows if row["reason"]]
    parts += ["## Out of scope\n", table(("name", "what it is", "why it is not implemented", "source"), away), ""]
    parts += ["## Keys of a recipe\n", table(("table", "key and default", "meaning"), describe_recipe_keys()), ""]
    parts += ["## Side by side\n", _SIZES.lstrip(), _adapters(), "", _optimizers()]
    return "\n".join(parts) + "\n"


def _linked(row: dict[str, str]) -> str:
    name = row["name"]
    page = (
        f"{_PAGE_OF_KIND[row['kind']]}#{name}"
        if name in training_components_of_kind(row["kind"])
        else _ELSEWHERE.get(name)
    )
    return f"[`{name}`]({page})" if page else f"`{name}`"


def _large() -> list[tuple[int, int]]:
    """Return the shapes (rows, columns) of the matrices in the layers of a model with 7 billion parameters."""
    width, inner, heads = 3584, 18944, 512
    attention = [(width, width), (heads, width), (heads, width), (width, width)]
    return [*attention, (inner, width), (inner, width), (width, inner)] * 28


def _adapters() -> str:
    """Return the table of adapters: trained parameters, and the format of the result."""
    head = ("adapter", "trains", "parameters", "share", "identity at start", "saved as", "vLLM LoRA", "can be merged")
    shapes, cells = _large(), []
    whole = sum(rows * columns for rows, columns in shapes)
    parts = training_components_of_kind("adapter")
    for name in [row["name"] for row in describe_training_methods() if row["name"] in parts]:
        part = parts[name]
        if name == "peft":  # its numbers are those of the configuration that a recipe names
            continue
        count = part().count_trainable(shapes)
        start, vllm, merges = ("yes" if value else "" for value in (part.identity, part.vllm, part.merges))
        numbers = [part.shape, f"{count:,}", f"{100 * count / whole:.3g} %"]
        needs = f" (needs {part.needs})" if part.needs else ""
        cells.append([f"`{name}`{needs}", *numbers, start, part.saves, vllm, merges])
    return table(head, cells)


def _optimizers() -> str:
    """Return the table of optimizers: kinds of parameters that they support, and the size of their state."""
    head = ("optimizer", "parameters", "state in full training", "relative to AdamW", "state with `lora`, r = 16")
    shapes, cells = _large(), []
    most = 2 * sum(rows * columns for rows, columns in shapes)
    factors = [factor for rows, columns in shapes for factor in ((16, columns), (rows, 16))]
    for name, part in training_components_of_kind("optimizer").items():
        one = part()
        kept = one.count_state(shapes)
        sizes = [f"{kept:,}", f"{kept / most:.3f}"] if "full" in one.fits else ["", ""]
        of_factors = f"{one.count_state(factors):,}" if "lora" in one.fits else ""
        cells.append([f"`{name}`", ", ".join(sorted(one.fits)), *sizes, of_factors])
    return table(head, cells)


def _methods() -> str:
    """Every method, what it costs, and who can answer it."""
    rows = describe_methods()
    backends = [name for name in BACKENDS.names() if name not in _FOR_TESTS]
    head = ("method", "strategy", "judge", "calls for 100 documents, at most", *(f"`{name}`" for name in backends))
    cells = [
        [
            f"[`{row['name']}`]({_PAGES_OF.get(row['name'], row['name'])}.md)",
            f"`{row['strategy']}`",
            f"`{row['judge']}`" + (f" ({row['options']})" if row["options"] else ""),
            row["calls_per_100"],
            *("yes" if name in row["backends"] else "" for name in backends),
        ]
        for row in rows
    ]
    papers = [[f"`{row['name']}`", row["summary"], row["paper"]] for row in rows]
    parts = (_METHODS, table(head, cells), "", table(("method", "what it does", "source"), papers))
    return "\n".join(parts) + "\n"


def _rerankers() -> str:
    """Return the page of all presets of rerankers and of their published figures."""
    rows = list_rerankers()
    head = (
        "`--model`",
        "on the hub",
        "scores by",
        "millions of parameters",
        "year",
        "licence",
        "`--method auto`",
        "verified",
    )
    cells = [
        [
            f"`{row['name']}`",
            f"[{row['hub_id']}](https://huggingface.co/{row['hub_id']})"
            + (f", adapter of {row['base']}" if row["base"] else ""),
            row["kind"],
            row["parameters"] or "not stated",
            row["year"] or "not stated",
            row["licence"],
            f"`{row['method']}`" if row["method"] else row["note"],
            f"[yes]({row['source']})" if row["verified"] else "no",
        ]
        for row in rows
    ]
    notes = _models_by_remark((row["name"], row["note"]) for row in rows if row["note"] and row["method"])
    facts = _models_by_remark((row["name"], row["facts"]) for row in rows)
    keys = ("value", "measure", "collection", "first_stage", "depth", "measured_by")
    figures = [[f"`{row['name']}`", *(figure[key] for key in keys)] for row in rows for figure in row["published"]]
    figure_head = ("model", "value", "measure", "collection", "first stage", "depth", "measured by")
    parts = (
        *(_RERANKERS, table(head, cells), "", *notes, _OTHERS, _other_models()),
        *(_FACTS, *facts, _PUBLISHED, table(figure_head, figures)),
    )
    return "\n".join(parts) + "\n"


def _other_models() -> str:
    """Return the table of what happens to models of ``other_models.toml`` without ``--method``."""
    models = tomllib.loads((DOCS / "other_models.toml").read_text(encoding="utf-8"))["models"]
    rows = []
    for model in models:
        outcome = outcome_of_other_model(model)
        if model.get("remote_code") and not outcome.startswith("refused"):
            outcome += ", with code"
        labels = model.get("labels", 0)
        classes = ", ".join(model["architectures"]) + (f", {labels} label{'s' * (labels > 1)}" if labels else "")
        source = re.search(r"https://\S+?(?=[:;,]?(?: |$))", model["source"])
        rows.append([model["hub_id"], classes, outcome, f"[source]({source[0]})" if source else model["source"]])
    return table(("on the hub", "class", "without `--method`", "facts"), rows)


def outcome_of_other_model(model: Mapping[str, Any]) -> str:
    """Return what the method ``auto`` makes of a model, given the facts in ``other_models.toml``."""
    with tempfile.TemporaryDirectory() as cache:
        name = model["hub_id"].replace("/", "--")
        folder = write_described_model(Path(cache) / f"models--{name}" / "snapshots" / ("0" * 40), model)
        try:
            preset, recipe = reranker_preset_of_model(str(folder)), recipe_of_model(str(folder), None)
        except UsageError as error:
            if error.found.startswith(f"Model {str(folder)!r} is a reranker"):
                return f"refused: it {error.found.removeprefix(f'Model {str(folder)!r} ')}"
            encodes = "encoder-decoder" in error.found
            return f"refused: it is an {'encoder-decoder model' if encodes else 'encoder or embedding model'}"
    if preset is not None:
        return f"preset `{preset.name}`"
    if recipe and model.get("labels", 1) > 2:
        return f"refused: it has {model['labels']} labels"
    return f"`{recipe['method']}`" if recipe else f"`{DEFAULT_METHOD}`, as any language model"


def write_described_model(folder: Path, model: Mapping[str, Any]) -> Path:
    """Write the files without weights that a model with these facts has."""
    folder.mkdir(parents=True)
    config = {"architectures": model["architectures"], "model_type": model.get("model_type", "")}
    config["is_encoder_decoder"] = config["model_type"] in ("t5", "mt5")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if "modules" in model:
        kind = "CrossEncoder" if model["kind"] == "reranker" else "SentenceTransformer"
        saved = json.dumps({"model_type": kind})
        (folder / "modules.json").write_text("[]", encoding="utf-8")
        (folder / "config_sentence_transformers.json").write_text(saved, encoding="utf-8")
    return folder


def _models_by_remark(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """Return one item of a list per remark, with the names of the models that share it."""
    models: dict[str, list[str]] = {}
    for name, remark in remarks:
        models.setdefault(remark, []).append(f"`{name}`")
    return [f"- {', '.join(names)}: {remark}." for remark, names in models.items()]


if __name__ == "__main__":
    for path, text in pages().items():
        (DOCS / path).parent.mkdir(exist_ok=True)
        (DOCS / path).write_text(text, encoding="utf-8")
