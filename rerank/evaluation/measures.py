"""Parser for measure names in ir_measures notation (``AP(rel=2)@100``) and trec_eval notation (``ndcg_cut_10``).

The parser of ir_measures is not used, because it depends on Python features that newer versions have removed, and
because an invalid parameter must raise an error that says how to correct it. Benchmark-specific measures come from
`benchmark_measures`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rerank.errors import UnknownNameError, UsageError

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


class _Call(NamedTuple):
    """A measure as the user wrote it: name, parameters and the value after ``@``."""

    name: str
    params: dict[str, Any]
    at: Any


def parse_measures(names: Iterable[str], *, relevant: int = 1) -> tuple[Measure, ...]:
    """Parse names of measures. The measures keep the order of the names, and duplicates are dropped.

    Args:
        names: Names in the notation of ir_measures or trec_eval. ``P_5,10`` stands for two measures.
        relevant: Lowest grade that counts as relevant in binary measures whose name does not specify one. It becomes
            part of the printed name: with 2 (the rule of TREC Deep Learning), ``AP`` becomes ``AP(rel=2)``.

    Returns:
        Measure objects of ir_measures. This package uses ``str(measure)`` as the name of a measure.

    Raises:
        UnknownNameError: The measure does not exist; similar names are suggested.
        UsageError: No name is given, a name cannot be parsed, or a parameter does not exist or has an invalid value.
    """
    if relevant < 1:
        raise UsageError(f"relevant is {relevant}", expected="a grade of 1 or more")
    measures: dict[str, Measure] = {}
    for name in names:
        for text in _measure_from_trec_name(name.strip()):
            measure = _build_measure(_parse_measure(text), text, relevant)
            measures.setdefault(str(measure), measure)
    if not measures:
        raise UsageError("No measure is given", expected="at least one measure", remedy="Pass a name such as nDCG@10")
    return tuple(measures.values())


def is_summed_measure(name: str) -> bool:
    """Return whether a measure is a count. As in trec_eval, counts are summed over queries instead of averaged."""
    return re.match(r"Num(Q|Rel|Ret)\b", name) is not None


def is_binary_measure(measure: Measure) -> bool:
    """Return whether a measure is binary: it uses grades only to compare them with its parameter ``rel``."""
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


def _measure_from_trec_name(name: str) -> list[str]:
    """Convert a trec_eval name to one or more ir_measures names. Other names are returned unchanged."""
    form = _TREC_FORM.fullmatch(name)
    if form is None:
        return [name]
    values = (form["values"] or "").split(",") if form["values"] else []
    ours = _TREC_NAMES.get(form["name"], "")
    if values and ours.endswith("@"):
        return [ours + value for value in values]
    if not values and ours and not ours.endswith("@"):
        return [ours]
    return [name]


def _parse_measure(text: str) -> _Call:
    """Parse ``Name(key=value, ...)@cutoff``."""
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
            return _Call(node.id, params, cutoff)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass  # each of these means that the text is not the name of a measure
    raise UsageError(
        f"{text!r} is not the name of a measure",
        expected="a name, optionally followed by parameters in parentheses and by @ and a cutoff",
        remedy="Write it like nDCG@10, AP(rel=2) or P(rel=2)@5",
    )


def _build_measure(call: _Call, text: str, relevant: int) -> Measure:
    template = _look_up_measure(call.name)
    params = {**template.params, **call.params}
    if call.at is not None:
        params[template.AT_PARAM] = call.at
    if is_binary_measure(template) and "rel" not in call.params and relevant != 1:
        params["rel"] = relevant
    return type(template)(**_checked_measure_parameters(params, template, text))


def _look_up_measure(name: str) -> Measure:
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


def _checked_measure_parameters(params: Mapping[str, Any], template: Any, text: str) -> dict[str, Any]:
    """Validate the parameters and return them, with integers converted to floats where floats are expected.

    ir_measures itself validates only with ``assert``.
    """
    known = template.SUPPORTED_PARAMS
    result: dict[str, Any] = {}
    for key, value in params.items():
        if key not in known:
            takes = ", ".join(sorted(known)) or "none"
            raise UsageError(f"{text!r} has the unknown parameter {key!r}", expected=f"one of its parameters: {takes}")
        result[key] = float(value) if known[key].dtype is float and type(value) is int else value
        if not known[key].validate(result[key]) or not _is_sensible_measure_parameter(key, result[key]):
            raise UsageError(f"{text!r} has {key}={value!r}", expected=_EXPECTED.get(key, f"{known[key].dtype}"))
    for key, info in known.items():
        if info.required and key not in result:
            example = f"{text}@10" if key == template.AT_PARAM == "cutoff" else f"{text} with {key}"
            raise UsageError(f"{text!r} lacks the required parameter {key}", remedy=f"Write {example}")
    return result


_EXPECTED = {
    "cutoff": "a whole number, 1 or more",
    "rel": "a grade of 1 or more",
    "recall": "a number from 0 to 1 with at most two decimals",
    "gains": "a mapping from grades to gains, all of them whole numbers and no gain negative, as in {1:1, 2:3}",
}


def _is_sensible_measure_parameter(key: str, value: Any) -> bool:
    """Return whether the value of a measure's parameter is in range, which ir_measures does not always check."""
    if key in ("cutoff", "rel"):
        return type(value) is int and 1 <= value < 2**31
    if key == "recall":  # trec_eval prints two decimals and confuses values that are equal when printed
        return bool(0 <= value <= 1 and round(value, 2) == value)
    if key == "gains":
        return all(type(grade) is int and type(gain) is int and 0 <= gain < 10**6 for grade, gain in value.items())
    return True
