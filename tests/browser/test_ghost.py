"""The chapter's widget on ghosts in the built page: its numbers are those of networks drawn here, and averaging moves what it should."""

import pytest
import torch

from irlib import Quadratic, load_images, load_model
from irlib.transfer import all_right
from irlib.widgets.ghost import DRAWN, DROPOUTS, RANGES, ghosts
from tests.browser.conftest import shown, slide

PAGE = "notebooks/ghost.html"
NETWORKS = ("fmnist-resnet14", "fmnist-densenet22", "fmnist-vgg", "fmnist-resnet26")
TARGETS = ("fmnist-alexnet", "fmnist-inception3", "fmnist-seresnet", "fmnist-densenet40")


def degrees(page):
    return float(page.locator('[data-readout="angle"]').inner_text().strip().rstrip("°"))


def test_the_numbers_are_those_of_ghosts_drawn_here(open_page):
    models = [load_model(name) for name in (*NETWORKS, *TARGETS)]
    x, y = all_right(*load_images("fashion-mnist", 60, seed=1), models)
    at = int((y == 7).nonzero()[0])
    image, label = x[at : at + 1], y[at : at + 1]
    found = ghosts(models[0], image, label, DRAWN, skip_range=RANGES[3], dropout=DROPOUTS[1])
    q = Quadratic.at(models[0], image, label)
    curved = lambda d: (q.interaction(d) / (d @ d)).item()
    page = open_page(PAGE)
    slide(page, skip=3, drop=1, averaged=0, photo=1)
    single = 100 * sum(curved(g) for g in found.g[:, 0]) / DRAWN / curved(q.g)
    assert shown(page, "kept") == pytest.approx(single, rel=0.01)
    slide(page, averaged=3)
    mean = found.g[:, 0].mean(0)
    angle = torch.nn.functional.cosine_similarity(mean, q.g, dim=0).arccos().rad2deg().item()
    assert shown(page, "kept") == pytest.approx(100 * curved(mean) / curved(q.g), rel=0.01)
    assert degrees(page) == pytest.approx(angle, rel=0.01)
    slide(page, skip=0, drop=0)
    assert [degrees(page), *(shown(page, name) for name in ("noise", "kept", "tilt", "predicted"))] == [0, 0, 100, 100, 100]
