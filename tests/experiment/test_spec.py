from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.experiment.spec import Execution, RunSpec, read_run_spec
from tests.raising import raises

text = st.text(min_size=1, max_size=20)
specs = st.builds(
    RunSpec,
    collection=text,
    depth=st.integers(1, 1000),
    queries=st.lists(text, max_size=3).map(tuple),
    shuffle=st.sampled_from(["none", "random", "inverse"]),
    window_size=st.none() | st.integers(2, 50),
    temperature=st.floats(0, 2),
    measures=st.lists(text, min_size=1, max_size=3).map(tuple),
    qrels=st.none() | text,
    trust_remote_code=st.just(False),
)


@given(specs)
def test_json_both_ways(spec: RunSpec) -> None:
    content = json.loads(json.dumps(spec.model_dump(mode="json")))
    again = RunSpec.make(content)
    assert again == spec
    assert hash(again) == hash(spec)


def test_toml_in(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text('collection = "pydoc"\nmax-queries = 3\nmeasures = ["AP"]\ntemperature = 1\n', encoding="utf-8")
    spec = RunSpec.make(read_run_spec(path))
    assert spec == RunSpec(collection="pydoc", max_queries=3, measures=("AP",), temperature=1.0)
    (tmp_path / "empty.toml").write_text("")
    assert read_run_spec(str(tmp_path / "empty.toml")) == {}


def test_toml_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    with raises(MissingResourceError, "TOML"):
        read_run_spec(path)
    with raises(MissingResourceError, "TOML"):
        read_run_spec(tmp_path)
    for content, message in ((b"a = ", "Invalid value"), (b"\xff", "UTF-8"), (b"a = 1\na = 2", "overwrite")):
        path.write_bytes(content)
        with raises(DataError, message):
            read_run_spec(path)


def test_the_spec_of_a_run_folder_in(tmp_path: Path) -> None:
    spec = RunSpec(collection="pydoc", measures=("AP",), seed=3)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"hash": "x", "spec": spec.model_dump(mode="json")}), encoding="utf-8")
    assert RunSpec.make(read_run_spec(path)) == spec
    for content in ("{}", "[]", "{", '{"spec": 3}'):
        path.write_text(content, encoding="utf-8")
        with raises(DataError, "spec.json"):
            read_run_spec(path)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"colection": "x"}, UnknownNameError, "Did you mean 'collection'"),
        ({}, UsageError, "Pass --collection"),
        ({"collection": "x", "depth": 0}, UsageError, "--depth is 0; expected at least 1"),
        ({"collection": "x", "depth": "deep"}, UsageError, "--depth is 'deep'"),
        ({"collection": "x", "measures": "AP"}, UsageError, "--measures is 'AP'"),
        ({"collection": "x", "measures": [1]}, UsageError, "--measures.0 is 1"),
        ({"collection": "x", "shuffle": "some"}, UsageError, "'none', 'random' or 'inverse'"),
        ({"collection": "x", "dtype": "int4"}, UsageError, "--dtype is 'int4'"),
        ({"collection": "x", "max_failure_rate": 1.5}, UsageError, "--max-failure-rate is 1.5"),
        ({"collection": "x", "temperature": float("nan")}, UsageError, "--temperature is nan"),
        ({"collection": "x", "temperature": float("inf")}, UsageError, "--temperature is inf"),
    ],
)
def test_values_that_do_not_fit(values: dict[str, object], error: type[Exception], message: str) -> None:
    with raises(error, message):
        RunSpec.make(values)


def test_execution() -> None:
    made = Execution.make({"out": "runs/x", "batch_size": 3})
    assert (made.out, made.batch_size, made.resume, made.call_cache) == (Path("runs/x"), 3, False, None)
    with raises(UsageError, "--batch-size is 0"):
        Execution.make({"batch_size": 0})
    with raises(UnknownNameError, "'resume'"):
        Execution.make({"resum": True})


def test_specs_stay_as_they_are() -> None:
    spec = RunSpec(collection="x")
    with pytest.raises(ValueError, match="frozen"):
        spec.depth = 3


def test_every_field_is_described() -> None:
    for model in (RunSpec, Execution):
        assert [name for name, field in model.model_fields.items() if not field.description] == []
