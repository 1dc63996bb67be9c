"""The chapter's widget on damped branches in the built page: its numbers are those of the attack's own gradient, and γ moves what it should."""

import math
from copy import deepcopy

import pytest
import torch

from irlib import Quadratic, create_attack, load_images, load_model
from irlib.transfer import all_right
from irlib.widgets.sgm import KEPT
from tests.browser.conftest import shown, slide

PAGE = "notebooks/sgm.html"
SOURCES = ("fmnist-resnet14", "fmnist-densenet22", "fmnist-resnet26")
TARGETS = ("fmnist-alexnet", "fmnist-vgg", "fmnist-inception3", "fmnist-seresnet")


def degrees(page):
    return float(page.locator('[data-readout="angle"]').inner_text().strip().rstrip("°"))


def test_the_numbers_are_those_of_the_attacks_gradient(open_page):
    models = [load_model(name) for name in SOURCES]
    x, y = all_right(*load_images("fashion-mnist", 60, seed=1), [*models, *map(load_model, TARGETS)])
    at = int((y == 8).nonzero()[0])
    image, label, network = x[at : at + 1].double(), y[at : at + 1], deepcopy(models[1]).double()
    page = open_page(PAGE)
    slide(page, kept=5, net=1, photo=2)
    q = Quadratic.at(network, image, label)
    g = create_attack("sgm", network, gamma=KEPT[5], norm="none", alpha=1.0, steps=1).run(image, label).delta.flatten()
    cosine = (g @ q.g / (g.norm() * q.g.norm())).item()
    kept = (q.interaction(g) / (g @ g) / (q.interaction(q.g) / (q.g @ q.g))).item()
    assert degrees(page) == pytest.approx(math.degrees(math.acos(cosine)), rel=6e-3)
    assert shown(page, "length") == pytest.approx(100 * (g.norm() / q.g.norm()).item(), rel=6e-3)
    assert shown(page, "single") == pytest.approx(100 * kept, rel=6e-3)
    assert shown(page, "tilt") == pytest.approx(100 * cosine**2, rel=0.02)
    slide(page, kept=10)
    assert [degrees(page), *(shown(page, name) for name in ("length", "single", "many", "tilt"))] == [0, 100, 100, 100, 100]
    before = torch.tensor([shown(page, name) for name in ("single", "many")])
    slide(page, kept=2, strength=3)
    assert (torch.tensor([shown(page, name) for name in ("single", "many")]) < before).all()
