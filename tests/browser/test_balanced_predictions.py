"""The chapter's two widgets in the built page: their numbers are irlib's, and each slider moves what it should."""

import pytest
import torch

from irlib.balance import competitors, rebalanced, single_step_interaction, squared_gradient
from irlib.widgets.balanced_predictions import CLASSES, CONFIDENCES, SHARES
from tests.browser.conftest import shown, slide

PAGE = "notebooks/balanced-predictions.html"


def bars(widget):
    return [float(bar.get_attribute("height")) for bar in widget.locator("rect[data-bar]").all()]


@pytest.mark.parametrize(("balance", "py", "classes"), [(5, 6, 3), (2, 0, 3), (10, 11, 5), (7, 5, 0)])
def test_the_made_up_predictions_numbers_are_irlibs(open_page, balance, py, classes):
    page = open_page(PAGE)
    slide(page, balance=balance, py=py, classes=classes)
    lone = torch.zeros(CLASSES[classes], dtype=torch.float64)
    lone[0], lone[1] = CONFIDENCES[py], 1 - CONFIDENCES[py]
    p = rebalanced(lone, 0, SHARES[balance])
    step = single_step_interaction(p, 0) / single_step_interaction(lone, 0)
    assert shown(page, "competitors") == pytest.approx(competitors(p, 0).item(), rel=5.01e-3)
    assert shown(page, "formula") == pytest.approx(single_step_interaction(p, 0).item(), rel=5.01e-3)
    assert shown(page, "step") == pytest.approx(100 * step.item(), rel=5.01e-3)
    assert shown(page, "length") == pytest.approx(100 * (step * squared_gradient(lone, 0) / squared_gradient(p, 0)).item(), rel=5.01e-3)


def test_balance_lowers_the_first_bar_and_raises_the_others(open_page):
    page = open_page(PAGE)
    widget = page.locator(".irw").first
    slide(page, balance=2)
    before = bars(widget)
    slide(page, balance=9)
    after = bars(widget)
    assert len(after) == 10
    assert after[0] == before[0]
    assert after[1] < before[1]
    assert all(a > b for a, b in zip(after[2:], before[2:], strict=True))


def test_the_networks_widget_follows_its_three_sliders(open_page):
    page = open_page(PAGE)
    slide(page, bias=0)
    assert shown(page, "change") == 0
    assert shown(page, "promised") == 0
    own = shown(page, "own")
    for name, stop in [("bias", 10), ("network", 2), ("image", 3)]:
        slide(page, **{name: stop})
        assert shown(page, "own") != own
        assert shown(page, "promised") < 0
        own = shown(page, "own")


def test_a_link_restores_both_widgets(open_page):
    page = open_page(PAGE + "#balance=0.2&py=0.05&classes=10&bias=1&network=4&image=2")
    assert shown(page, "step") > 100
    assert page.locator('input[data-param="network"]').get_attribute("aria-valuetext") == "fmnist-vgg-fd"
    assert page.locator('input[data-param="bias"]').input_value() == "10"
