"""The pair explorer in the built page: Δv and I_ab shown are those of the stored tables, and it starts as the text says."""

import numpy as np
import pytest

from irlib import interaction_matrix
from irlib.game import TableGame
from irlib.widgets.coalitions import PAIRS, stored
from tests.browser.test_closed_form import shown, slide
from tests.browser.test_shapley_values import EVERY, press

PAGE = "notebooks/interactions.html"


@pytest.mark.parametrize(("attack", "image", "pair", "off"), [(0, 0, 32, ()), (1, 0, 0, (4, 5, 6)), (0, 1, 119, (0, 15)), (1, 1, 61, (1, 8, 12))])
def test_the_pairs_numbers_are_the_tables(open_page, attack, image, pair, off):
    page = open_page(PAGE)
    slide(page, attack=attack, image=image, pair=pair)
    press(page, *off)
    tables = stored("explorer")
    v, (a, b) = tables["v"][attack, image].astype(float), PAIRS[pair]
    S = (EVERY - sum(1 << u for u in off)) & ~(1 << a) & ~(1 << b)
    expected = v[S | 1 << a | 1 << b] - v[S | 1 << a] - v[S | 1 << b] + v[S]
    assert shown(page, "joint") == pytest.approx(expected, rel=6e-3, abs=1e-6)
    # by irlib from the rounded table: rounding moves an average of thousands of contexts by little
    found = interaction_matrix(TableGame(v))[0, a, b].item()
    assert shown(page, "pairwise") == pytest.approx(found, rel=0.02, abs=1e-3)
    marked = page.locator(".irw-cells .irw-marked")
    assert sorted(int(m.get_attribute("data-unit")) for m in marked.all()) == [a, b]


def test_the_bars_average_to_the_interaction(open_page):
    """The fifteen sizes of context count the same."""
    page = open_page(PAGE)
    bars = page.locator("figure", has_text="mean Δv").locator("rect[data-bar]")
    heights = np.array([float(b.get_attribute("height")) for b in bars.all()])
    tables, pair = stored("explorer"), PAIRS[int(page.locator('input[data-param="pair"]').input_value())]
    v, (a, b) = tables["v"][0, 0].astype(float), pair
    last = (EVERY) & ~(1 << a) & ~(1 << b)
    full = v[EVERY] - v[last | 1 << a] - v[last | 1 << b] + v[last]
    assert len(heights) == 15
    assert heights.mean() / heights[-1] == pytest.approx(tables["interaction"][0, 0, a, b] / full, rel=0.03)


def test_the_text_quotes_the_widget(open_page):
    page = open_page(PAGE)
    text = page.inner_text("main")
    for readout, phrase in [("joint", "the two cells add {}"), ("lowest", "runs from {}"), ("highest", "to {};"), ("pairwise", "is the mean, {}")]:
        said = page.locator(f'[data-readout="{readout}"]').inner_text()
        assert phrase.format(said) in text
