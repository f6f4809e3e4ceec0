"""HTML report of a study as one self-contained page."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from rerank.adjudication.judging_sequence import open_judging_order
from rerank.adjudication.pair_categories import NAMES
from rerank.adjudication.study_results import AdjudicationStudy, StudyCell, printable_study_name
from rerank.evaluation.significance import TITLES, open_significance_test
from rerank.io.text_files import replace_text_file

#: Largest number of pair codes in the page, one character each. If there are more, only the codes of the first measure
#: and test are included.
_DRAWN = 4_000_000
_CURVES = ("recall", "precision", "f1", "balanced_accuracy", "tau", "tau_ap")


def write_study_report(study: AdjudicationStudy, path: Path) -> Path:
    """Write the HTML report of a study to a file.

    Raises:
        StorageError: The file cannot be written.
    """
    with replace_text_file(path) as stream:
        stream.write(printable_study_name(render_study_report(study)))
    return path


def render_study_report(study: AdjudicationStudy) -> str:
    """Return the report of a study as an HTML page."""
    from jinja2 import Environment

    package = files("rerank.adjudication")
    texts = {name: (package / f"report.{name}").read_text(encoding="utf-8") for name in ("html.j2", "css", "js")}
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(texts["html.j2"])
    content = study.to_dict()
    return template.render(
        css=texts["css"],
        js=texts["js"],
        script_hash=b64encode(sha256(texts["js"].encode("utf-8")).digest()).decode("ascii"),
        version=version("listrank"),
        data=_embed_judging_study_json(_judging_study_script_data(study, content)),
        study=content,
        golds=[{**row, "title": _study_test_title(row)} for row in content["gold"]["all"]],
        methods=[
            {"name": name, "title": open_judging_order(name).title} for name in dict.fromkeys(study.design.methods)
        ],
        message=find_study_disagreements(content["results"]),
    )


def find_study_disagreements(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Find settings in which the best method by tau is not the best by recall of significant differences.

    Returns:
        One entry per measure, test and budget with such a disagreement: the rows of the best method by tau (``ranks``)
        and of the best method by recall (``keeps``). A setting is omitted if the two methods' tau or recall differ by
        no more than the sum of their standard deviations over seeds.
    """
    messages = []
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["tau"] is not None and row["recall"] is not None:
            groups.setdefault((row["measure"], row["test"], row["correction"], row["budget"]), []).append(row)
    for (measure, test, correction, budget), group in groups.items():
        ranks, keeps = (max(group, key=lambda row, by=by: row[by]) for by in ("tau", "recall"))  # type: ignore[misc]
        if all(
            abs(ranks[by] - keeps[by]) > _study_spread(ranks, by) + _study_spread(keeps, by) for by in ("tau", "recall")
        ):
            setting = {"measure": measure, "test": test, "correction": correction, "budget": budget}
            messages.append({**setting, "ranks": ranks, "keeps": keeps})
    return messages


def _study_spread(row: Mapping[str, Any], name: str) -> float:
    return float(row.get("spread", {}).get(name, 0.0))


def _study_test_title(row: Mapping[str, Any]) -> str:
    test = str(open_significance_test(row["test"]).title)
    return test if row["correction"] == "none" else f"{test}, {TITLES[row['correction']]}"


def _judging_study_script_data(study: AdjudicationStudy, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data used by the script in the page."""
    first = study.cells[0]
    codes = sum(len(cells[0].codes) for cells in study.groups().values())
    pair_codes = {
        "|".join(key): _study_category_digits(cells[0])
        for key, cells in study.groups().items()
        if codes <= _DRAWN or key[2:] == first.key[2:]
    }
    order = study.gold[first.measure].ranking
    return {
        "rows": content["results"],
        "systems": list(study.pool.systems),
        "orders": {name: verdicts.ranking.tolist() for name, verdicts in study.gold.items()},
        "order": order.tolist(),
        "codes": pair_codes,
        "names": list(NAMES),
        "documents": len(study.pool),
        "curves": list(_CURVES),
    }


def _study_category_digits(cell: StudyCell) -> str:
    """Return the category codes of all pairs as a string with one digit per pair."""
    return (cell.codes + ord("0")).astype(np.uint8).tobytes().decode("ascii")


def _embed_judging_study_json(data: Mapping[str, Any]) -> str:
    """Return JSON that is safe inside a script element: no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
