"""The file: saved and loaded, checked, and applied to one list."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerank.calibration import Calibration, fit_calibration, identity_bound_to_calibration
from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.io.model_base import ModelBase
from tests.calibration.synthetic import make_collection
from tests.raising import raises

RANKER = {"model": "m", "weights": "abc", "strategy": "Full(top_k=None)", "judge": "score()", "prompt": "p1"}


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    collection = make_collection(queries=20)
    return fit_calibration([collection], ranker=RANKER, first_stage="bm25").calibration


@pytest.fixture
def path(calibration: Calibration, tmp_path: Path) -> Path:
    calibration.save(tmp_path / "calibration.json")
    return tmp_path / "calibration.json"


def test_a_saved_file_is_the_same(calibration: Calibration, path: Path) -> None:
    loaded = Calibration.load(path)
    judge, first = [2.0, 0.5, -1.0], [12.0, 9.0, 10.0]
    for name in ("bm25", None):
        again, before = (c.apply(judge, first, first_stage_name=name) for c in (loaded, calibration))
        assert again == before
    loaded.save(path.with_name("again.json"))
    assert path.with_name("again.json").read_bytes() == path.read_bytes()
    assert json.loads(path.read_text("utf-8"))["report"]["queries"] == 20


def test_loading_and_applying_need_neither_numpy_nor_scipy(path: Path) -> None:
    code = f"""
