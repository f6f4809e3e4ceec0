"""Parser for measure names in ir_measures notation (``AP(rel=2)@100``) and trec_eval notation (``ndcg_cut_10``).

The parser of ir_measures is not used, because it depends on Python features that newer versions have removed, and
because an invalid parameter must raise an error that says how to correct it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rerank.errors import UnknownNameError, UsageError, ensure, error_repr
from rerank.types import NOT_JUDGED, UNJUDGED, Qrels, Run

if TYPE_CHECKING:
    from ir_measures import Measure

#: Names in ir_measures, by name in trec_eval. ``@`` marks measures with a parameter: ``P_10``, ``P.10``, ``P_5,10``.
_TREC_NAMES = {
    "bpref": "Bpref",
    "infAP": "infAP",
    "iprec_at_recall": "IPrec@",
    "map": "AP",
    "map_cut": "AP@",
    "ndcg": "nDCG",
    "ndcg_cut": "nDCG@",
    "num_q": "NumQ",
    "num_rel": "NumRel",
    "num_rel_ret": "NumRelRet",
    "num_ret": "NumRet",
    "P": "P@",
    "recall": "R@",
    "recip_rank": "RR",
    "Rprec": "Rprec",
    "set_F": "SetF",
    "set_map": "SetAP",
    "set_P": "SetP",
    "set_recall": "SetR",
    "set_relative_P": "SetRelP",
    "success": "Success@",
}
_TREC_FORM = re.compile(r"(?P<name>[A-Za-z0-9_]+?)(?:[._](?P<values>[0-9]*\.?[0-9]+(?:,[0-9]*\.?[0-9]+)*))?")


def parse_measures(names: Iterable[str], *, relevant: int = 1) -> tuple[Measure, ...]:
    """Parse names of measures; they keep their order, and duplicates are dropped. ``P_5,10`` stands for two measures.

    Binary measures whose name does not specify the lowest ``relevant`` grade get it as a part of their printed name:
    with 2 (the rule of TREC Deep Learning), ``AP`` becomes ``AP(rel=2)``. ``str(measure)`` is its name in this package.

    Raises:
        UnknownNameError: The measure does not exist; similar names are suggested.
        UsageError: No name is given, a name cannot be parsed, or a parameter does not exist or has an invalid value.
    """
    ensure(relevant >= 1, f"relevant is {relevant}", expected="a grade of 1 or more")
    measures: dict[str, Measure] = {}
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"A measure is {error_repr(name)}", expected="the name of one measure, such as 'nDCG@10'")
        for text in _from_trec_name(name.strip()):
            measure = _build(text, relevant)
            measures.setdefault(str(measure), measure)
    if not measures:
        raise UsageError("No measure is given", expected="at least one measure", remedy="Pass a name such as nDCG@10")
    return tuple(measures.values())


def is_summed_measure(name: str) -> bool:
    """Return whether a measure is a count. As in trec_eval, counts are summed over queries instead of averaged."""
    return re.match(r"Num(Q|Rel|Ret)\b", name) is not None


def is_binary_measure(measure: Measure) -> bool:
    """Return whether a measure uses grades only to compare them with its parameter ``rel``."""
    rel = measure.SUPPORTED_PARAMS.get("rel")
    return rel is not None and (rel.default == 1 or "rel" in measure.params)


def why_measure_needs_whole_run(measure: Measure) -> str:
    """Return the reason why a measure has only one value per run; empty if it has per-query values."""
    return str(getattr(measure, "WHOLE_RUN", ""))


def check_measure_has_query_values(name: str) -> None:
    """Check that a measure has per-query values."""
    (measure,) = parse_measures([name])
    if reason := why_measure_needs_whole_run(measure):
        raise UsageError(
            f"{name} has no per-query values: {reason}",
            expected="a measure with per-query values, which paired tests need",
            remedy=f"Use {name.partition('_')[2]}, which is averaged over all judged queries",
        )


def _from_trec_name(name: str) -> list[str]:
    """Convert a trec_eval name to one or more ir_measures names. Other names are returned unchanged."""
    form = _TREC_FORM.fullmatch(name)
    if form is None:
        return [name]
    values = form["values"].split(",") if form["values"] else []
    ours = _TREC_NAMES.get(form["name"], "")
    if values and ours.endswith("@"):
        return [ours + value for value in values]
    if not values and ours and not ours.endswith("@"):
        return [ours]
    return [name]


def _build(text: str, relevant: int) -> Measure:
    name, given, cutoff = _split(text)
    template: Any = _look_up(name)
    params = {**template.params, **given}
    if cutoff is not None:
        params[template.AT_PARAM] = cutoff
    if is_binary_measure(template) and "rel" not in given and relevant != 1:
        params["rel"] = relevant
    # ir_measures itself validates parameters only with ``assert``
    known = template.SUPPORTED_PARAMS
    for key, value in params.items():
        if key not in known:
            takes = ", ".join(sorted(known)) or "none"
            raise UsageError(f"{text!r} has the unknown parameter {key!r}", expected=f"one of its parameters: {takes}")
        params[key] = float(value) if known[key].dtype is float and type(value) is int else value
        if not known[key].validate(params[key]) or not _is_in_range(key, params[key]):
            raise UsageError(f"{text!r} has {key}={value!r}", expected=_EXPECTED.get(key, f"{known[key].dtype}"))
    for key, info in known.items():
        if info.required and key not in params:
            example = f"{text}@10" if key == template.AT_PARAM == "cutoff" else f"{text} with {key}"
            raise UsageError(f"{text!r} lacks the required parameter {key}", remedy=f"Write {example}")
    measure: Measure = type(template)(**params)
    return measure


def _split(text: str) -> tuple[str, dict[str, Any], Any]:
    """Return the name, the parameters and the value after ``@``, which is None if it is missing."""
    try:
        node = ast.parse(text, mode="eval").body
        cutoff = None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            cutoff, node = ast.literal_eval(node.right), node.left
        params: dict[str, Any] = {}
        if isinstance(node, ast.Call) and not node.args:
            params = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in node.keywords}
            node = node.func
        if isinstance(node, ast.Name):
            return node.id, params, cutoff
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass  # each of these means that the text is not the name of a measure
    raise UsageError(
        f"{text!r} is not the name of a measure",
        expected="a name, optionally followed by parameters in parentheses and by @ and a cutoff",
        remedy="Write it like nDCG@10, AP(rel=2) or P(rel=2)@5",
    )


def _look_up(name: str) -> Measure:
    from ir_measures.measures import registry

    from rerank.evaluation.benchmark_measures import register_benchmark_measures

    register_benchmark_measures()
    known: dict[str, Measure] = registry
    if name in known:
        return known[name]
    for other, measure in known.items():
        if other.casefold() == name.casefold():
            return measure
    stem = name.rstrip("0123456789")
    if stem != name and stem in known:
        raise UsageError(
            f"Unknown measure {name!r}",
            expected="an @ before the cutoff",
            remedy=f"Write {stem}@{name.removeprefix(stem)}",
        )
    raise UnknownNameError("measure", name, {*known, *_TREC_NAMES})


_EXPECTED = {
    "cutoff": "a whole number, 1 or more",
    "rel": "a grade of 1 or more",
    "recall": "a number from 0 to 1 with at most two decimals",
    "gains": "a mapping from grades to gains, all of them whole numbers and no gain negative, as in {1:1, 2:3}",
}


def _is_in_range(key: str, value: Any) -> bool:
    """Return whether the value of a measure's parameter is in range, which ir_measures does not always check."""
    if key in ("cutoff", "rel"):
        return type(value) is int and 1 <= value < 2**31
    if key == "recall":  # trec_eval prints two decimals and confuses values that are equal when printed
        return bool(0 <= value <= 1 and round(value, 2) == value)
    if key == "gains":
        return all(type(grade) is int and type(gain) is int and 0 <= gain < 10**6 for grade, gain in value.items())
    return True


