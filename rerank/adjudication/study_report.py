"""HTML report of a study as one self-contained page."""

import functools
import json
import math
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from rerank.adjudication.conclusions import NAMES
from rerank.adjudication.studies import AdjudicationStudy, escape_unencodable
from rerank.evaluation.significance import TITLES, open_significance_test
from rerank.io.reports import read_page_style
from rerank.io.text_files import replace_text_file

#: Largest number of pair codes in the page; if there are more, it has only those of the first measure and test.
_DRAWN = 4_000_000
_SETTING = ("measure", "test", "correction", "budget")
_CURVES = ("recall", "precision", "f1", "balanced_accuracy", "tau", "tau_ap")


def write_study_report(study: AdjudicationStudy, path: Path) -> Path:
    """Write the HTML report of a study to a file."""
    with replace_text_file(path) as stream:
        stream.write(escape_unencodable(render_study_report(study)))
    return path


def render_study_report(study: AdjudicationStudy) -> str:
    """Return the report of a study as an HTML page."""
    from jinja2 import Environment

    package = files("rerank.adjudication")
    texts = {name: (package / f"report.{name}").read_text(encoding="utf-8") for name in ("html.j2", "js")}
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(texts["html.j2"])
    content = _strip_folders(study.to_dict(), study)
    rows, contrasts, alpha = content["results"], content.get("contrasts", []), study.design.alpha
    stripped = _strip_folders(_script_data(study, rows), study)
    data = json.dumps(stripped, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return template.render(
        css=read_page_style("rerank.adjudication", "report.css"),
        js=texts["js"],
        script_hash=b64encode(sha256(texts["js"].encode("utf-8")).digest()).decode("ascii"),
        version=version("listrank"),
        # no text in the data can end the script element
        data=data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"),
        study=content,
        golds=[{**row, "title": _test_title(row)} for row in content["gold"]["all"]],
        methods=_strip_folders([{"name": name, "title": o.title} for name, o in study.design.orders.items()], study),
        message=find_disagreements(rows, contrasts, alpha),
        best=group_best_methods(rows, contrasts, alpha) if contrasts else [],
    )


def find_disagreements(
    rows: Sequence[Mapping[str, Any]], contrasts: Sequence[Mapping[str, Any]] = (), alpha: float = 0.05
) -> list[dict[str, Any]]:
    """Find settings in which the best method by tau is not the best by recall of significant differences.

    Each has the rows of the best method by tau (``ranks``) and by recall (``keeps``). A setting is omitted unless the
    two methods differ in both tau and recall by more than the samples explain (``contrasts``) or, without samples, by
    more than the seeds explain.
    """
    p_values = {
        (*(row[k] for k in (*_SETTING, "figure")), frozenset((row["method_a"], row["method_b"]))): row["adjusted_p"]
        for row in contrasts
    }
    messages = []
    for setting, group in _rows_by_setting(rows).items():
        ranks, keeps = (max(group, key=lambda row, by=by: row[by]) for by in ("tau", "recall"))  # type: ignore[misc]
        pair = frozenset((ranks["method"], keeps["method"]))
        if len(pair) == 2 and all(
            p_values.get((*setting, by, pair), 1.0) <= alpha if contrasts else _differ_beyond_seeds(ranks, keeps, by)
            for by in ("tau", "recall")
        ):
            messages.append({**dict(zip(_SETTING, setting, strict=True)), "ranks": ranks, "keeps": keeps})
    return messages


def group_best_methods(
    rows: Sequence[Mapping[str, Any]], contrasts: Sequence[Mapping[str, Any]], alpha: float
) -> list[dict[str, Any]]:
    """Return, for every setting and figure, the best row and the methods that do not differ significantly from it."""
    groups = []
    for setting, group in _rows_by_setting(rows).items():
        for figure in ("recall", "tau"):
            best = max(group, key=lambda row: row[figure])
            mine = [row for row in contrasts if row["figure"] == figure and all(row[k] == best[k] for k in _SETTING)]
            equal = [
                row["method_b"] if row["method_a"] == best["method"] else row["method_a"]
                for row in mine
                if best["method"] in (row["method_a"], row["method_b"]) and row["adjusted_p"] > alpha
            ]
            groups.append({**dict(zip(_SETTING, setting, strict=True)), "figure": figure, "best": best, "equal": equal})
    return groups


def _rows_by_setting(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Group rows by measure, test, correction and budget. Rows with an undefined tau or recall are omitted."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["tau"] is not None and row["recall"] is not None:
            groups.setdefault(tuple(row[name] for name in _SETTING), []).append(row)
    return groups


def _differ_beyond_seeds(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> bool:
    """Return whether two rows differ in a value by more than different seeds explain (95 % of such differences)."""
    spreads = [float(row.get("spread", {}).get(name, 0.0)) for row in (a, b)]
    return bool(abs(a[name] - b[name]) > 1.96 * math.hypot(*spreads))


def _strip_folders(content: Any, study: AdjudicationStudy) -> Any:
    """Return the content without the common folders of runs, judgments and methods that are named after paths."""
    kinds = ([study.qrels], study.systems, [name.partition(":")[2] for name in study.design.methods])
    paths = [[Path(name) for name in names if Path(name).is_absolute()] for names in kinds]
    folders = [os.path.commonpath([path.parent for path in group]).rstrip("/") + "/" for group in paths if group]
    removed = sorted(folders, key=len, reverse=True)

    def strip(item: Any) -> Any:
        if isinstance(item, str):
            return functools.reduce(lambda text, folder: text.replace(folder, ""), removed, item)
        if isinstance(item, Mapping):
            return {strip(key): strip(value) for key, value in item.items()}
        return [strip(part) for part in item] if isinstance(item, list | tuple) else item

    return strip(content)


def _test_title(row: Mapping[str, Any]) -> str:
    test = str(open_significance_test(row["test"]).title)
    return test if row["correction"] == "none" else f"{test}, {TITLES[row['correction']]}"


def _script_data(study: AdjudicationStudy, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, groups = study.cells[0], study.groups()
    drawn = sum(len(cells[0].codes) for cells in groups.values()) <= _DRAWN
    return {
        "rows": rows,
        "systems": list(study.systems),
        "orders": {name: verdicts.ranking.tolist() for name, verdicts in study.gold.items()},
        "order": study.gold[first.measure].ranking.tolist(),
        # the category codes of all pairs as a string with one digit per pair
        "codes": {
            "|".join(key): (cells[0].codes + ord("0")).astype(np.uint8).tobytes().decode("ascii")
            for key, cells in groups.items()
            if drawn or key[2:] == first.key[2:]
        },
        "names": list(NAMES),
        "documents": len(study.pool),
        "curves": list(_CURVES),
    }
