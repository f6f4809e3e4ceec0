"""What files cannot permit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from rerank.errors import UsageError
from rerank.experiment.spec import RunSpec
from rerank.settings import RankerSettings, settings_from_file
from rerank.tasks import FileAddress
from tests.raising import raises


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
