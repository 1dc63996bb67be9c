"""The theory widget of the chapter on VR in the built page: its numbers are irlib's, and its sliders move what they should."""

import math

import pytest

from irlib import load_images, load_model
from irlib.balance import kappa, noisy
from irlib.transfer import all_right
from irlib.widgets.vr import bowls
from tests.browser.conftest import shown, slide

NAMES = ("fmnist-mlp", "fmnist-resnet14", "fmnist-densenet22", "fmnist-vgg")
SIGMAS = (2, 4, 8, 15, 30, 60)


def test_noise_moves_the_prediction_and_leaves_the_clean_one(open_page):
    page = open_page("notebooks/vr.html")
    models = [load_model(name) for name in NAMES]
    x, y = all_right(*load_images("fashion-mnist", 60, seed=1), models)
    slide(page, network=3, picture=1)
    bowl = bowls(models[3], x[1:2], y[1:2])[0]
    fell = []
    for stop in (0, 5):
        slide(page, noise=stop)
        tau = SIGMAS[stop] / 255 * math.sqrt(kappa(bowl.gram))
        assert shown(page, "clean_true") == pytest.approx(bowl.p[bowl.y].item(), rel=5.01e-3)
        assert shown(page, "tau") == pytest.approx(tau, rel=5.01e-3)
        assert shown(page, "eighth_true") == pytest.approx(noisy(bowl.p, tau)[bowl.y].item(), rel=5.01e-3)
        fell.append(shown(page, "network_true"))
    assert fell[1] < fell[0]
    slide(page, network=0)
    assert shown(page, "tau") < tau
