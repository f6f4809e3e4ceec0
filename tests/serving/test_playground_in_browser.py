"""The playground as a person uses it: with mouse and keyboard, in Chromium, on a desktop and on a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker
from rerank.collections import open_collection

pytest.importorskip("fastapi")

from rerank.serving.app import create_server_app
from rerank.serving.ranking_service import create_ranking_service
from rerank.serving.search_routes import CollectionSearch
from rerank.serving.settings import ServerKeys

pytestmark = [pytest.mark.browser, pytest.mark.enable_socket]

#: A passage that would run a script if the page interpreted it.
HOSTILE = '<img src=x onerror="window.pwned = 1"><script>window.pwned = 1</script>&lt;b&gt; \u202e'


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "Chromium is not installed: apt-get install chromium"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def serve(address: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts = ["snow falls", "rain falls", "the sun shines"]
    rows = [json.dumps({"_id": f"d{n}", "text": text}) for n, text in enumerate(texts)]
    (tmp_path / "docs.jsonl").write_text("\n".join(rows), encoding="utf-8")

    def open_server(*keys: str, model: str = "fake:reversed") -> str:
        search = CollectionSearch.open(open_collection(f"jsonl:{tmp_path}/docs.jsonl"), "bm25")
        service = create_ranking_service(Reranker.from_pretrained(model), ranker={"model": model})
        return address(create_server_app(service, ServerKeys.from_keys(keys), search=search))

    return open_server


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a page. Errors of its script and requests to other servers fail the test."""
    wrong: list[str] = []
    contexts = []

    def refuse(dialog: Any) -> None:
        wrong.append(dialog.message)
        dialog.dismiss()

    def open_at(url: str, expected: str = "nothing", **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda message: (
                wrong.append(message.text)
                if message.type in ("error", "warning") and expected not in message.text
                else None
            ),
        )
        page.on("dialog", refuse)
        page.on("request", lambda asked: None if asked.url.startswith((url, "data:")) else wrong.append(asked.url))
        page.goto(url)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert wrong == []


def texts(page: Any, panel: int = 0) -> list[str]:
    return list(page.locator(".panel").nth(panel).locator(".list .text").all_inner_texts())


def wait_for_ranking(page: Any) -> None:
    """Wait for the answer, then for the lists to move."""
    page.locator("#status", has_text="passages in").wait_for()
    page.locator('#after[aria-pressed="true"]').wait_for()
    page.evaluate("Promise.all(document.getAnimations().map((animation) => animation.finished)).then(() => 0)")


def test_passages_are_ranked_with_the_keyboard_alone(serve: Callable[..., str], open_page: Callable[..., Any]) -> None:
    page = open_page(serve())
    page.locator("#query:focus").wait_for()
    page.keyboard.type("a query")
    while page.evaluate("document.activeElement.id") != "passages":
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.type("one\ntwo\nthree")
    assert page.locator("#passages-hint").inner_text().startswith("3 passages.")
    while page.evaluate("document.activeElement.id") != "submit":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for_ranking(page)
    assert texts(page) == ["three", "two", "one"]
    assert page.locator(".list .move .hidden").all_inner_texts() == ["up 2", "same rank", "down 2"]
    assert "3 passages" in page.get_by_role("status").inner_text()
    page.get_by_role("button", name="Before").press("Enter")
    assert texts(page) == ["one", "two", "three"]


def test_texts_are_shown_as_texts(serve: Callable[..., str], open_page: Callable[..., Any]) -> None:
    page = open_page(serve())
    page.get_by_label("Query", exact=True).fill(HOSTILE)
    page.get_by_label("Passages", exact=True).fill(f"{HOSTILE}\nplain")
    page.get_by_label("Method", exact=True).select_option("icr")
    page.get_by_label("Show which words").check()
    page.get_by_role("button", name="Rerank").click()
    wait_for_ranking(page)
    assert HOSTILE in texts(page)
    page.get_by_text("Prompts and completions").click()
    page.get_by_text("The same call elsewhere").click()
    assert page.locator(".panel script, .panel img, .panel b").count() == 0
    assert page.evaluate("window.pwned") is None


def test_heat_and_two_methods_side_by_side(serve: Callable[..., str], open_page: Callable[..., Any]) -> None:
    page = open_page(serve())
    page.get_by_role("button", name="Fill in an example").click()
    page.get_by_label("Compare with").select_option("icr")
    page.get_by_label("Show which words").check()
    page.get_by_role("button", name="Rerank").click()
    wait_for_ranking(page)
    assert page.locator(".panel").count() == 2
    assert page.locator(".panel").nth(0).locator("mark").count() == 0
    marks = page.locator(".panel").nth(1).locator("mark")
    assert "Fleas" in marks.all_inner_texts()
    assert "Most attention: Fleas 50 %, live 50 %" in page.locator(".panel").nth(1).locator(".words").all_inner_texts()
    page.locator(".panel").nth(0).get_by_text("Prompts and completions").click()
    assert "[5] > [4] > [3] > [2] > [1]" in page.locator(".panel").nth(0).locator(".calls").inner_text()
    left, right = (page.locator(".panel").nth(n).bounding_box() for n in (0, 1))
    assert left["y"] == right["y"]


