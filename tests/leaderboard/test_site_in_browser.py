"""The site as a reader sees it: sorted, filtered, looked into, with mouse and keyboard, in Chromium."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from rerank.leaderboard.board import make_board
from rerank.leaderboard.exports import board_as_recorded_scores
from rerank.leaderboard.site import write_site
from rerank.leaderboard.standings import rank_runs
from tests.leaderboard.made import HOSTILE, board, files, plan

pytestmark = pytest.mark.browser
CHOSEN = "#made-up .measure.chosen"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = files(tmp_path_factory.mktemp("board"))
    first = board(folder, measures=("nDCG@10", "P(rel=2)@5"))
    second = board(folder, title="Another", category="other", language="zh")
    return write_site([first, second], folder / "site", title="Mine")


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
def page(chromium: Any, site: Path) -> Iterator[Any]:
    """The page, opened; what its script complains about fails the test, and so does any request to elsewhere."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)

    def refuse(dialog: Any) -> None:
        wrong.append(dialog.message)
        dialog.dismiss()

    opened.on("dialog", refuse)
    local = ("file:", "data:")
    opened.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(local) else None)
    opened.goto(site.as_uri())
    yield opened
    context.close()
    assert wrong == []


def names(page: Any) -> list[str]:
    return [text for text in page.locator(f"{CHOSEN} .runs .run:visible").all_inner_texts() if text]


def test_columns_are_sorted_by_mouse(page: Any) -> None:
    best_first = names(page)
    assert len(best_first) == 6
    head = page.locator(f'{CHOSEN} th[data-key="mean"]')
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names(page) == best_first
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(page)[0] == best_first[-1]
    assert page.locator(f"{CHOSEN} th[aria-sort]").count() == 1


def test_unknown_values_come_last_both_ways(page: Any) -> None:
    button = page.locator(f'{CHOSEN} th[data-key="tokens"] button')
    for direction in (1, -1):
        button.click()
        cells = page.locator(f"{CHOSEN} .runs tbody tr").evaluate_all(
            """rows => rows.map(row => row.children[[...row.closest("table").querySelectorAll("thead th")]
              .findIndex(head => head.dataset.key === "tokens")].dataset.value)"""
        )
        known = [float(value) for value in cells[:3]]
        assert known == sorted(known, reverse=direction < 0)
        assert cells[3:] == ["", "", ""]


def test_columns_are_sorted_by_keyboard(page: Any) -> None:
    page.locator(f'{CHOSEN} th[data-key="name"] button').focus()
    style = "getComputedStyle(document.activeElement).outlineStyle"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert page.evaluate(style) != "none"
    page.keyboard.press("Enter")
    shown = names(page)
    assert shown == sorted(shown, key=str.casefold)
    page.keyboard.press("Space")
    assert names(page) == shown[::-1]


def test_filters(page: Any) -> None:
    form = page.locator("#made-up form")
    form.get_by_label("Group", exact=True).select_option("official")
    assert names(page) == [f"<b>{HOSTILE}</b>"]
    assert form.locator(".count").inner_text() == "1 of 6 runs"
    assert "1 runs that fit" in page.locator(f"{CHOSEN} .retested").inner_text()
    form.get_by_label("Group", exact=True).select_option("")
    form.get_by_label("First stage", exact=True).select_option("bm25")
    assert sorted(names(page)) == ["better", "bm25, first 25", "good"]
    assert page.locator(f"{CHOSEN} [data-cost=tokens] .point:visible").count() == 2
    form.get_by_label("First stage", exact=True).select_option("?")
    assert sorted(names(page)) == ["plain", "short"]
    form.get_by_label("First stage", exact=True).select_option("")
    form.get_by_label("Find").fill("FULLRANK some")
    assert names(page) == ["better"]
    form.get_by_label("Find").fill("")
    form.get_by_label("only ties with the best").check()
    assert names(page) == ["better", "short"]


def test_collections_by_language_and_category(page: Any) -> None:
    page.get_by_label("Language").select_option("zh")
    assert page.locator(".board:visible").get_attribute("id") == "another"
    assert page.locator("#shown").inner_text() == "1 of 2 collections"
    page.get_by_label("Category").select_option("tests")
    assert page.locator(".board:visible").count() == 0
    page.get_by_label("Language").select_option("")
    page.get_by_label("Collection").select_option("made-up")
    assert page.locator(".board:visible").get_attribute("id") == "made-up"


