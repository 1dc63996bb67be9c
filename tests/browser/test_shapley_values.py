"""The coalition explorer in the built page: cells switch, and the numbers shown are irlib's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import load_model
from irlib.game import TableGame
from irlib.widgets.coalitions import NETWORK, stored
from tests.browser.test_closed_form import shown

PAGE = "notebooks/shapley-values.html"
EVERY = 2**16 - 1


def press(page, *units):
    for a in units:
        page.locator(f'.irw-cells [data-unit="{a}"]').click()


@pytest.mark.parametrize(("image", "off"), [(0, ()), (0, (2, 6)), (1, (0, 5, 9, 15))])
def test_the_explorers_numbers_are_the_networks(open_page, image, off):
    page = open_page(PAGE)
    page.locator('input[data-param="image"]').fill(str(image))
    press(page, *off)
    tables = stored("explorer")
    x, delta = (torch.from_numpy(t)[None, None].float() for t in (tables["x"][image] / 255, tables["delta"][0, image]))
    y, model = torch.tensor([tables["y"][image]]), load_model(NETWORK)
    for a in off:
        delta[..., 7 * (a // 4) : 7 * (a // 4) + 7, 7 * (a % 4) : 7 * (a % 4) + 7] = 0
    rise = (F.cross_entropy(model(x + delta).double(), y) - F.cross_entropy(model(x).double(), y)).item()
    assert shown(page, "inside") == pytest.approx(rise, rel=6e-3)
    members = [a for a in range(16) if a not in off]
    assert shown(page, "share") == pytest.approx(tables["shapley"][0, image, members].sum(), rel=6e-3)


def test_the_marginal_bars_are_differences_of_the_table(open_page):
    page = open_page(PAGE)
    press(page, 3, 10)
    v = stored("explorer")["v"][0, 0].astype(float)
    S = EVERY & ~(1 << 3) & ~(1 << 10)
    expected = np.array([v[S | 1 << a] - v[S & ~(1 << a)] for a in range(16)])
    bars = page.locator("figure", has_text="what each unit changes now").locator("rect[data-bar]")
    heights = np.array([float(b.get_attribute("height")) for b in bars.all()])
    assert len(heights) == 16
    tall = heights > 2
    assert tall.sum() >= 3
    top = np.abs(expected).argmax()
    np.testing.assert_allclose(heights[tall] / heights[top], np.abs(expected[tall] / expected[top]), rtol=0.02)


def test_nobody_wins_nothing_and_a_link_restores_a_coalition(open_page):
    page = open_page(PAGE)
    page.get_by_role("button", name="None").click()
    assert shown(page, "inside") == shown(page, "share") == 0
    press(page, 1, 4)
    href = page.get_by_role("link", name="Link to this state").get_attribute("href")
    assert f"coalition={2**1 + 2**4}" in href
    other = open_page(PAGE + href)
    pressed = other.locator('.irw-cells [data-unit][aria-pressed="true"]')
    assert [int(b.get_attribute("data-unit")) for b in pressed.all()] == [1, 4]
    assert shown(other, "inside") == shown(page, "inside")
    assert float(TableGame(stored("explorer")["v"][0, 0])(torch.eye(16).bool()[[1, 4]].any(0)[None])) == pytest.approx(
        shown(other, "inside"), rel=6e-3
    )


def test_the_text_quotes_the_widget(open_page):
    page = open_page(PAGE)
    said = page.locator('[data-readout="inside"]').inner_text()
    assert f"All sixteen cells together raise the loss by {said}" in page.inner_text("main")
