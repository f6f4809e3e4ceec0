"""Specifications of runs, as values and in files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.experiment.spec import Execution, RunSpec, read_run_spec
from rerank.settings import RankerSettings, settings_from_file
from rerank.tasks import FileAddress
from tests.raising import raises

text = st.text(min_size=1, max_size=20)
specs = st.builds(
    RunSpec,
    collection=text,
    depth=st.integers(1, 1000),
    queries=st.lists(text, max_size=3).map(tuple),
    shuffle=st.sampled_from(["none", "random", "inverse"]),
    window_size=st.none() | st.integers(2, 50),
    temperature=st.just(0.0) | st.floats(1e-4, 2),
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


def test_addresses_remember_their_file() -> None:
    values = {"base-url": "http://a", "options": {"base_url": "http://b"}, "rerankers": [{"base_url": "http://c"}]}
    marked = settings_from_file(values, Path("s.toml"))
    assert marked == values
    for address in (marked["base-url"], marked["options"]["base_url"], marked["rerankers"][0]["base_url"]):
        assert isinstance(address, FileAddress)
        assert address.file == "s.toml"


def test_a_mark_survives_all_that_happens_to_settings() -> None:
    spec = RunSpec.make({"collection": "pydoc", "base_url": FileAddress("http://a", "s.toml")})
    copies = [
        spec,
        spec.model_copy(update={"seed": 1}),
        RunSpec.make(spec.model_dump()),
        pickle.loads(pickle.dumps(spec)),
        RunSpec.from_record(spec.recorded()),
    ]
    assert all(isinstance(copy.base_url, FileAddress) and copy.base_url.file for copy in copies)
    assert hash(spec) == hash(RunSpec(collection="pydoc", base_url="http://a"))
    config = RankerSettings(base_url=spec.base_url).model_copy(update={"seed": 1})
    assert isinstance(config.base_url, FileAddress)
    assert not isinstance(RankerSettings(base_url="http://a").base_url, FileAddress)


def test_only_the_user_permits_remote_code() -> None:
    values = {"first_stage": "dense:m,trust_remote_code=no", "trust_remote_code": False}
    assert settings_from_file(values, "s.toml") == values
    for value in (True, "yes", "false", 1):
        with raises(UsageError, "s.toml", "trust_remote_code"):
            settings_from_file([{"x": {"trust_remote_code": value}}], "s.toml")
    with raises(UsageError, "s.toml", "trust-remote-code=1"):
        settings_from_file({"first_stages": ["hybrid:(dense:m,trust-remote-code=1)+bm25"]}, "s.toml")
    assert settings_from_file({"trust_remote_code": True}, "s.toml", trust_remote_code=True)
    assert RunSpec.from_record({"collection": "pydoc", "trust_remote_code": True}).trust_remote_code is False
    with pytest.raises(UsageError):
        RunSpec.make({"collection": "pydoc", "trust_remote_code": "yes"})


def test_a_number_of_queries_that_no_list_has_is_refused() -> None:
    with raises(UsageError, "max-queries", "at most"):
        RunSpec.make({"collection": "pydoc", "max_queries": int("9" * 24)})