_GAINS = {"log2": "grade", "exp-log2": "2^grade - 1"}


def describe_grade_use(name: str) -> str:
    """Describe how a measure uses grades, such as ``relevant: grade >= 2``; empty if unknown, or if it does not."""
    (measure,) = parse_measures([name])
    if measure.NAME == "nDCG":
        mapped = ", ".join(f"{grade} counts {gain}" for grade, gain in sorted(measure.params.get("gains", {}).items()))
        return f"gain: {_GAINS[measure['dcg']]}{mapped and f' ({mapped})'}, discount: log2(rank + 1)"
    return f"relevant: grade >= {measure['rel']}" if is_binary_measure(measure) else ""


def _highest_grade(qrels: Qrels) -> int:
    return max((grade for judged in qrels.values() for grade in judged.values()), default=0)


def measure_grade_note(qrels: Qrels, names: Iterable[str]) -> str:
    """Return a warning if judgments are graded and a binary measure does not say from which grade, else ""."""
    unspecified = [name for name in names if is_binary_measure(parse_measures([name])[0]) and "rel=" not in name]
    highest = _highest_grade(qrels)
    if not unspecified or highest < 2:
        return ""
    (example,) = parse_measures([unspecified[0]], relevant=2)
    return (
        f"{', '.join(unspecified)}: grades from 1 count as relevant, and these judgments have grades up to "
        f"{highest}. TREC Deep Learning counts from 2: {example}."
    )


def relevance_threshold_note(qrels: Qrels, names: Iterable[str], relevant: int = 1) -> str:
    """Return a warning if no document counts as relevant, since a threshold is above all grades, else ""."""
    highest = _highest_grade(qrels)
    thresholds = [measure["rel"] for measure in parse_measures(names) if is_binary_measure(measure)]
    if (lowest := max([relevant, *thresholds])) <= highest:
        return ""
    return f"No document in {qrels.name} is relevant at grade {lowest} or higher: the highest grade is {highest}."


def evaluation_overlap_note(qrels: Qrels, run: Run) -> str:
    """Return a warning if the run has judged queries but no judged document, else ""."""
    is_shared = False
    for query, ranking in run.items():
        if query in qrels and len(ranking):
            is_shared = True
            if any(qrels[query].get(doc, UNJUDGED) not in NOT_JUDGED for doc in ranking.doc_ids):
                return ""
    if not is_shared:
        return ""
    return f"No document of run {run.name!r} is judged in {qrels.name}. Check that both use the same collection."
