"""The chapter's theory widget in the built page: another network, another loss, and the numbers are irlib's."""

import pytest
import torch

from irlib import Quadratic, load_images, load_model
from irlib.transfer import all_right
from irlib.widgets.fd import OwnQuestion
from tests.browser.conftest import picture, shown, slide

PAGE = "notebooks/fd.html"


def test_network_and_loss_change_the_bowl_and_the_numbers_are_irlibs(open_page):
    names = ("fmnist-resnet14", "fmnist-vgg")
    pairs = [(load_model(name), load_model(f"{name}-fd")) for name in names]
    x, y = all_right(*load_images("fashion-mnist", 60, seed=1), [*(deep for deep, _ in pairs), *(heads for _, heads in pairs)])
    page = open_page(PAGE)
    for net, asked, photo in ((0, 0, 0), (1, 0, 2), (1, 1, 3)):
        slide(page, net=net, asked=asked, photo=photo)
        (deep, heads), image, label = pairs[net], x[photo : photo + 1], y[photo : photo + 1]
        ours = Quadratic.at(heads, image, label) if asked else Quadratic.at(OwnQuestion(heads, int(label)), image, torch.zeros_like(label))
        assert shown(page, "deep_first") == pytest.approx(float(Quadratic.at(deep, image, label).eigenvalues[0]), rel=6e-3)
        assert shown(page, "heads_first") == pytest.approx(float(ours.eigenvalues[0]), rel=6e-3)
    before = picture(page, 7)
    slide(page, photo=0)
    assert picture(page, 7) != before
