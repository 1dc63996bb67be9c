"""The chapter's widget on TI in the built page: its numbers are those of smoothed steps, every slider moves what it should."""

import pytest
import torch
import torch.nn.functional as F

from irlib import Quadratic, load_images, load_model
from irlib.attacks.ti import gaussian_line
from irlib.widgets.ti_di_aa import KERNELS, STRENGTHS
from tests.browser.conftest import shown, slide

PAGE = "notebooks/ti-di-aa.html"


def test_the_numbers_are_those_of_smoothed_steps(open_page):
    network = load_model("fmnist-resnet14")
    x, y = load_images("fashion-mnist", 30, seed=0)
    right = network(x).argmax(1) == y
    q = Quadratic.at(network, x[right][21:22], y[right][21:22])
    page = open_page(PAGE)
    slide(page, kernel=3, strength=4, at=1)
    beta, line = STRENGTHS[4] / q.eigenvalues[0].item(), gaussian_line(KERNELS[3])
    kernel = torch.outer(line, line)[None, None]
    delta = torch.zeros_like(q.g)
    for _ in range(2000):
        delta = delta + beta / 2000 * F.conv2d(q.gradient(delta).view(1, 1, 28, 28), kernel, padding=3).flatten()
    plain = q.infinite_step(beta)
    same_beta, length = q.interaction(delta) / q.interaction(plain), delta.norm() / plain.norm()
    for name, value in {"same_beta": same_beta, "length": length, "same_length": same_beta / length**2}.items():
        assert shown(page, name) == pytest.approx(100 * value.item(), rel=6e-3), name
    before = shown(page, "steepest"), shown(page, "same_beta")
    slide(page, strength=7)
    assert shown(page, "steepest") == before[0]
    assert shown(page, "same_beta") != before[1]
    slide(page, kernel=0)
    assert [shown(page, name) for name in ("steepest", "length", "same_beta", "same_length")] == [100] * 4
