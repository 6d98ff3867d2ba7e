"""The page at `/` in a real browser, with a mouse, a keyboard or a phone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from serving.http.keys import Keys, create_key
from tests.serving.browser import Visit, chromium, playwright, serving, visiting
from tests.serving.fakes import FakeEngine

pytestmark = pytest.mark.browser
__all__ = ["chromium"]

expect = playwright.expect
HOSTILE = "<img src=x onerror=\"document.title='owned'\">\u202egnp.exe\u202c <script>document.title='owned'</script>"
LONG = "Unbroken" * 30
TITLES = {"odd": HOSTILE, "long": LONG}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(titles=TITLES)


@pytest.fixture
def visit(chromium: Any, engine: FakeEngine, tmp_path: Path) -> Iterator[Visit]:
    with serving(engine, tmp_path) as address, visiting(chromium, address) as visit:
        yield visit


def remembered(page: Any, titles: list[str]) -> None:
    """Wait until the history holds these; titles come later than ids."""
    expect(page.locator("#history .title")).to_have_text(titles)


def shown(page: Any) -> list[str]:
    return list(page.locator("#items .title").all_text_contents())


def recommended(page: Any, first: str) -> None:
    """Wait until an item stands at the head of the list."""
    expect(page.locator("#items .title").first).to_have_text(first)


def offered(page: Any) -> Any:
    """What a combobox offers; the options of a select are others."""
    return page.locator("[role=option]")


def focused(page: Any) -> str:
    """The name of what has focus."""
    return str(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"))


def test_a_new_visitor_is_recommended_something(visit: Visit) -> None:
    page = visit.open()
    recommended(page, "Item i0")
    expect(page.locator("#notices li")).to_have_text(
        ["The history is empty, so that these are the items for a new visitor."]
    )
    expect(page.get_by_role("status").filter(has_text="10 recommendations in")).to_contain_text("by bundle fake")
    expect(page.locator("#about")).to_contain_text("32 items")
    expect(page.locator("#badge")).to_be_hidden()


def test_a_history_is_built_by_searching(visit: Visit) -> None:
    page = visit.open()
    search = page.get_by_role("combobox", name="Add an item")
    for text in ("i4", "i7"):
        search.press_sequentially(text)
        offered(page).filter(has_text=f"Item {text}").click()
    recommended(page, "Item i8")
    remembered(page, ["Item i4", "Item i7"])
    assert page.url.endswith("#item=i4&item=i7")
    expect(search).to_be_focused()
    expect(page.locator("#notice")).to_have_text("Added to the history: Item i7")


def test_a_row_tells_where_an_item_came_from(visit: Visit) -> None:
    page = visit.open("#item=i8&k=5")
    recommended(page, "Item i9")
    second = page.locator("#items li").nth(1)
    assert second.locator(".sources").inner_text().split() == ["generative", "−0.50", "diffusion", "0.50"]
    assert second.locator(".score").inner_text().split() == ["score", "0.500"]
    assert second.locator(".tokens code").all_text_contents() == ["<a_1>", "<b_2>"]
    expect(second.locator(".shared")).to_have_text(["<a_1>"])  # which the history's item has too
    expect(page.locator("#latency")).to_contain_text("diffusion")
    expect(page.locator("#latency")).to_contain_text("generative")


def test_the_address_holds_history_and_options_and_nothing_else_does(visit: Visit) -> None:
    page = visit.open("#item=i3&item=nowhere&item=i5&k=5&where.categories=games&where.__proto__=x")
    expect(page.locator("#error")).to_contain_text("where: got the column")
    page = visit.open("#item=i3&item=nowhere&item=i5&k=5&where.categories=games")
    recommended(page, "Item i7")
    remembered(page, ["Item i3", "nowhere", "Item i5"])
    expect(page.locator("#history li").nth(1)).to_contain_text("not in this catalogue")
    assert shown(page) == [f"Item i{n}" for n in (7, 10, 13, 16, 19)]
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_the_history_is_reordered_and_shortened(visit: Visit) -> None:
    page = visit.open("#item=i3&item=i5&item=i9")
    recommended(page, "Item i10")
    page.get_by_role("button", name="Move up: Item i9").click()
    recommended(page, "Item i6")
    remembered(page, ["Item i3", "Item i9", "Item i5"])
    assert focused(page) == "Move up: Item i9"
    page.get_by_role("button", name="Move down: Item i9").click()
    recommended(page, "Item i10")
    assert focused(page) == "Move up: Item i9"  # it is the last: down is off
    page.get_by_role("button", name="Remove: Item i9").click()
    recommended(page, "Item i6")
    assert focused(page) == "Remove: Item i5"
    page.get_by_role("button", name="Clear").click()
    recommended(page, "Item i0")
    remembered(page, [])
    assert "#" not in page.url


def test_a_filter_is_found_chosen_and_dropped(visit: Visit) -> None:
    page = visit.open()
    box = page.get_by_role("combobox", name="Filter by categories")
    box.press_sequentially("mus")
    expect(offered(page)).to_have_count(1)
    box.press("Enter")
    recommended(page, "Item i2")
    assert shown(page)[:3] == ["Item i2", "Item i5", "Item i8"]
    box.click()
    expect(offered(page)).to_have_count(2)  # the chosen one is not offered again
    box.press("Escape")
    page.get_by_role("button", name="Drop the filter: music").click()
    recommended(page, "Item i0")
    page.get_by_role("combobox", name="Number of items").select_option("20")
    expect(page.locator("#items li")).to_have_count(20)


def test_details_lead_on_to_neighbours_and_into_the_history(visit: Visit) -> None:
    page = visit.open()
    page.get_by_role("button", name="Item i1", exact=True).click()
    dialog = page.get_by_role("dialog", name="Item i1")
    expect(dialog).to_contain_text("1 interactions")
    expect(dialog.locator(".texts")).to_contain_text("games")
    dialog.get_by_role("button", name="Item i2", exact=True).click()
    dialog = page.get_by_role("dialog", name="Item i2")
    dialog.get_by_role("button", name="Add to the history", exact=True).click()
    recommended(page, "Item i3")
    remembered(page, ["Item i2"])
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_only_the_keyboard_is_needed(visit: Visit) -> None:
    page = visit.open()
    recommended(page, "Item i0")
    press = page.keyboard.press
    press("Tab")
    assert focused(page) == "Skip to the recommendations"
    press("Tab")
    page.keyboard.type("item i1")
    expect(offered(page).first).to_have_attribute("aria-selected", "true")
    press("ArrowDown")
    second = offered(page).nth(1)
    expect(second).to_have_attribute("aria-selected", "true")
    chosen = second.locator("bdi").text_content()
    assert page.get_by_role("combobox", name="Add an item").get_attribute("aria-activedescendant") == "found-1"
    press("Enter")
    expect(page.locator("#history .title")).to_have_text([chosen])
    page.keyboard.type("zzz")
    expect(page.locator("#search-note")).to_have_text("No matches.")
    press("Escape")
    expect(page.get_by_role("combobox", name="Add an item")).to_have_value("")
    page.locator("#skip").focus()
    press("Enter")
    assert focused(page) == "Recommended next"
    press("Tab")  # the title of the first row
    press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    press("Escape")
    press("Tab")
    name = focused(page)
    assert name.startswith("Add to the history: Item")
    press("Enter")
    expect(page.locator("#history li")).to_have_count(2)
    expect(page.locator("#history .title").nth(1)).to_have_text(name.removeprefix("Add to the history: "))
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    assert focused(page).startswith("Add to the history: ")  # of the row that came in its place


def test_a_short_or_empty_answer_says_why(visit: Visit, engine: FakeEngine) -> None:
    notices = visit.open("#item=i1").locator("#notices li")
    recommended(visit.page, "Item i2")
    expect(notices).to_have_count(0)
    page = visit.open("#item=i1&item=<b>no&k=50&where.categories=games")
    expect(page.locator("#items li")).to_have_count(10)
    expect(notices).to_have_text(
        [
            "1 of 2 ids of the history are not in the catalogue and are ignored: '<b>no'.",
            "50 items were asked for, 10 found: the catalogue has 32, of which 22 kept out by the filter.",
        ]
    )
    page = visit.open("#item=i1&where.categories=garden")
    expect(notices).to_have_text(["No item of the catalogue passes the filter."])
    expect(page.locator("#status")).to_contain_text("No recommendations in")
    engine.exclude_seen = True
    page = visit.open(f"#{'&'.join(f'item=i{n}' for n in range(1, 30, 3))}&where.categories=games")
    expect(notices).to_contain_text(["All 10 items that pass the filter are in the history"])


def test_a_degraded_answer_says_so(visit: Visit, engine: FakeEngine) -> None:
    engine.failures = {"full": RuntimeError("broken"), "narrow": RuntimeError("broken")}
    page = visit.open("#item=i1")
    recommended(page, "Item i2")
    expect(page.locator("#badge")).to_have_text("Degraded · nothing generated · failure: RuntimeError")


def test_an_older_answer_is_not_seen(visit: Visit, engine: FakeEngine) -> None:
    page = visit.open("#item=i1")
    recommended(page, "Item i2")
    with engine.hold():
        page.get_by_role("button", name="Add to the history: Item i4").click()
        page.get_by_role("button", name="Add to the history: Item i8").click()
        expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
    recommended(page, "Item i9")
    remembered(page, ["Item i1", "Item i4", "Item i8"])
    assert visit.aborted.count(f"{visit.address}v1/recommend") == 1


def overloaded(route: Any) -> None:
    error = {"error": {"code": "overloaded", "message": "the server is busy; try again later"}}
    route.fulfill(status=503, headers={"Retry-After": "2"}, json=error)


def unreachable(route: Any) -> None:
    route.abort("connectionrefused")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [(overloaded, "the server is busy; try again later (wait 2 s)"), (unreachable, "The server cannot be reached.")],
)
def test_an_error_is_shown_and_passes(visit: Visit, trouble: Callable[[Any], None], words: str) -> None:
    page = visit.open("#item=i1")
    recommended(page, "Item i2")
    page.route("**/v1/recommend", trouble)
    page.get_by_role("button", name="Add to the history: Item i5").click()
    expect(page.locator("#error")).to_contain_text(words)
    assert shown(page) == []  # what is of another history is taken away
    page.unroute("**/v1/recommend")
    page.get_by_role("button", name="Try again").click()
    recommended(page, "Item i6")
    expect(page.locator("#error")).to_be_empty()
    assert focused(page) == "Recommended next"
    visit.complaints[:] = [text for text in visit.complaints if "ERR_CONNECTION_REFUSED" not in text]


def test_a_key_is_requested_and_stored_for_the_tab_only(chromium: Any, engine: FakeEngine, tmp_path: Path) -> None:
    token = create_key(tmp_path / "keys.json", "reader", "read")
    keys = Keys.load(tmp_path / "keys.json")
    with serving(engine, tmp_path, keys=keys) as address, visiting(chromium, address) as visit:
        page = visit.open("#item=i1")
        dialog = page.get_by_role("dialog", name="API key required")
        for value in ("wrong", token):
            dialog.get_by_label("Key", exact=True).fill(value)
            dialog.get_by_role("button", name="Use the key").click()
            if value == "wrong":
                expect(page.locator("#key-reason")).not_to_be_empty()
        recommended(page, "Item i2")
        expect(page.get_by_role("combobox", name="Filter by categories")).to_be_visible()
        assert page.evaluate("[localStorage.length, Object.values(sessionStorage)]") == [0, [token]]
        page.reload()
        recommended(page, "Item i2")
        page.get_by_role("button", name="Delete the key").click()
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
        assert not any(token in url for url in visit.asked)


def test_titles_are_text_whatever_they_say(visit: Visit) -> None:
    page = visit.open("#item=i29&item=odd&k=50")
    expect(page.locator("#history .title").nth(1)).to_have_text(HOSTILE)
    expect(page.locator("#items .title").filter(has_text="owned")).to_have_text(HOSTILE)
    page.get_by_role("combobox", name="Add an item").fill("owned")
    expect(offered(page)).to_contain_text(HOSTILE)
    page.keyboard.press("Escape")
    page.locator("#history .title").nth(1).click()
    expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text(HOSTILE)
    assert page.title() == "Recommendations · recsys"
    assert page.locator("img").count() == 0
    isolated = "[...document.querySelectorAll('.title, #details h2')].every((e) => e.firstChild.nodeName === 'BDI')"
    assert page.evaluate(isolated)


@pytest.mark.parametrize("width", [360, 390, 800])
def test_nothing_is_wider_than_a_phone(chromium: Any, engine: FakeEngine, tmp_path: Path, width: int) -> None:
    with ExitStack() as stack:
        address = stack.enter_context(serving(engine, tmp_path))
        size = {"width": width, "height": 740}
        page = stack.enter_context(visiting(chromium, address, viewport=size, has_touch=True)).open("#item=long&k=50")
        expect(page.locator("#items .title").filter(has_text=LONG)).to_be_visible()
        fits = "document.scrollingElement.scrollWidth <= innerWidth"
        assert page.evaluate(fits)
        page.get_by_role("combobox", name="Add an item").tap()
        page.keyboard.type("unbroken")
        offered(page).wait_for()
        assert page.evaluate(fits)
        page.keyboard.press("Escape")
        page.locator("#history .title").tap()
        expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text(LONG)
        assert page.evaluate(f"{fits} && document.querySelector('#details').scrollWidth <= innerWidth")


def test_everything_has_a_name_for_a_screen_reader(visit: Visit) -> None:
    page = visit.open("#item=i1")
    recommended(page, "Item i2")
    page.get_by_role("button", name="Item i2", exact=True).click()
    page.get_by_role("dialog").get_by_role("list").wait_for()
    unnamed = """[...document.querySelectorAll('button, input, select, dialog, main, [role=listbox], [role=option]')]
        .filter((e) => !e.ariaLabel && !e.textContent.trim() && !e.labels?.length && !e.ariaLabelledByElements?.length)
        .map((e) => e.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert page.locator("h1").count() == 1
    assert page.locator("main, header, footer, search").count() == 4
