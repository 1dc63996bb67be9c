"""The chapter's widget on momentum in the built page: its numbers are those of the recursion, every slider moves what it should."""

import pytest
import torch

from irlib import Quadratic, load_images, load_model
from irlib.widgets.mi import MEMORIES, STEPS, STRENGTHS
from tests.browser.conftest import shown, slide

PAGE = "notebooks/mi.html"


def test_the_numbers_are_those_of_the_recursion(open_page):
    network = load_model("fmnist-resnet14")
    x, y = load_images("fashion-mnist", 30, seed=0)
    right = network(x).argmax(1) == y
    q = Quadratic.at(network, x[right][21:22], y[right][21:22])
    page = open_page(PAGE)
    slide(page, strength=7, number=3, memory=1, at=1)
    beta, m, memory = STRENGTHS[7] / q.eigenvalues[0].item(), STEPS[3], MEMORIES[1]
    plain, delta, past, weight = torch.zeros_like(q.g), torch.zeros_like(q.g), torch.zeros_like(q.g), 0.0
    for _ in range(m):
        plain = plain + beta / m * q.gradient(plain)
        past, weight = memory * past + q.gradient(delta), memory * weight + 1
        delta = delta + beta / m * past / weight
    same_beta = q.interaction(delta) / q.interaction(plain)
    expected = {
        "first": q.modes[:, 0] @ delta / (beta * q.gamma[0]),
        "plain_first": q.modes[:, 0] @ plain / (beta * q.gamma[0]),
        "length": 100 * delta.norm() / plain.norm(),
        "same_beta": 100 * same_beta,
        "same_length": 100 * same_beta * (plain @ plain) / (delta @ delta),
    }
    for name, value in expected.items():
        assert shown(page, name) == pytest.approx(value.item(), rel=6e-3), name
    slide(page, memory=0)
    assert [shown(page, name) for name in ("length", "same_beta", "same_length")] == [100, 100, 100]
    before = shown(page, "plain_first")
    slide(page, number=6, memory=3)
    assert shown(page, "plain_first") > before > shown(page, "first")