import sys
from rerank.calibration import Calibration
Calibration.load({str(path)!r}).apply([1.0, None], [9.0, 10.0], first_stage_name="bm25")
print([name for name in ("numpy", "scipy") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def regression(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["fits"]["judge"]["documents"]["regression"]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other"), "is not a calibration"),
        (lambda c: c.update(version=2), "has version 2 of the calibration format"),
        (lambda c: c.pop("ranker"), "ranker Field required"),
        (lambda c: c["fits"].pop("rank"), "expected judge, judge[+]first-stage, rank, rank[+]first-stage"),
        (lambda c: c["fits"].update(magic=c["fits"]["rank"]), "fits.magic"),
        (lambda c: regression(c).update(intercept="0"), "intercept should be a valid number"),
        (lambda c: regression(c).update(intercept=float("nan")), "not finite"),
        (lambda c: regression(c)["means"].append(1.0), "one of each per input"),
        (lambda c: c["fits"].update(rank=c["fits"]["judge"]), "'rank' has the inputs judge, log_rank, log_length"),
        (lambda c: c["fits"]["rank"]["documents"].update(calibrator={"method": "none"}), "calibrator"),
        (lambda c: c.update(hold_for={}), "hold_for is not a known key"),
        (lambda c: regression(c).update(intercepts=0), "intercepts is not a known key"),
        (lambda c: c["fits"]["rank"]["lists"].update(inputs=["x", "y"]), "model of lists"),
    ],
)
def test_invalid_files(path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(path, change)
    with pytest.raises(DataError, match=message) as caught:
        Calibration.load(path)
    assert str(path) in str(caught.value)


def test_older_files_whose_judges_have_no_ranks_are_applied_as_before(path: Path, calibration: Calibration) -> None:
    def without_ranks(content: dict[str, Any]) -> None:
        for name in ("judge", "judge+first-stage"):
            table = content["fits"][name]["documents"]["regression"]
            position = table["inputs"].index("log_rank")
            for key in ("inputs", "means", "sds", "coefficients"):
                table[key].pop(position)

    edit(path, without_ranks)
    older = Calibration.load(path).apply([1.0, 1.0], None, first_stage_name=None)
    assert older.relevance[0] == older.relevance[1]
    assert calibration.apply([1.0, 1.0], None, first_stage_name=None).fit == older.fit == "judge"


@pytest.mark.parametrize("text", ["", "{", "[]", "calibration", '{"format": 1}'])
def test_files_that_are_something_else(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match="calibration.json"):
        Calibration.load(path)
    with pytest.raises(MissingResourceError):
        Calibration.load(path.with_name("missing.json"))


def test_other_rankers_are_refused_with_what_differs(calibration: Calibration) -> None:
    calibration.check({**RANKER, "dtype": "float32", "seed": "3"})
    calibration.check({**RANKER, "model": "the same weights in another folder"})
    with pytest.raises(UsageError, match="prompt is 'p1' there and 'p2' here") as caught:
        calibration.check({**RANKER, "prompt": "p2", "adapter": "x"})
    assert "adapter is none there and 'x' here" in str(caught.value)
    with pytest.raises(UsageError, match="weights is 'abc' there and 'def' here"):
        calibration.check({**RANKER, "weights": "def"})


def test_what_a_calibration_is_bound_to() -> None:
    model = {"model": "m", "weights": "abc", "dtype": "bfloat16", "adapter": "hash"}
    identity = {"model": model, "strategy": "Full()", "judge": "attention()", "heads": "h", "prompt": "p", "seed": 3}
    expected = {"model": "m", "weights": "abc", "adapter": "hash", "strategy": "Full()", "judge": "attention()"}
    assert identity_bound_to_calibration(identity) == {**expected, "heads": "h", "prompt": "p"}
    assert identity_bound_to_calibration({"model": "m", "revision": ""}) == {"model": "m"}


@pytest.mark.parametrize(
    ("judge", "first", "name", "fit"),
    [
        ([1.0, 0.0], [9.0, 11.0], "bm25", "judge+first-stage"),
        ([1.0, 0.0], [9.0, 11.0], "dense", "judge"),
        ([1.0, 0.0], [9.0, 11.0], None, "judge+first-stage"),  # not stated: the range decides
        ([1.0, 0.0], [900.0, 1100.0], "bm25", "judge"),  # the name is the same, and the scores are not
        ([1.0, 0.0], None, "bm25", "judge"),
        (None, [9.0, 11.0], "bm25", "rank+first-stage"),
        ([None, None], None, None, "rank"),
        ([1.0, None], None, None, "judge, rank"),
        ([None, 1.0], [9.0, 11.0], "bm25", "judge+first-stage, rank+first-stage"),
    ],
)
def test_the_inputs_decide_the_fit(
    calibration: Calibration, judge: Any, first: list[float] | None, name: str | None, fit: str
) -> None:
    result = calibration.apply(judge, first, first_stage_name=name)
    assert result.fit == fit
    assert len(result.relevance) == 2
    assert 1 >= result.relevance[0] >= result.relevance[1] >= 0
    assert 0 <= result.answerable <= 1


def test_relevance_does_not_increase_even_if_the_scores_do(calibration: Calibration) -> None:
    result = calibration.apply([-2.0, 3.0, 0.0, -1.0], None, first_stage_name=None)
    model = calibration.fits["judge"].documents
    logits = model.regression.logits
    alone = [logits([[score], [math.log(rank)], [math.log(4)]])[0] for rank, score in ((1, -2.0), (2, 3.0))]
    assert result.relevance[0] == result.relevance[1] == pytest.approx(model.calibrator(sum(alone) / 2))
    assert list(result.relevance) == sorted(result.relevance, reverse=True)


def test_scores_are_not_normalised_within_a_list(calibration: Calibration) -> None:
    strong = calibration.apply([3.0, 2.9], None, first_stage_name=None)
    weak = calibration.apply([-3.0, -3.1], None, first_stage_name=None)
    assert min(strong.relevance) > max(weak.relevance) + 0.3
    assert strong.answerable > weak.answerable


def test_an_empty_list_has_no_answer(calibration: Calibration) -> None:
    for judge, first in (([], None), (None, []), ([], [])):
        result = calibration.apply(judge, first, first_stage_name="bm25")
        assert (result.relevance, result.answerable) == ((), 0.0)


@pytest.mark.parametrize(
    ("judge", "first", "error", "message"),
    [
        (None, None, UsageError, "length is unknown"),
        ([1.0], [1.0, 2.0], UsageError, "1 judge scores and 2 first-stage scores"),
        ([1.0, float("nan")], None, DataError, "judge score at rank 2 is nan"),
        ([1.0], [float("inf")], DataError, "first-stage score at rank 1 is inf"),
    ],
)
def test_scores_that_are_refused(
    calibration: Calibration, judge: Any, first: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        calibration.apply(judge, first, first_stage_name="bm25")


def test_it_gives_no_probabilities_for_other_weights_unless_it_was_shown_to_hold(calibration: Calibration) -> None:
    base = ModelBase(hub_id="owner/m", shapes={"hidden_size": 8})
    calibration = replace(calibration, base=base)
    for other in ({**RANKER, "weights": "other"}, {**RANKER, "model": "owner/m", "weights": "", "revision": "c0ffee"}):
        with raises(UsageError, "weights is 'abc' there"):
            calibration.check(other)
        assert calibration.differs_in_weights(other, base)
        assert not calibration.differs_in_weights(other, replace(base, hub_id="owner/another"))
        assert not calibration.differs_in_weights(other, None)
    assert not calibration.differs_in_weights({**RANKER, "weights": "other", "prompt": "p2"}, base)
    shown = replace(calibration, holds_for={"other": "ECE .02 on 100 queries", "c0ffee": "the same"})
    shown.check({**RANKER, "weights": "other"})
    shown.check({**RANKER, "model": "owner/m", "weights": "", "revision": "c0ffee"})
    with raises(UsageError, "weights is 'abc' there"):
        shown.check({**RANKER, "weights": "third"})
    with raises(UsageError, "prompt is"):
        shown.check({**RANKER, "weights": "other", "prompt": "p2"})


def test_one_without_a_commit_is_of_the_time_when_none_was_recorded(calibration: Calibration) -> None:
    unrecorded = {key: value for key, value in RANKER.items() if key != "weights"} | {"model": "owner/m"}
    older = replace(calibration, ranker=unrecorded)
    older.check(unrecorded | {"revision": "c0ffee"})
    with raises(UsageError, "model is"):
        older.check(unrecorded | {"model": "owner/another", "revision": "c0ffee"})


def test_base_and_evidence_are_saved_and_an_older_file_has_neither(calibration: Calibration, path: Path) -> None:
    assert not {"base", "holds_for"} & json.loads(path.read_text("utf-8")).keys()
    base = ModelBase(hub_id="acme/m", shapes={"hidden_size": 8}, tokenizer="t")
    known = replace(calibration, base=base, holds_for={"other": "ECE .02"})
    known.save(path)
    loaded = Calibration.load(path)
    assert (loaded.base, loaded.holds_for) == (base, {"other": "ECE .02"})
    edit(path, lambda content: content["base"].update(shapes=3))
    with raises(DataError, "base.shapes"):
        Calibration.load(path)
