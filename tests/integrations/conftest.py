"""The frameworks load their own settings and make warnings, none of which concern us."""

from __future__ import annotations

import os

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # DSPy's client asks the network on import otherwise
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["PT_TEST_TRANSFORMER_REPORTS"] = "0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("integrations"):
            item.add_marker(pytest.mark.filterwarnings("ignore"))
