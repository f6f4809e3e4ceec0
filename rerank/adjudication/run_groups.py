"""Groups of runs that belong together, such as the runs of one research group or the repeats of one system."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from rerank.errors import UsageError


def group_runs_by_name(
    names: Sequence[str], patterns: Sequence[tuple[str, str]], *, fewest: int = 1
) -> dict[str, list[int]]:
    """Assign runs to groups by their names. A run that no pattern matches is a group of its own.

    Args:
        names: Names of the runs.
        patterns: Pairs of the name of a group and a shell pattern, such as ``("gpt", "gpt-3.5*")``.
        fewest: Smallest number of runs that a group with a pattern must have.

    Returns:
        The indices of the runs of each group, by the name of the group, in the order of the runs.
    """
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        found = list(dict.fromkeys(group for group, pattern in patterns if fnmatchcase(name, pattern)))
        if len(found) > 1:
            raise UsageError(f"Run {name!r} belongs to the groups {' and '.join(found)}", expected="one group per run")
        if not found and any(name == group for group, _ in patterns):
            raise UsageError(f"Run {name!r} has the name of a group of other runs", expected="a unique name")
        members.setdefault(found[0] if found else name, []).append(index)
    for group, pattern in patterns:
        matched = sum(fnmatchcase(name, pattern) for name in names)
        if not matched or len(members[group]) < fewest:
            raise UsageError(f"Pattern {pattern!r} of {group} matches {matched} runs", expected=f"at least {fewest}")
    return members