def test_another_measure(page: Any) -> None:
    page.locator("#made-up").get_by_label("Measure").select_option("P(rel=2)@5")
    assert page.locator(f"{CHOSEN} h3").first.inner_text().startswith("P(rel=2)@5")
    assert page.locator("#made-up .measure:visible").count() == 1
    page.get_by_role("button", name="good", exact=True).locator("visible=true").first.click()
    assert page.locator("#made-up .queries th[data-key=mean]").inner_text() == "P(rel=2)@5"


def test_a_query_before_and_after(page: Any) -> None:
    page.locator(f"{CHOSEN} .run", has_text="good").click()
    detail = page.locator("#made-up .detail")
    assert "It reranked bm25, first 25." in detail.inner_text()
    detail.locator("th[data-key=change] button").click()
    detail.get_by_role("button", name="q3", exact=True).click()
    detail.locator(".lists").wait_for()
    assert detail.locator("h4").first.inner_text() == f"q3: {HOSTILE}"
    before, after = (detail.locator(".lists > div").nth(at) for at in (0, 1))
    assert before.locator("h4").inner_text() == "bm25, first 25"
    shown = after.locator("li:visible")
    assert shown.count() == 20
    after.get_by_role("button", name="Show all 25").click()
    assert shown.count() == 25
    ids = after.locator("li > span:last-child").all_inner_texts()
    was = before.locator("li > span:last-child").evaluate_all("spans => spans.map(span => span.textContent)")
    moves = after.locator(".move").all_inner_texts()
    for rank, (doc, move) in enumerate(zip(ids, moves, strict=True)):
        moved = was.index(doc) - rank
        assert move == ("=" if moved == 0 else f"▲ {moved}" if moved > 0 else f"▼ {-moved}")
    assert "→" in detail.locator(".answer > p").inner_text()
    detail.get_by_label("Compare with").select_option("plain")
    before.locator("h4", has_text="plain").wait_for()


def test_a_run_without_lists_before(page: Any) -> None:
    page.locator(f"{CHOSEN} .run", has_text="short").click()
    detail = page.locator("#made-up .detail")
    assert "not on this leaderboard" in detail.inner_text()
    detail.get_by_role("button", name="q0", exact=True).click()
    detail.locator(".lists").wait_for()
    assert detail.locator(".lists > div").count() == 1
    assert detail.locator("li").count() == 10


def test_looked_into_by_keyboard_and_closed(page: Any) -> None:
    run = page.locator(f"{CHOSEN} .run", has_text="good")
    run.focus()
    page.keyboard.press("Enter")
    detail = page.locator("#made-up .detail")
    assert detail.evaluate("node => node === document.activeElement")
    detail.locator(".query").first.focus()
    page.keyboard.press("Enter")
    detail.locator(".lists").wait_for()
    page.keyboard.press("Escape")
    assert not detail.is_visible()
    assert run.evaluate("node => node === document.activeElement")


def test_an_address_holds_the_whole_selection(page: Any) -> None:
    form = page.locator("#made-up form")
    form.get_by_label("Measure").select_option("P(rel=2)@5")
    form.get_by_label("First stage", exact=True).select_option("bm25")
    form.get_by_label("Find").fill("some")
    form.get_by_label("only ties with the best").check()
    page.locator(f'{CHOSEN} th[data-key="tokens"] button').click()
    page.locator(f"{CHOSEN} .run", has_text="better").click()
    page.locator("#made-up .detail").get_by_label("Compare with").select_option("plain")
    page.locator("#made-up .detail .query").nth(4).click()
    page.get_by_label("Language").select_option("en")

    def selection() -> list[Any]:
        page.locator("#made-up .lists").wait_for()
        fields = page.locator("select, input").evaluate_all("all => all.map(one => [one.value, one.checked])")
        heads = page.locator("#made-up .answer h4").all_inner_texts()
        sort = page.locator(f'{CHOSEN} th[data-key="tokens"]').get_attribute("aria-sort")
        return [fields, heads, sort, names(page), page.evaluate("location.hash")]

    before, address = selection(), page.evaluate("location.href")
    assert before[1][1:] == ["plain", "better"]
    assert before[2] == "ascending"
    page.goto("about:blank")
    page.goto(address)
    assert selection() == before
    page.evaluate("location.hash = ''")
    page.locator(f"{CHOSEN} h3", has_text="nDCG@10").wait_for()
    assert len(names(page)) == 6
    page.goto(address)  # the same document with another address
    page.locator(f"{CHOSEN} h3", has_text="P(rel=2)@5").wait_for()
    assert selection() == before


