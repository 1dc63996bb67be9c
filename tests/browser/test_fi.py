"""FI's theory widget in the built page: the masked game's total is that of all its masks, and the sliders move what they should."""

import pytest
import torch

from irlib import AttackGame, create_attack, load_images, load_model
from irlib.transfer import all_right
from irlib.widgets.fi import ATTACKS, KEEPS
from tests.browser.conftest import shown, slide


def total(v):
    """Eq. 12 of a table of 512 values."""
    units = [1 << a for a in range(9)]
    return float(sum(v[511] - v[511 - unit] - v[unit] + v[0] for unit in units))


def test_the_masked_total_is_the_mean_over_all_masks(open_page):
    model = load_model("fmnist-resnet14")
    x, y = (t[:4] for t in all_right(*load_images("fashion-mnist", 30, seed=0), [model]))
    page = open_page("notebooks/fi.html")
    sets = torch.arange(512)
    size = sum(sets >> a & 1 for a in range(9)).double()
    for q, made_by, pictured in [(3, 0, 0), (5, 1, 2)]:
        slide(page, q=q, made_by=made_by, pictured=pictured)
        image, label = x[pictured : pictured + 1], y[pictured : pictured + 1]
        delta = create_attack(ATTACKS[made_by], model)(image, label) - image
        v = AttackGame(model, image, delta, label, grid=3)((sets[:, None] >> torch.arange(9) & 1).bool())[0]
        masked = (v[sets[:, None] & sets] * KEEPS[q] ** size * (1 - KEEPS[q]) ** (9 - size)).sum(1)
        assert shown(page, "total") == pytest.approx(total(v), rel=2e-2)  # the signs of a batch and of one image may round apart
        assert shown(page, "masked_total") == pytest.approx(total(masked), rel=2e-2)
        assert shown(page, "square") == pytest.approx(100 * KEEPS[q] ** 2, rel=6e-3)
    slide(page, q=0)
    assert shown(page, "share") == 100
