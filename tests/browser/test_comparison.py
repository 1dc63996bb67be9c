"""The comparison page: its widget shows the stored verdicts, its table sorts by its headings."""

import pytest

from irlib.replicate import versus
from irlib.replicate.overview import SHOWN
from irlib.replicate.presets import PRESETS
from tests.browser.conftest import picture, shown, slide

PAGE = "notebooks/comparison.html"


def test_the_widget_shows_the_verdicts_and_the_table_sorts(open_page):
    page = open_page(PAGE)
    keys = list(SHOWN)
    before = picture(page, 1), picture(page, 2)
    slide(page, first=keys.index("rap"), source=1, column=1)
    source = PRESETS["quick"].sources[1]
    for which, key in (("first", "rap"), ("second", "il")):
        assert shown(page, f"interaction_{which}") == pytest.approx(versus.judged(key, "linf", "ce", source).difference.mean, rel=6e-3)
        assert shown(page, f"success_{which}") == pytest.approx(versus.judged(key, "linf", "fooled", source).difference.mean, rel=6e-3)
    assert picture(page, 1) != before[0] and picture(page, 2) != before[1]
    filled = page.locator('circle[data-kept="1"] title').all_text_contents()
    assert sorted(text.split(":")[0] for text in filled) == ["IL", "RAP"]

    head = page.locator("table.irw-sortable thead th").nth(3)
    column = lambda: [float(v) for v in page.locator("table.irw-sortable tbody tr").evaluate_all("rows => rows.map(r => r.cells[3].dataset.value)")]
    unsorted = column()
    for direction, reverse in (("ascending", False), ("descending", True)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == direction
        assert column() == sorted(unsorted, reverse=reverse) != unsorted
    page.locator("table.irw-sortable thead th").first.get_by_role("button").press("Enter")
    names = page.locator("table.irw-sortable tbody th").all_text_contents()
    assert names[0] == "AA" and head.get_attribute("aria-sort") is None
