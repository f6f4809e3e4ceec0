"""Reports what the code consists of; nothing fails. `make check` prints the longest files and functions.

    python benchmarks/sizes.py [--root rerank] [--most 10] [--packages]

``--packages`` prints a table by package: files, all lines, the share of lines in function bodies without docstrings,
module functions, and those whose name repeats a word of their path, private and public. A word has at least three
letters, a plural s is ignored, and the path begins below the root and includes the file's name. The last line is JSON
with the totals.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def words(name: str) -> set[str]:
    """Return the words of a name or path."""
    return {word.removesuffix("s") for word in re.split(r"[_/.]+", name.lower()) if len(word) >= 3}


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield all functions and methods."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def body_lines(tree: ast.Module, lines: list[str]) -> int:
    """Return the number of lines in function bodies, without docstrings, blank lines and whole-line comments."""
    inside: set[int] = set()
    for node in functions(tree):
        skip = 1 if ast.get_docstring(node, clean=False) is not None else 0
        if len(node.body) > skip:
            inside.update(range(node.body[skip].lineno, (node.end_lineno or 0) + 1))
    for node in functions(tree):
        if ast.get_docstring(node, clean=False) is not None:
            inside.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return sum(bool(text := lines[number - 1].strip()) and not text.startswith("#") for number in inside)


def count_file(path: Path, root: Path) -> Counter[str]:
    """Count the lines and the module functions of a file."""
    text = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    place = words(str(path.relative_to(root).with_suffix("")))
    counts = Counter(files=1, lines=len(lines), body=body_lines(tree, lines))
    for node in tree.body:
        if isinstance(node, Function):
            counts["functions"] += 1
            if words(node.name) & place:
                counts["private" if node.name.startswith("_") else "public"] += 1
    return counts


def longest_functions(root: Path) -> list[tuple[int, str]]:
    """Return the lengths and the places of all functions, longest first."""
    found = []
    for path in root.rglob("*.py"):
        for node in functions(ast.parse(path.read_text(encoding="utf-8"))):
            found.append(((node.end_lineno or 0) - node.lineno + 1, f"{path}:{node.lineno} {node.name}"))
    return sorted(found, reverse=True)


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("rerank"))
    parser.add_argument("--most", type=int, default=10)
    parser.add_argument("--packages", action="store_true")
    arguments = parser.parse_args()
    root = arguments.root
    packages: defaultdict[str, Counter[str]] = defaultdict(Counter)
    sizes = []
    for path in root.rglob("*.py"):
        counts = count_file(path, root)
        parts = path.relative_to(root).parts
        for name in (parts[0] if len(parts) > 1 else "(root)", "all"):
            packages[name].update(counts)
        sizes.append((counts["lines"], str(path)))
    if arguments.packages:
        print("| package | files | lines | in bodies | functions | private that repeat | public that repeat |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for name, counts in sorted(packages.items(), key=lambda item: item[1]["lines"]):
            share = f"{100 * counts['body'] / max(1, counts['lines']):.0f} %"
            row = [
                counts["files"],
                counts["lines"],
                share,
                *(counts[key] for key in ("functions", "private", "public")),
            ]
            print(f"| {name} | " + " | ".join(map(str, row)) + " |")
    else:
        for title, rows in (("files", sorted(sizes, reverse=True)), ("functions", longest_functions(root))):
            print(f"The longest {title}, in lines:")
            for length, place in rows[: arguments.most]:
                print(f"{length:6d}  {place}")
    print(json.dumps(dict(packages["all"])))


if __name__ == "__main__":
    main()
