"""The chapter's widget in the built page: Theorem 1's bars add up, and the numbers shown are irlib's."""

import numpy as np
import pytest
import torch

from irlib import AttackGame, create_attack, interaction_matrix, load_images, load_model
from irlib.widgets.orders import EPSILONS
from tests.browser.conftest import shown, slide

PAGE = "notebooks/orders.html"
NETWORKS = ("fmnist-resnet14", "fmnist-vgg", "fmnist-densenet22", "fmnist-mlp")


@pytest.fixture(scope="module")
def shown_images():
    models = [load_model(name) for name in NETWORKS]
    x, y = load_images("fashion-mnist", 10, seed=0)
    right = torch.stack([m(x).argmax(1) == y for m in models]).all(0)
    return models, x[right][:4], y[right][:4]


@pytest.mark.parametrize(("eps", "network", "image"), [(0, 3, 0), (3, 0, 1), (1, 3, 3)])
def test_the_numbers_are_irlibs_and_add_up(open_page, shown_images, eps, network, image):
    models, x, y = shown_images
    page = open_page(PAGE)
    slide(page, eps=eps, network=network, image=image)
    x, y, e = x[image : image + 1], y[image : image + 1], EPSILONS[eps]
    delta = create_attack("pgd", models[network], eps=e / 255, alpha=e / 2040, steps=10)(x, y) - x
    game = AttackGame(models[network], x, delta, y, grid=3)
    mean = [float(interaction_matrix(game, order=s).sum()) / 72 for s in range(8)]
    single = float(game(torch.eye(9, dtype=torch.bool)).sum())
    expected = {
        "whole": float(game(torch.ones(1, 9, dtype=torch.bool))),
        "single": single,
        "low": sum((8 - s) * mean[s] for s in range(4)),
        "high": sum((8 - s) * mean[s] for s in range(4, 8)),
        "first": mean[0],
        "last": mean[7],
    }
    for name, value in expected.items():
        assert shown(page, name) == pytest.approx(value, rel=8e-3, abs=1e-5), name
    assert shown(page, "single") + shown(page, "low") + shown(page, "high") == pytest.approx(shown(page, "whole"), rel=0.02)


def test_each_slider_moves_the_bars_and_the_start_is_the_strongest(open_page):
    page = open_page(PAGE)
    assert page.locator('input[data-param="eps"]').input_value() == str(len(EPSILONS) - 1)
    for name in ("network", "image", "eps"):
        before = [shown(page, "whole"), shown(page, "low")]
        page.locator(f'input[data-param="{name}"]').focus()
        page.keyboard.press("ArrowLeft" if name == "eps" else "ArrowRight")
        assert not np.allclose(before, [shown(page, "whole"), shown(page, "low")])
