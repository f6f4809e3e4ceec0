"""How much of an attack is tried: the environment variable ATTACKS, a share of the whole counts."""

from __future__ import annotations

import os


def scaled_count(whole: int) -> int:
    """Return the number of tries for a whole count, at least one."""
    return max(1, round(whole * float(os.environ.get("ATTACKS", "0.1"))))
