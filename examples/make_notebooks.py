"""Write the notebooks: a cell for every `# %%` of the scripts that have them.

python examples/make_notebooks.py
"""

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NOTEBOOKS = ("compare_two_systems", "rag_with_langchain")


def make_notebook(script: str) -> dict[str, Any]:
    """Return the notebook of a script in the percent format, without outputs (nbformat 4.5)."""
    cells = []
    for number, (kind, body) in enumerate(re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n)*)", script, re.M)):
        is_text = kind.strip() == "[markdown]"
        source = (re.sub(r"^# ?", "", body, flags=re.M) if is_text else body).strip()
        cell: dict[str, Any] = {"cell_type": "markdown" if is_text else "code", "id": f"cell-{number}", "metadata": {}}
        cell |= {} if is_text else {"execution_count": None, "outputs": []}
        cells.append({**cell, "source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def notebook_text(name: str) -> str:
    """Return the content of the file ``NAME.ipynb``."""
    script = (FOLDER / f"{name}.py").read_text("utf-8")
    return json.dumps(make_notebook(script), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in NOTEBOOKS:
        (FOLDER / f"{name}.ipynb").write_text(notebook_text(name), "utf-8")
