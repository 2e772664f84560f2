"""The report in a real Chromium: opened, filtered, sorted, linked to, by keyboard, printed, and without JavaScript.

Pictures of it are left in the folder ``test-artefacts``, or in the one that ``TEST_ARTEFACTS`` names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.browser import ARTEFACTS
from support.browser import chromium as chromium  # a fixture
from support.finished_run import ATTACK, make_run

from harness.folder import RunFolder
from harness.report import build_report
from harness.report.cards import build_cards
from harness.results.run_data import load_run

pytestmark = pytest.mark.slow  # starts Chromium


@dataclass
class Visit:
    """A page in the browser, and what it did that it should not."""

    tab: Any
    address: str
    complaints: list[str] = field(default_factory=list)
    requests: set[str] = field(default_factory=set)

    def facet(self, name: str, value: str) -> None:
        """Choose a value of what the neurons are filtered by."""
        self.tab.locator(f"[data-facet={name}]").select_option(value)

    def shown(self) -> list[str]:
        """Return the ids of the neurons that are listed, in order."""
        return [card.get_attribute("id") for card in self.tab.locator("details.card").filter(visible=True).all()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run(tmp_path_factory.mktemp("runs") / "one", neurons=12)
    build_report([folder], folder.report)
    return folder


@pytest.fixture
def visit(chromium: Any, run: RunFolder) -> Iterator[Visit]:
    """The report, open; whatever a test does there, nothing may be complained of and nothing fetched."""
    tab = chromium.new_page(viewport={"width": 1200, "height": 1000})
    tab.set_default_timeout(10_000)
    visit = Visit(tab, run.report.resolve().as_uri())
    tab.on("console", lambda message: visit.complaints.append(message.text))
    tab.on("pageerror", lambda error: visit.complaints.append(str(error)))
    tab.on("dialog", lambda dialog: visit.complaints.append(f"dialog: {dialog.message}"))
    tab.on("request", lambda request: visit.requests.add(request.url.split("#")[0]))
    tab.goto(visit.address)
    yield visit
    assert visit.complaints == []
    assert visit.requests == {visit.address}
    tab.close()


def test_a_neuron_is_opened_by_click_and_its_hostile_text_is_text(visit: Visit) -> None:
    tab = visit.tab
    assert len(visit.shown()) == 12
    assert not tab.locator("#L3N5 .inside").is_visible()
    tab.locator("#L3N5 > summary").click()
    tab.locator("#L3N5 .descriptions").wait_for()
    assert tab.url.endswith("#L3N5")
    tab.get_by_role("button", name="Open all").click()
    tab.locator("#L5N192 .descriptions").wait_for()
    tab.wait_for_timeout(200)
    text = tab.locator("#cards").text_content()
    assert ATTACK in text
    assert "{{ 7 * 7 }}" in text
    assert tab.locator("#cards :is(script, img, iframe, style, [onerror], [onmouseover])").count() == 0
    tab.get_by_role("button", name="Close all").click()
    assert tab.locator("details.card[open]").count() == 0


def test_everything_of_a_neuron_is_there_when_it_is_open(visit: Visit, run: RunFolder) -> None:
    card = next(build_cards(load_run(run)))
    visit.tab.goto(f"{visit.address}#{card.neuron}")
    inside = visit.tab.locator(f"#{card.neuron} .inside")
    inside.locator(".descriptions").wait_for()
    assert inside.locator(".description").count() == len(card.descriptions)
    assert inside.locator(".channels tbody tr").count() == sum(len(vector.channels) for vector in card.vectors)
    assert inside.locator(".windows li").count() == sum(len(windows) for _, windows in card.splits)
    assert inside.locator(".verdicts .reason").count() == sum(len(item.verdicts) for item in card.comparisons)


def test_neurons_are_filtered_sorted_and_searched(visit: Visit, run: RunFolder) -> None:
    tab, cards = visit.tab, {str(card.neuron): card for card in build_cards(load_run(run))}
    every = list(cards)
    assert visit.shown() == every
    count = tab.locator(".count")
    assert count.get_attribute("aria-live") == "polite"

    visit.facet("layer", "3")
    assert visit.shown() == [name for name in every if name.startswith("L3")]
    assert count.text_content() == "6 of 12 neurons"
    tab.get_by_role("button", name="Show all").click()
    tab.locator(".count", has_text="12 neurons").wait_for()
    assert visit.shown() == every

    visit.facet("kind", "out")
    assert visit.shown() == [name for name, card in cards.items() if card.kind == "out"]
    visit.facet("kind", "*")
    visit.facet("best", "rotate")
    assert visit.shown() == [name for name, card in cards.items() if card.best == "rotate"]
    assert 0 < len(visit.shown()) < 12
    visit.facet("best", "*")
    middle = sorted(card.kurtosis or 0 for card in cards.values())[6]
    tab.get_by_label("Kurtosis from").fill(f"{middle - 0.01}")
    assert len(visit.shown()) == 6
    tab.get_by_label("Kurtosis from").fill("")

    for key, figure in (
        ("kurtosis", lambda card: card.kurtosis),
        ("disagreement", lambda card: card.disagreement),
        ("wins of maxact", lambda card: card.shares["maxact"]),
    ):
        tab.get_by_label("Sort by").select_option(label=key)
        figures = [round(figure(cards[name]), 2) for name in visit.shown()]
        assert figures == sorted(figures, reverse=True)
        assert len(set(figures)) > 1
    tab.get_by_label("Sort by").select_option("place")

    tab.get_by_role("searchbox").fill("in Rotate of l5n22")  # a description
    tab.locator(".count", has_text="1 of 12").wait_for()
    assert visit.shown() == ["L5N22"]
    tab.get_by_role("searchbox").fill("before shuffled on l3n5, because")  # a verdict's reason
    tab.locator("#L3N5").wait_for()
    assert visit.shown() == ["L3N5"]
    tab.get_by_role("searchbox").fill("fires on")  # every description begins like this
    tab.locator(".count", has_text="12 neurons").wait_for()
    tab.get_by_role("searchbox").fill("no such words anywhere")
    tab.locator(".count", has_text="0 of 12").wait_for()
    tab.get_by_role("searchbox").press("Enter")  # sends no form


def test_a_link_opens_its_neuron_even_where_it_is_filtered_out(visit: Visit) -> None:
    tab = visit.tab
    tab.goto(f"{visit.address}#L5N56")
    tab.locator("#L5N56 .descriptions").wait_for()
    assert tab.evaluate("document.activeElement.parentElement.id") == "L5N56"
    visit.facet("layer", "5")
    assert "L3N5" not in visit.shown()
    tab.evaluate("location.hash = '#L3N5'")
    tab.locator("#L3N5 .descriptions").wait_for()
    assert tab.locator("#L3N5").is_visible()
    assert tab.evaluate("document.activeElement.parentElement.id") == "L3N5"
    tab.locator(".count", has_text="12 neurons").wait_for()
    tab.evaluate("location.hash = '#L9N9'")
    tab.locator(".count", has_text="L9N9 is not among the neurons of this report").wait_for()


def test_by_keyboard_and_by_role(visit: Visit) -> None:
    tab = visit.tab
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    for role in ("banner", "navigation", "main", "contentinfo", "search"):
        assert tab.get_by_role(role).count() == 1
    assert tab.locator("table:not(:has(caption))").count() == 0
    assert tab.locator("th:not([scope])").count() == 0
    assert tab.locator(":is(input, select):not(label *)").count() == 0
    tab.locator("#L3N5 > summary").focus()
    tab.keyboard.press("Enter")
    tab.locator("#L3N5 .descriptions").wait_for()
    assert tab.locator("#L3N5 table:not(:has(caption))").count() == 0
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Link to L3N5"


def test_printed_it_holds_the_summary_and_the_open_neurons(visit: Visit) -> None:
    tab = visit.tab
    tab.goto(f"{visit.address}#L3N5")
    tab.locator("#L3N5 .descriptions").wait_for()
    tab.emulate_media(media="print")
    assert visit.shown() == ["L3N5"]
    assert tab.locator("#leaderboard table").first.is_visible()
    assert tab.get_by_text("Only open neurons are printed.").is_visible()
    assert not tab.locator("nav").is_visible()
    assert not tab.locator(".tools").is_visible()


def test_without_javascript_the_summary_and_the_list_are_whole(chromium: Any, run: RunFolder) -> None:
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(run.report.resolve().as_uri())
    assert tab.locator("#leaderboard table").first.is_visible()
    assert tab.get_by_text("Opening, filtering and sorting neurons needs JavaScript.").is_visible()
    assert not tab.locator(".tools").is_visible()
    assert tab.locator("#L3N5 .headline").is_visible()
    context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 360), ("dark", 360)])
def test_it_fits_the_window_and_is_pictured(visit: Visit, scheme: str, width: int) -> None:
    tab = visit.tab
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": width, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.screenshot(path=ARTEFACTS / f"report-{scheme}-{width}.png")
    tab.goto(f"{visit.address}#L3N5")
    tab.locator("#L3N5 .descriptions").wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.screenshot(path=ARTEFACTS / f"neuron-{scheme}-{width}.png")
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background.strip("rgb()").split(","))) < 150) == (scheme == "dark")
