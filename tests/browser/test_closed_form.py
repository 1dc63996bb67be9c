"""The chapter's widget in the built page: sliders move the picture, and the numbers shown are irlib's."""

import math

import numpy as np
import pytest
import torch

from irlib import Quadratic, create_attack, load_images, load_model
from irlib.widgets.closed_form import STEPS, STRENGTHS
from tests.browser.conftest import picture, shown, slide

PAGE = "notebooks/closed-form.html"


@pytest.fixture(scope="module")
def shown_images():
    source = load_model("fmnist-resnet14")
    x, y = load_images("fashion-mnist", 10, seed=0)
    right = source(x).argmax(1) == y
    return source, x[right][:5], y[right][:5]


@pytest.mark.parametrize(("strength", "steps", "image"), [(0, 0, 0), (4, 3, 0), (4, 6, 2), (7, 6, 4), (2, 5, 3)])
def test_the_closed_forms_numbers_are_irlibs(open_page, shown_images, strength, steps, image):
    source, x, y = shown_images
    page = open_page(PAGE)
    slide(page, strength=strength, steps=steps, image=image)
    q = Quadratic.at(source, x[image : image + 1], y[image : image + 1])
    beta, m = STRENGTHS[strength] / q.eigenvalues[0].item(), STEPS[steps]
    delta = q.infinite_step(beta) if m == math.inf else q.multi_step(beta / m, m)
    assert shown(page, "beta") == pytest.approx(beta, rel=5.01e-3)
    assert shown(page, "first") == pytest.approx(q.amplification(beta, m)[0].item() / beta, rel=5.01e-3)
    assert shown(page, "norm") == pytest.approx(delta.norm().item(), rel=5.01e-3)
    assert shown(page, "rise") == pytest.approx(q.loss_increase(delta).item(), rel=5.01e-3)
    bars = page.locator("rect[data-bar]")
    assert bars.count() == 9
    heights = np.array([float(b.get_attribute("height")) for b in bars.all()])
    above = q.amplification(beta, m).numpy() / beta - 1
    tall = heights > 1.5  # a bar is at least one pixel high
    assert tall.any() == (m > 1)  # one step amplifies nothing
    np.testing.assert_allclose(heights[tall] / heights[0], above[tall] / above[0], rtol=1e-3)


@pytest.mark.parametrize(("strength", "steps", "image"), [(0, 3, 0), (2, 2, 1), (4, 3, 4)])
def test_the_networks_numbers_are_irlibs(open_page, shown_images, strength, steps, image):
    """Recomputed for one image alone, where the page's came out of a batch: equal to three digits while kinks are few."""
    source, x, y = (t[image : image + 1] if isinstance(t, torch.Tensor) else t for t in shown_images)
    page = open_page(PAGE)
    slide(page, strength=strength, steps=steps, image=image)
    q = Quadratic.at(source, x, y)
    beta, m = STRENGTHS[strength] / q.eigenvalues[0].item(), STEPS[steps]
    run = create_attack("pgd", source, norm="none", alpha=beta / m, steps=m).run(x, y, record=True)
    network, closed = run.delta.double().flatten(), q.multi_step(beta / m, m)
    assert shown(page, "network_norm") == pytest.approx(network.norm().item(), rel=6e-3)
    assert shown(page, "gap") == pytest.approx(100 * ((network - closed).norm() / network.norm()).item(), rel=6e-3)
    assert shown(page, "network_rise") == pytest.approx((run.losses[-1] - run.losses[0]).item(), rel=6e-3)
    outside = network - q.modes @ (q.modes.T @ network)
    assert shown(page, "outside") == pytest.approx(100 * (outside.norm() / network.norm()).item(), rel=6e-3)


