"""Names -> measures: ir_measures' names (``nDCG@10``, ``AP(rel=2)``) and trec_eval's (``ndcg_cut_10``, ``map``).

The measures are ir_measures', and those of `own_measures` beside them. Names are read here, because its own reader uses
parts of Python that newer versions drop, and because a bad parameter must be an error with a remedy. Knows neither runs
nor judgments.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rerank.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from ir_measures import Measure

#: trec_eval's names, and ir_measures' for the same; those with ``@`` take a parameter: ``P_10``, ``P.10``, ``P_5,10``.
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
    """A measure as it was written."""

    name: str
    params: dict[str, Any]
    at: Any


def parse_measures(names: Iterable[str], *, relevant: int = 1) -> tuple[Measure, ...]:
    """Read the names of measures, in order; one asked for twice counts once.

    Args:
        names: In ir_measures' or trec_eval's form; ``P_5,10`` is two measures.
        relevant: The lowest grade that binary measures count as relevant, where the name gives none. It shows in
            the printed name: with 2 (the rule of TREC Deep Learning), ``AP`` becomes ``AP(rel=2)``.

    Returns:
        ir_measures' objects; ``str`` of one is its name everywhere in this package.

    Raises:
        UnknownNameError: There is no such measure; suggests the nearest.
        UsageError: No name, not the form of a name, or parameters that the measure does not take.
    """
    if relevant < 1:
        raise UsageError(f"relevant={relevant}", expected="a grade of at least 1")
    found: dict[str, Measure] = {}
    for name in names:
        for written in _from_trec(name.strip()):
            measure = _build(_read(written), written, relevant)
            found.setdefault(str(measure), measure)
    if not found:
        raise UsageError("No measure was asked for", expected="at least one", remedy="Ask for one, such as nDCG@10")
    return tuple(found.values())


def is_total(name: str) -> bool:
    """Whether a measure counts things, so that it is added up over queries instead of averaged (trec_eval's rule)."""
    return re.match(r"Num(Q|Rel|Ret)\b", name) is not None


def is_binary(measure: Measure) -> bool:
    """Whether it knows relevant and not relevant only, so that a lowest grade decides; see its parameter ``rel``."""
    rel = measure.SUPPORTED_PARAMS.get("rel")
    return rel is not None and (rel.default == 1 or "rel" in measure.params)


def whole_run(measure: Measure) -> str:
    """Why it has one value for a whole run and none for a query; empty where it has one for each query."""
    return str(getattr(measure, "WHOLE_RUN", ""))


def check_by_query(name: str) -> None:
    """Refuse a measure that has no values query by query.

    Raises:
        UsageError: It has none; says why, and what to take instead.
    """
    (measure,) = parse_measures([name])
    if whole_run(measure):
        raise UsageError(
            f"{name} has no value for each query: {whole_run(measure)}",
            expected="a measure that has one, since that is what paired tests compare",
            remedy=f"Take {name.partition('_')[2]}, whose mean is over all judged queries",
        )


def _from_trec(name: str) -> list[str]:
    """The names in ir_measures' form, from either form."""
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


def _read(text: str) -> _Call:
    """Take ``Name(key=value, ...)@at`` apart."""
    try:
        node = ast.parse(text, mode="eval").body
        at = None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            at, node = ast.literal_eval(node.right), node.left
        params: dict[str, Any] = {}
        if isinstance(node, ast.Call) and not node.args:
            params = {word.arg or "**": ast.literal_eval(word.value) for word in node.keywords}
            node = node.func
        if isinstance(node, ast.Name):
            return _Call(node.id, params, at)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass  # all of them mean the same: not the form of a name
    raise UsageError(
        f"{text!r} is not the form of a measure",
        expected="a name, then parameters in brackets, then @ and a cutoff",
        remedy="Write it like nDCG@10, AP(rel=2) or P(rel=2)@5",
    )


def _build(call: _Call, text: str, relevant: int) -> Measure:
    template = _lookup(call.name)
    params = {**template.params, **call.params}
    if call.at is not None:
        params[template.AT_PARAM] = call.at
    if is_binary(template) and "rel" not in call.params and relevant != 1:
        params["rel"] = relevant
    return type(template)(**_checked(params, template, text))


def _lookup(name: str) -> Measure:
    from ir_measures.measures import registry

    from rerank.evaluation.own_measures import register

    register()
    known: dict[str, Measure] = registry
    if name in known:
        return known[name]
    for other, measure in known.items():
        if other.casefold() == name.casefold():
            return measure
    raise UnknownNameError("measure", name, {*known, *_TREC_NAMES})


def _checked(params: Mapping[str, Any], template: Any, text: str) -> dict[str, Any]:
    """The parameters with whole numbers as floats where floats are due; ir_measures itself checks by ``assert``."""
    known = template.SUPPORTED_PARAMS
    result: dict[str, Any] = {}
    for key, value in params.items():
        if key not in known:
            takes = ", ".join(sorted(known)) or "none"
            raise UsageError(f"{text!r} has the parameter {key!r}", expected=f"one of those it takes: {takes}")
        result[key] = float(value) if known[key].dtype is float and type(value) is int else value
        if not known[key].validate(result[key]) or not _sensible(key, result[key]):
            raise UsageError(f"{text!r} has {key}={value!r}", expected=_EXPECTED.get(key, f"{known[key].dtype}"))
    for key, info in known.items():
        if info.required and key not in result:
            example = f"{text}@10" if key == template.AT_PARAM == "cutoff" else f"{text} with {key}"
            raise UsageError(f"{text!r} needs {key}", remedy=f"Write {example}")
    return result


_EXPECTED = {
    "cutoff": "a whole number from 1",
    "rel": "a grade of at least 1",
    "recall": "a number from 0 to 1 with at most two decimals",
    "gains": "whole numbers, none of the gains negative, as in {1:1, 2:3}",
}


def _sensible(key: str, value: Any) -> bool:
    """Whether a value of the right type makes sense; what computes the measures does not always look."""
    if key in ("cutoff", "rel"):
        return type(value) is int and 1 <= value < 2**31
    if key == "recall":  # trec_eval prints two decimals and mixes up values that print the same
        return bool(0 <= value <= 1 and round(value, 2) == value)
    if key == "gains":
        return all(type(grade) is int and type(gain) is int and 0 <= gain < 10**6 for grade, gain in value.items())
    return True