def test_unknown_names_in_an_address_are_ignored(page: Any, site: Path) -> None:
    page.goto("about:blank")
    page.goto(
        f"{site.as_uri()}#made-up.stage=nowhere&made-up.run=nobody&made-up.measure=P@99&made-up.sort=-x&language=xx"
    )
    assert len(names(page)) == 6


def test_an_address_of_an_earlier_version(page: Any, site: Path) -> None:
    page.goto("about:blank")
    page.goto(f"{site.as_uri()}#board=made-up&run=good&query=q4")
    page.locator("#made-up .lists").wait_for()
    assert page.locator("#made-up .answer h4").first.inner_text() == "q4: question q4"


@pytest.mark.parametrize("correction", ["none", "bonferroni", "holm", "hochberg", "bh", "by"])
def test_a_filter_decides_as_a_board_of_the_runs_that_it_leaves(chromium: Any, tmp_path: Path, correction: str) -> None:
    found = board(
        files(tmp_path), correction=correction, baseline="good", test="wilcoxon" if correction == "by" else "t"
    )
    site = write_site([found], tmp_path / "site")
    opened = chromium.new_page()
    opened.goto(site.as_uri())
    table = found.tables[0]
    for subset in (*combinations(range(6), 3), (0, 1, 2, 3, 4), tuple(range(6))):
        before = [subset.index(first) if first in subset else None for first in (found.before[run] for run in subset)]
        named = [found.entries[run].name for run in subset]
        again = rank_runs(
            [found.scores[run] for run in subset],
            table.measure,
            options=found.plan.comparison_options,
            baseline="good" if "good" in named else "",
            before=before,
        )
        told = opened.evaluate(
            """shown => {
              const found = numbers.retest(boards.get("made-up"), 0, shown);
              return shown.map(run => [found.places.get(run), found.beats.get(run), found.beaten.get(run),
                found.tied.has(run), found.gains.get(run) ?? null, found.marks.get(run) ?? ""]);
            }""",
            list(subset),
        )
        for run, row, standing in zip(subset, told, again.runs, strict=True):
            assert row[:4] == [standing.place, list(standing.beats), standing.beaten_by, standing.tied]
            if all((found.before[other] in subset) or found.before[other] is None for other in subset):
                assert row[4] == (standing.gain.significant if standing.gain else None), run
            if "good" in named:
                assert row[5] == standing.mark
    opened.close()


def test_a_filter_applies_to_the_runs_of_unknown_cost(page: Any) -> None:
    unknown = page.locator(f"{CHOSEN} [data-cost=tokens] .unknown")
    page.get_by_label("Find").first.fill("plain")
    assert unknown.locator("p").text_content() == "plain"
    assert "1 of 1 run." in unknown.locator("summary").text_content()
    page.get_by_label("Find").first.fill("nothing has this name")
    assert unknown.is_hidden()


def test_the_page_repeats_its_own_numbers_when_nothing_is_filtered(page: Any, site: Path) -> None:
    """The page was rewritten by its script when it was opened; without a script it is as it was built."""
    read = (
        "rows => rows.map(row => [row.dataset.run, row.className, ...[...row.children].map(cell => cell.textContent)])"
    )
    shown = page.locator("#made-up .runs tbody tr").evaluate_all(read)
    points = page.locator("#made-up .front, #made-up .band").evaluate_all(
        "all => all.map(one => one.getAttribute('points'))"
    )
    labels = page.locator("#made-up .point .name").evaluate_all("all => all.map(one => one.textContent)")
    unknown = page.locator("#made-up .unknown > *").evaluate_all("all => all.map(one => one.textContent)")
    context = page.context.browser.new_context(java_script_enabled=False)
    built = context.new_page()
    built.goto(site.as_uri())
    parts = built.locator("#made-up .runs tbody tr")
    texts = [parts.nth(at).locator("xpath=*").all_text_contents() for at in range(parts.count())]
    assert [row[2:] for row in shown] == texts
    assert [one.get_attribute("points") for one in built.locator("#made-up .front, #made-up .band").all()] == points
    assert built.locator("#made-up .point .name").all_text_contents() == labels
    assert built.locator("#made-up .unknown > *").all_text_contents() == unknown
    context.close()