def test_other_sources(serve: Callable[..., str], open_page: Callable[..., Any], tmp_path: Path) -> None:
    page = open_page(serve())
    (tmp_path / "mine.jsonl").write_text('{"id": "a", "text": "one"}\n"two"\n', encoding="utf-8")
    page.get_by_label("Query", exact=True).fill("falls snow")
    page.get_by_label("Load a file").set_input_files(tmp_path / "mine.jsonl")
    page.locator('input[value="jsonl"]:checked').wait_for()
    page.get_by_role("button", name="Rerank").click()
    wait_for_ranking(page)
    assert texts(page) == ["two", "one"]
    assert "id a" in page.locator(".list .meta").last.inner_text()
    (tmp_path / "mine.trec").write_text("7 Q0 d0 1 2.5 x\n7 Q0 d2 2 1.5 x\n8 Q0 d1 1 1 x\n", encoding="utf-8")
    page.get_by_label("Load a file").set_input_files(tmp_path / "mine.trec")
    page.locator('input[value="run"]:checked').wait_for()
    assert page.get_by_label("Query of the run").locator("option").all_inner_texts() == ["7", "8"]
    page.get_by_role("button", name="Rerank").click()
    wait_for_ranking(page)
    assert texts(page) == ["the sun shines", "snow falls"]
    page.get_by_label("a search of").check()
    assert not page.get_by_label("Passages", exact=True).is_visible()
    page.get_by_role("button", name="Rerank").click()
    wait_for_ranking(page)
    assert "first stage" in page.locator(".list .meta").first.inner_text()


def test_errors_are_told(serve: Callable[..., str], open_page: Callable[..., Any]) -> None:
    page = open_page(serve(model="fake:fail"), expected="503")
    alert = page.locator("#error")
    page.get_by_role("button", name="Rerank").click()
    assert alert.inner_text() == "There are no passages."
    page.get_by_label("Passages", exact=True).fill("one\ntwo")
    page.get_by_role("button", name="Rerank").click()
    assert alert.inner_text() == "The query is empty."
    page.get_by_label("Query", exact=True).fill("q")
    page.get_by_role("button", name="Rerank").click()
    page.get_by_text("The model answered no request").wait_for()
    page.get_by_label("JSON lines").check()
    page.get_by_role("button", name="Rerank").click()
    assert alert.inner_text() == "Line 1 is not JSON."


def test_a_key_is_asked_for_and_not_stored(serve: Callable[..., str], open_page: Callable[..., Any]) -> None:
    page = open_page(serve("secret"), expected="401")
    page.get_by_label("Key of this server").wait_for()
    assert not page.get_by_label("Query", exact=True).is_visible()
    page.get_by_label("Key of this server").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("The key is missing or wrong").wait_for()
    page.get_by_label("Key of this server").fill("secret")
    page.keyboard.press("Enter")
    page.get_by_label("Query", exact=True).wait_for()
    page.get_by_role("button", name="Fill in an example").click()
    page.get_by_role("button", name="Rerank").click()
    wait_for_ranking(page)
    assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert "secret" not in page.content()
    assert "$RERANK_KEY" in page.locator(".examples pre").first.text_content()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(
    serve: Callable[..., str], open_page: Callable[..., Any], width: int, scheme: str
) -> None:
    page = open_page(serve(), viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce")
    page.get_by_role("button", name="Fill in an example").click()
    page.get_by_label("Compare with").select_option("icr")
    page.get_by_label("Show which words").check()
    page.get_by_role("button", name="Rerank").click()
    wait_for_ranking(page)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    unnamed = page.locator("input, select, textarea, button").evaluate_all(
        "found => found.filter(e => e.checkVisibility() && !e.labels?.length && !e.textContent.trim()).length"
    )
    assert unnamed == 0
    assert page.evaluate(_CONTRAST) >= 4.5


#: The lowest contrast of visible texts with the colour behind them (WCAG 2: at least 4.5).
_CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let lowest = 21;
  for (const element of document.querySelectorAll("body *")) {
    const texts = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!texts || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    lowest = Math.min(lowest, (a + 0.05) / (b + 0.05));
  }
  return lowest;
}"""