def test_the_trajectory_is_irlibs(open_page, shown_images):
    """The loss along the way, read off the drawn curves: closed form by the formula, network by recorded steps."""
    source, x, y = shown_images
    page = open_page(PAGE)
    slide(page, strength=4, steps=3, image=1)
    q, m = Quadratic.at(source, x[1:2], y[1:2]), STEPS[3]
    beta = STRENGTHS[4] / q.eigenvalues[0].item()
    run = create_attack("pgd", source, norm="none", alpha=beta / m, steps=m).run(x[1:2], y[1:2], record=True)
    final = (run.losses[-1] - run.losses[0]).item()
    expected = {
        "network": [(loss - run.losses[0]).item() / final for loss in run.losses],
        "closed form": [0] + [q.loss_increase(q.multi_step(beta / m, t)).item() / final for t in range(1, m + 1)],
    }
    for name, values in expected.items():
        drawn = page.locator(f'path[data-series="{name}"]').get_attribute("d")
        heights = [float(point.split(",")[1]) for point in drawn[1:].split("L")]
        bottom, top = heights[0], 8  # the axis runs from 0 to 1.5 between them
        np.testing.assert_allclose([1.5 * (bottom - h) / (bottom - top) for h in heights], values, atol=0.006)


def test_the_closed_forms_picture_is_the_perturbation(open_page, shown_images):
    from irlib.plotting import diverging_colours

    source, x, y = shown_images
    page = open_page(PAGE)
    slide(page, strength=5, steps=6, image=1)
    q = Quadratic.at(source, x[1:2], y[1:2])
    delta = q.infinite_step(1.0 / q.eigenvalues[0].item()).numpy()
    levels = np.rint(127.5 + 127.5 * delta / np.abs(delta).max()).astype(int)
    drawn = np.array(picture(page, 1)).reshape(784, 4)[:, :3]
    allowed = np.stack([diverging_colours()[np.clip(levels + k, 0, 255)] for k in (-1, 0, 1)])  # a rounding apart at most
    assert (np.abs(allowed - drawn).sum(-1).min(0) == 0).all()
    assert f"±{255 * np.abs(delta).max():.3g}/255" == page.locator(".irw-scale").nth(1).inner_text().strip()


def test_each_slider_moves_what_it_should(open_page):
    page = open_page(PAGE)
    for name, pictures in [("strength", {1, 2}), ("steps", {1, 2}), ("image", {0, 1, 2})]:
        before = [picture(page, k) for k in range(3)]
        page.locator(f'input[data-param="{name}"]').focus()
        page.keyboard.press("ArrowRight")
        assert {k for k in range(3) if picture(page, k) != before[k]} == pictures
    label = page.get_by_role("slider", name="steps m")
    label.press("End")
    assert label.get_attribute("aria-valuetext") == "∞"
    assert "and ∞ steps" in page.locator(".irw [aria-live]").inner_text()
    label.press("Home")
    page.get_by_role("button", name="Reset").click()
    assert label.get_attribute("aria-valuetext") == "10"


def test_a_link_restores_its_state(open_page, base):
    page = open_page(PAGE)
    slide(page, strength=6, steps=6, image=3)
    norm = shown(page, "norm")
    href = page.get_by_role("link", name="Link to this state").get_attribute("href")
    assert href == "#strength=1.4&steps=inf&image=3"
    other = open_page(PAGE + href)
    assert shown(other, "norm") == norm
    assert other.locator('input[data-param="image"]').input_value() == "3"
    other.evaluate("location.hash = 'strength=0.05&steps=1'")
    other.wait_for_function("document.querySelector('input[data-param=strength]').value === '0'")
    assert other.locator('input[data-param="image"]').input_value() == "3"
    assert open_page(PAGE + "#the-idea").locator('input[data-param="image"]').input_value() == "0"


def test_without_scripts_and_in_print_there_are_pictures_and_numbers(open_page):
    plain = open_page(PAGE, java_script_enabled=False)
    fallback = plain.locator(".text_html table", has_text="outside the modes")
    assert fallback.is_visible()
    assert plain.locator('.text_html img[alt*="strength"]').is_visible()
    page = open_page(PAGE)
    printed = page.locator(".irw-print table")
    assert not printed.is_visible()
    page.emulate_media(media="print")
    assert printed.is_visible()
    assert not page.locator(".irw").is_visible()


def test_dark_mode_changes_the_curves_colour(open_page):
    strokes = set()
    for scheme in ("light", "dark"):
        strokes.add(open_page(PAGE, scheme=scheme).locator('path[data-series="gap"]').evaluate("e => getComputedStyle(e).stroke"))
    assert len(strokes) == 2