def test_labels_and_bars_are_not_clipped(page: Any) -> None:
    inside = """all => all.every(one => {
      const inner = one.getBoundingClientRect(), outer = one.closest("svg, td").getBoundingClientRect();
      return inner.left >= outer.left - 1 && inner.right <= outer.right + 1
        && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1;
    })"""
    assert page.locator(f"{CHOSEN} svg text").evaluate_all(inside)
    assert page.locator(f"{CHOSEN} .bar i, {CHOSEN} .bar b").evaluate_all(inside)
    assert page.locator(f"{CHOSEN} [data-cost=tokens] .name").count() == 3


def test_recorded_scores_have_no_lists(chromium: Any, tmp_path: Path) -> None:
    folder = files(tmp_path)
    (folder / "scores.json").write_text(board_as_recorded_scores(board(folder)), encoding="utf-8")
    site = write_site([make_board(plan(qrels="", scores="scores.json"), home=folder)], tmp_path / "site")
    opened = chromium.new_page()
    opened.goto(site.as_uri())
    opened.locator(f"{CHOSEN} .run", has_text="good").click()
    detail = opened.locator("#made-up .detail")
    assert "not its lists" in detail.inner_text()
    assert detail.locator(".query").count() == 0
    assert detail.locator("tbody tr").count() == 30
    opened.close()


def test_an_address_leads_to_a_query(page: Any, site: Path) -> None:
    page.locator(f"{CHOSEN} .run", has_text="good").click()
    page.locator("#made-up .query").nth(4).click()
    address = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(address)
    page.locator("#made-up .lists").wait_for()
    assert page.locator("#made-up .answer h4").first.inner_text() == "q4: question q4"


def test_missing_lists_are_said_to_be_missing(chromium: Any, tmp_path: Path) -> None:
    site = write_site([board(files(tmp_path))], tmp_path / "site")
    (next((site.parent / "data").glob("made-up-*")) / "7.js").unlink()
    opened = chromium.new_page()
    opened.goto(site.as_uri())
    opened.locator(f"{CHOSEN} .run", has_text="good").click()
    opened.get_by_role("button", name="q7", exact=True).click()
    opened.locator("#made-up .answer .down").wait_for()
    assert "7.js is missing" in opened.locator("#made-up .answer").inner_text()
    opened.close()


def luminance(page: Any) -> int:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall("[0-9]+", colour)[:3]))


def test_light_and_dark(page: Any) -> None:
    page.emulate_media(color_scheme="light")
    assert luminance(page) > 600
    page.emulate_media(color_scheme="dark")
    assert luminance(page) < 150
    switch = page.get_by_role("button", name="Colours")
    switch.click()
    assert switch.inner_text() == "Colours: light"
    assert luminance(page) > 600
    switch.click()
    page.emulate_media(color_scheme="light")
    assert luminance(page) < 150
    page.reload()
    assert luminance(page) < 150


def test_it_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= 375
    page.locator(f"{CHOSEN} .run", has_text="good").click()
    page.locator("#made-up .query").first.click()
    page.locator("#made-up .lists").wait_for()
    assert page.evaluate(width) <= 375


def test_it_is_printed_without_what_only_a_screen_can(page: Any) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert luminance(page) > 600
    assert page.locator("form:visible").count() == 0
    assert page.locator(f"{CHOSEN} .wide").first.evaluate("node => getComputedStyle(node).overflowX") == "visible"


def test_without_scripts_the_tables_stand(chromium: Any, site: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(site.as_uri())
    assert opened.locator("table:visible").count() == 3
    assert opened.locator("form:visible").count() == 0
    context.close()


def test_scripts_of_others_do_not_run(chromium: Any, site: Path) -> None:
    context = chromium.new_context()
    opened = context.new_page()
    opened.goto(site.as_uri())
    opened.evaluate(
        """() => {
          document.body.insertAdjacentHTML("beforeend", '<img src="data:," onerror="window.hacked = 1">');
          const script = document.createElement("script");
          script.textContent = "window.hacked = 2";
          document.body.append(script);
        }"""
    )
    opened.wait_for_timeout(200)
    assert opened.evaluate("window.hacked") is None
    sent = opened.evaluate("fetch('http://127.0.0.1:9/').then(() => '', (error) => error.message)")
    assert sent
    context.close()


def test_enter_in_the_search_leaves_the_page_open(page: Any) -> None:
    before = page.url
    page.locator("#made-up [data-filter=text]").press("Enter")
    assert page.url == before
    assert names(page)
